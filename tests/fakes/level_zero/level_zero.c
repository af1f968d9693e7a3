/* A stand-in for libze_loader.so.1 that answers from a text file: the real boundary of Level Zero Sysman without a GPU.
 *
 * The environment variable STACKWRIGHT_FAKE_LEVEL_ZERO names the file; without it, zesInit answers
 * ZE_RESULT_ERROR_UNINITIALIZED, as where no driver is. Build it and point LD_LIBRARY_PATH at its folder with
 * tests/fakes/level_zero/__init__.py. One statement a line; `#` begins a comment line.
 *
 *   device 0 pci 0000:03:00.0
 *   device 0 name Intel(R) Arc(TM) B580 Graphics    the rest of the line
 *   device 0 module 0 12884901888             a memory module: physical bytes, 0 where unknown, and its state's bytes
 *   device 0 system 33554432 0                a module in the processor's memory
 *   device 0 integrated                       it is the processor's own
 *   say TEXT                                  zesInit writes it on stdout
 *   fail zesMemoryGetState 0x70010000 1       this function answers this error, here only for device 1
 *   crash zesInit                             it aborts the process; so for every function
 *   hang zesInit                              it never comes back
 *
 * Structures and numbers: zes_api.h and ze_api.h of oneapi-src/level-zero v1.32.0.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEVICES = 8, MODULES = 4, RULES = 8, TEXT = 96, ANY = -1 };
enum { OK = 0, UNINITIALIZED = 0x78000001, INVALID_ARGUMENT = 0x78000004, INVALID_NULL_HANDLE = 0x78000005 };
enum { DEVICE_PROPERTIES = 0x1, PCI_PROPERTIES = 0x2, MEM_PROPERTIES = 0xb, MEM_STATE = 0x1e, CORE_PROPERTIES = 0x3 };

struct module { int device; uint32_t location; uint64_t physical, size; };
struct device { unsigned domain, bus, slot, function; char name[TEXT]; uint32_t flags; int modules; struct module module[MODULES]; };
struct rule { char verb[8], function[TEXT]; int code, device; };

struct pci { uint32_t stype; void *next; uint32_t domain, bus, slot, function; int32_t gen, width; int64_t speed; uint8_t has[3]; };
struct core {
    uint32_t stype; void *next; uint32_t type, vendor, device, flags, subdevice, clock; uint64_t allocation;
    uint32_t counts[7]; uint64_t resolution; uint32_t bits[2]; uint8_t uuid[16]; char name[256];
};
struct properties { uint32_t stype; void *next; struct core core; uint32_t subdevices; char texts[6][64]; };
struct memory {
    uint32_t stype; void *next; uint32_t type; uint8_t on_subdevice; uint32_t subdevice, location; uint64_t physical;
    int32_t width, channels;
};
struct state { uint32_t stype; const void *next; uint32_t health; uint64_t free, size; };

static struct device devices[DEVICES];
static struct rule rules[RULES];
static int device_count, rule_count, begun;
static char said[TEXT];

static int read_device(int number, const char *key, const char *rest) {
    if (number < 0 || number >= DEVICES) return 0;
    struct device *device = &devices[number];
    if (number >= device_count) device_count = number + 1;
    if (!strcmp(key, "pci"))
        return sscanf(rest, "%x:%x:%x.%x", &device->domain, &device->bus, &device->slot, &device->function) == 4;
    if (!strcmp(key, "integrated")) return device->flags = 1;
    if (!strcmp(key, "name")) return snprintf(device->name, TEXT, "%s", rest) < TEXT;
    if (device->modules == MODULES || (strcmp(key, "module") && strcmp(key, "system"))) return 0;
    struct module *module = &device->module[device->modules++];
    *module = (struct module){.device = number, .location = !strcmp(key, "module")};
    return sscanf(rest, "%lu %lu", &module->physical, &module->size) == 2;
}

static int read_line(const char *line) {
    char verb[TEXT], key[TEXT];
    int number, at = 0;
    if (sscanf(line, "device %d %95s %n", &number, key, &at) == 2 && at) return read_device(number, key, line + at);
    if (sscanf(line, "say %95[^\n]", said) == 1) return 1;
    if (rule_count == RULES || sscanf(line, "%7s", verb) != 1) return 0;
    struct rule *rule = &rules[rule_count++];
    *rule = (struct rule){.device = ANY};
    strcpy(rule->verb, verb);
    if (sscanf(line, "fail %95s %i %d", rule->function, &rule->code, &rule->device) >= 2) return 1;
    return sscanf(line, "crash %95s", rule->function) == 1 || sscanf(line, "hang %95s", rule->function) == 1;
}

static int read_answers(const char *path) {
    char line[256];
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return UNINITIALIZED;
    int code = OK;
    while (code == OK && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] && line[0] != '#' && !read_line(line)) code = INVALID_ARGUMENT;
    }
    fclose(file);
    return code;
}

static int refused(const char *function, int device) {
    for (int i = 0; i < rule_count; i++) {
        struct rule *rule = &rules[i];
        if (strcmp(rule->function, function) || (rule->device != ANY && rule->device != device)) continue;
        if (rule->verb[0] == 'c') abort();
        while (rule->verb[0] == 'h') pause();
        return rule->code;
    }
    return begun ? OK : UNINITIALIZED;
}

#define REFUSE(device) do { int code_ = refused(__func__, device); if (code_) return code_; } while (0)
#define EXPECT(given, type) do { if ((given)->stype != (type) || (given)->next) return INVALID_ARGUMENT; } while (0)

/* A handle is the address of what it stands for. */
#define OWN(handle, rows) ((char *)(handle) >= (char *)(rows) && (char *)(handle) < (char *)(rows) + sizeof(rows))

static int give(uint32_t *count, void **handles, char *first, size_t step, int found) {
    if (!count) return INVALID_ARGUMENT;
    int given = handles && *count < (uint32_t)found ? (int)*count : found;
    for (int i = 0; handles && i < given; i++) handles[i] = first + i * step;
    *count = given;
    return OK;
}

int zesInit(uint32_t flags) {
    int code = read_answers(getenv("STACKWRIGHT_FAKE_LEVEL_ZERO"));
    begun = code == OK;
    if (code) return code;
    if (said[0]) puts(said);
    REFUSE(ANY);
    return flags ? INVALID_ARGUMENT : OK;
}

int zesDriverGet(uint32_t *count, void **handles) {
    REFUSE(ANY);
    return give(count, handles, (char *)&devices, 0, 1);
}

int zesDeviceGet(void *driver, uint32_t *count, void **handles) {
    REFUSE(ANY);
    if (driver != &devices) return INVALID_NULL_HANDLE;
    return give(count, handles, (char *)devices, sizeof *devices, device_count);
}

int zesDevicePciGetProperties(struct device *device, struct pci *pci) {
    if (!OWN(device, devices)) return INVALID_NULL_HANDLE;
    REFUSE((int)(device - devices));
    EXPECT(pci, PCI_PROPERTIES);
    pci->domain = device->domain, pci->bus = device->bus, pci->slot = device->slot, pci->function = device->function;
    memset(pci->has, 1, sizeof pci->has);
    return OK;
}

int zesDeviceGetProperties(struct device *device, struct properties *properties) {
    if (!OWN(device, devices)) return INVALID_NULL_HANDLE;
    REFUSE((int)(device - devices));
    EXPECT(properties, DEVICE_PROPERTIES);
    EXPECT(&properties->core, CORE_PROPERTIES);
    strcpy(properties->core.name, device->name);
    properties->core.flags = device->flags;
    memset(properties->texts, 'x', sizeof properties->texts);
    return OK;
}

int zesDeviceEnumMemoryModules(struct device *device, uint32_t *count, void **handles) {
    if (!OWN(device, devices)) return INVALID_NULL_HANDLE;
    REFUSE((int)(device - devices));
    return give(count, handles, (char *)device->module, sizeof *device->module, device->modules);
}

int zesMemoryGetProperties(struct module *module, struct memory *memory) {
    if (!OWN(module, devices)) return INVALID_NULL_HANDLE;
    REFUSE(module->device);
    EXPECT(memory, MEM_PROPERTIES);
    memory->location = module->location;
    memory->physical = module->physical;
    memory->width = memory->channels = -1;
    return OK;
}

int zesMemoryGetState(struct module *module, struct state *state) {
    if (!OWN(module, devices)) return INVALID_NULL_HANDLE;
    REFUSE(module->device);
    EXPECT(state, MEM_STATE);
    state->free = module->size / 2;
    state->size = module->size;
    return OK;
}
