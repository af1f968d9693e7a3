/* A stand-in for libnvidia-ml.so.1 that answers from a text file: the real NVML boundary without a GPU.
 *
 * The environment variable STACKWRIGHT_FAKE_NVML names the file. Build it and point LD_LIBRARY_PATH at its folder
 * with tests/fakes/nvml/__init__.py. What the file does not state is NVML_ERROR_NOT_SUPPORTED (3), as on hardware
 * without the feature; without the variable, nvmlInit answers NVML_ERROR_DRIVER_NOT_LOADED (9).
 *
 * One statement a line; `#` begins a comment line. A later line wins. GPU and lane numbers are `2` or a range `0-7`.
 *
 *   system driver_version 580.95.05
 *   system cuda_version 13000                 as NVML says it: 1000 x major + 10 x minor
 *   gpu 0-1 name NVIDIA GeForce RTX 3090      the rest of the line; so for every key with text
 *   gpu 0 uuid GPU-...                        one a GPU; GPUs are counted by the highest index that is named
 *   gpu 0-1 memory 25769803776 325058560      total and used bytes
 *   gpu 0-1 compute_capability 8.6
 *   gpu 0 pci_bus_id 00000000:01:00.0
 *   gpu 0-1 mig 0                             current MIG mode
 *   slice 0 1 uuid MIG-...                    MIG device 1 of GPU 0, which needs `gpu 0 mig 1`; each number that is named exists
 *   slice 0 1 name NVIDIA A100-SXM4-40GB MIG 3g.20gb
 *   slice 0 1 memory 21072183296 11534336     total and used bytes
 *   slice 0 1 gpu_instance 2
 *   gpu 0 lane 0-3 gpu 1 5                    NVLink lanes: active, to that GPU, nvmlDeviceGetNvLinkVersion's number
 *   gpu 0 lane 0-17 switch 7                  NVLink lanes that end in an NVSwitch
 *   gpu 0 lane 0-3 off                        NVLink lanes without a peer
 *   gpu 0 process 4711 1073741824             a process that computes on it, with the bytes that it holds; several may
 *   gpu 0 process 4711 1073741824 2           the same, on the MIG slice of that GPU instance
 *   gpu 0 process 4712                        the same, as where NVML does not tell its bytes
 *   gpu 0 no_processes                        asked for its processes, it answers that there are none
 *   gpu 0 ecc 3                               uncorrected errors since the driver was loaded
 *   gpu 0 rows_broken 1                       whether a row of its memory could not be replaced
 *   gpu 0 busy 97                             percent of the time in which a kernel ran
 *   gpu 0 temperature 71                      degrees Celsius
 *   gpu 0 power 312000 350000                 milliwatts now, and the limit that is enforced
 *   gpu 0 clock 1695                          MHz of the multiprocessors
 *   gpu 0 slowed 36                           nvmlClocksEventReason bits: 4 power limit, 32 heat
 *   gpu 0 traffic 1000 2000                   KiB that each NVLink lane has sent and received
 *   gpu 0 lane_errors 1 2 3 4                 of each NVLink lane: replay, recovery, CRC of flits, CRC of data
 *   gpu 0 xid 79                              a fault that comes once its events are registered; several may
 *   pair 0-1 0-1 ancestor 30                  nvmlGpuTopologyLevel_t, both ways
 *   pair 0-1 0-1 p2p 0                        nvmlGpuP2PStatus_t for reading, both ways
 *   pair 0 1 reads 5                          the same, only for the first reading the second
 *   fail nvmlInitWithFlags 18                 this function always answers this error
 *   fail nvmlDeviceGetHandleByIndex_v2 15 gpu 1    only for that GPU (either one of a pair)
 *   fail nvmlDeviceGetName 4 slice 0 1        only for that MIG device
 *   missing nvmlDeviceGetMigMode              as a driver without this function: answers 13 (FUNCTION_NOT_FOUND);
 *                                             build_fake_nvml(..., answers) leaves the symbol out altogether
 *
 * Signatures, structures and numbers: nvml.h, as bound by nvidia-ml-py 13.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GPUS = 32, LANES = 36, SLICES = 7, RULES = 64, TEXT = 96 };
enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { FUNCTION_NOT_FOUND = 13, UNKNOWN = 999, TO_GPU = 0, TO_SWITCH = 2, UNSET = -1 };

struct lane { int known, active, type, peer; unsigned version; };

struct slice {
    char name[TEXT], uuid[TEXT];
    unsigned long long total, used;
    int known, has_memory, instance;
};

struct gpu {
    char name[TEXT], uuid[TEXT], bus[TEXT];
    unsigned long long total, used;
    int has_memory, major, minor, mig, lanes;
    struct lane lane[LANES];
    struct slice slice[SLICES];
};

struct rule { char function[TEXT]; int code, device; };

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
struct memory { unsigned long long total, free, used; };

static struct gpu gpus[GPUS];
static struct rule rules[RULES];
static int ancestor[GPUS][GPUS], p2p[GPUS][GPUS];
static int gpu_count, rule_count, cuda_version;
static char driver_version[TEXT];

/* Reading the answers. */

static int range(const char *word, int limit, int *first, int *last) {
    char *end;
    if (!word) return 0;
    *first = *last = (int)strtol(word, &end, 10);
    if (*end == '-') *last = (int)strtol(end + 1, &end, 10);
    return *end == 0 && *first >= 0 && *first <= *last && *last < limit;
}

static int copy(char *into, const char *text) {
    if (!text || strlen(text) >= TEXT) return 0;
    strcpy(into, text);
    return 1;
}

static int read_lane(struct gpu *gpu, char *rest) {
    char span[TEXT], kind[TEXT];
    int first, last, peer = UNSET, fields;
    unsigned version = 0;
    if (!rest || (fields = sscanf(rest, "%95s %95s", span, kind)) != 2 || !range(span, LANES, &first, &last)) return 0;
    if (!strcmp(kind, "gpu")) {
        if (sscanf(rest, "%*s %*s %d %u", &peer, &version) != 2 || peer < 0 || peer >= GPUS) return 0;
    } else if (!strcmp(kind, "switch")) {
        if (sscanf(rest, "%*s %*s %u", &version) != 1) return 0;
    } else if (strcmp(kind, "off")) {
        return 0;
    }
    for (int i = first; i <= last; i++) {
        int type = !strcmp(kind, "switch") ? TO_SWITCH : TO_GPU;
        gpu->lane[i] = (struct lane){1, strcmp(kind, "off") != 0, type, peer, version};
        if (i >= gpu->lanes) gpu->lanes = i + 1;
    }
    return 1;
}

/* What a device is doing now, apart from what it is. */

enum { PROCESSES = 8 };

struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
struct now {
    int listed, processes, ecc, rows_broken, busy, temperature, power, power_limit, clock, slowed, xids, registered;
    struct process process[PROCESSES];
    unsigned xid[PROCESSES];
    unsigned long long sent, received, lane_errors[4];
    int has_traffic, has_lane_errors;
};

static struct now now[GPUS];

static int read_process(struct now *device, const char *rest) {
    unsigned pid, instance = ~0u;
    unsigned long long used = ~0ULL; /* NVML_VALUE_NOT_AVAILABLE */
    if (!rest || device->processes == PROCESSES || sscanf(rest, "%u %llu %u", &pid, &used, &instance) < 1) return 0;
    device->process[device->processes++] = (struct process){pid, used, instance, ~0u};
    return device->listed = 1;
}

static int read_load(struct now *device, const char *key, const char *rest) {
    if (!strcmp(key, "busy")) return sscanf(rest, "%d", &device->busy) == 1;
    if (!strcmp(key, "temperature")) return sscanf(rest, "%d", &device->temperature) == 1;
    if (!strcmp(key, "power")) return sscanf(rest, "%d %d", &device->power, &device->power_limit) >= 1;
    if (!strcmp(key, "clock")) return sscanf(rest, "%d", &device->clock) == 1;
    if (!strcmp(key, "slowed")) return sscanf(rest, "%d", &device->slowed) == 1;
    if (!strcmp(key, "traffic")) return device->has_traffic = sscanf(rest, "%llu %llu", &device->sent, &device->received) == 2;
    unsigned long long *errors = device->lane_errors;
    if (!strcmp(key, "lane_errors"))
        return device->has_lane_errors =
            sscanf(rest, "%llu %llu %llu %llu", errors, errors + 1, errors + 2, errors + 3) == 4;
    if (strcmp(key, "xid") || device->xids == PROCESSES) return 0;
    return sscanf(rest, "%u", &device->xid[device->xids++]) == 1;
}

static int read_now(struct now *device, const char *key, const char *rest) {
    if (rest && read_load(device, key, rest)) return 1;
    if (!strcmp(key, "process")) return read_process(device, rest);
    if (!strcmp(key, "no_processes")) return device->listed = 1;
    if (!strcmp(key, "ecc")) return rest && sscanf(rest, "%d", &device->ecc) == 1;
    if (!strcmp(key, "rows_broken")) return rest && sscanf(rest, "%d", &device->rows_broken) == 1;
    return 0;
}

static int read_gpu(struct gpu *gpu, const char *key, char *rest) {
    if (!strcmp(key, "name")) return copy(gpu->name, rest);
    if (!strcmp(key, "uuid")) return copy(gpu->uuid, rest);
    if (!strcmp(key, "pci_bus_id")) return copy(gpu->bus, rest);
    if (!strcmp(key, "lane")) return read_lane(gpu, rest);
    if (!rest) return 0;
    if (!strcmp(key, "memory")) return gpu->has_memory = sscanf(rest, "%llu %llu", &gpu->total, &gpu->used) == 2;
    if (!strcmp(key, "compute_capability")) return sscanf(rest, "%d.%d", &gpu->major, &gpu->minor) == 2;
    if (!strcmp(key, "mig")) return sscanf(rest, "%d", &gpu->mig) == 1;
    return 0;
}

static int read_slice(struct slice *slice, const char *key, char *rest) {
    slice->known = 1;
    if (!rest) return 0;
    if (!strcmp(key, "name")) return copy(slice->name, rest);
    if (!strcmp(key, "uuid")) return copy(slice->uuid, rest);
    if (!strcmp(key, "memory")) return slice->has_memory = sscanf(rest, "%llu %llu", &slice->total, &slice->used) == 2;
    if (!strcmp(key, "gpu_instance")) return sscanf(rest, "%d", &slice->instance) == 1;
    return 0;
}

static int read_pair(char *rest) {
    char left[TEXT], right[TEXT], key[TEXT];
    int value, a, b, c, d;
    if (!rest || sscanf(rest, "%95s %95s %95s %d", left, right, key, &value) != 4) return 0;
    if (!range(left, GPUS, &a, &b) || !range(right, GPUS, &c, &d)) return 0;
    int both = strcmp(key, "reads") != 0;
    int (*table)[GPUS] = !strcmp(key, "ancestor") ? ancestor : !strcmp(key, "p2p") || !both ? p2p : NULL;
    if (!table) return 0;
    for (int i = a; i <= b; i++)
        for (int j = c; j <= d; j++) {
            table[i][j] = value;
            if (both) table[j][i] = value;
        }
    return 1;
}

/* GPUs are numbered first, then every slice that there may be. */
static int slice_number(int gpu, int slice) { return GPUS + gpu * SLICES + slice; }

static int add_rule(const char *function, int code, int device) {
    if (!function || rule_count == RULES || !copy(rules[rule_count].function, function)) return 0;
    rules[rule_count].code = code;
    rules[rule_count++].device = device;
    return 1;
}

static int read_failure(const char *rest) {
    char function[TEXT];
    int code, gpu, slice;
    if (!rest) return 0;
    if (sscanf(rest, "%95s %d slice %d %d", function, &code, &gpu, &slice) == 4)
        return add_rule(function, code, slice_number(gpu, slice));
    if (sscanf(rest, "%95s %d gpu %d", function, &code, &gpu) == 3) return add_rule(function, code, gpu);
    return sscanf(rest, "%95s %d", function, &code) == 2 && add_rule(function, code, UNSET);
}

static int read_line(char *line) {
    char *rest = line, *verb = strsep(&rest, " "), *word;
    int first, last, slice;
    if (!strcmp(verb, "pair")) return read_pair(rest);
    if (!strcmp(verb, "missing")) return add_rule(rest, FUNCTION_NOT_FOUND, UNSET);
    if (!strcmp(verb, "fail")) return read_failure(rest);
    if (!rest || !(word = strsep(&rest, " "))) return 0;
    if (!strcmp(verb, "system") && !strcmp(word, "driver_version")) return copy(driver_version, rest);
    if (!strcmp(verb, "system") && !strcmp(word, "cuda_version")) return rest && sscanf(rest, "%d", &cuda_version) == 1;
    if (!range(word, GPUS, &first, &last) || !rest) return 0;
    char *key = strsep(&rest, " ");
    if (!strcmp(verb, "slice")) {
        if (!range(key, SLICES, &slice, &slice) || !rest) return 0;
        key = strsep(&rest, " ");
        return read_slice(&gpus[first].slice[slice], key, rest);
    }
    if (strcmp(verb, "gpu")) return 0;
    if (last >= gpu_count) gpu_count = last + 1;
    for (int i = first; i <= last; i++)
        if (!read_now(&now[i], key, rest) && !read_gpu(&gpus[i], key, rest)) return 0;
    return 1;
}

static int read_answers(const char *path) {
    char line[512], shown[512];
    FILE *file = fopen(path, "r");
    if (!file) return UNKNOWN;
    gpu_count = rule_count = cuda_version = 0;
    driver_version[0] = 0;
    memset(gpus, 0, sizeof gpus);
    memset(now, 0, sizeof now);
    for (int i = 0; i < GPUS; i++) {
        struct now *device = &now[i];
        device->ecc = device->rows_broken = device->busy = device->temperature = UNSET;
        device->power = device->power_limit = device->clock = device->slowed = UNSET;
    }
    memset(ancestor, UNSET, sizeof ancestor);
    memset(p2p, UNSET, sizeof p2p);
    for (int i = 0; i < GPUS; i++) {
        gpus[i].mig = gpus[i].major = UNSET;
        for (int j = 0; j < SLICES; j++) gpus[i].slice[j].instance = UNSET;
    }
    int code = OK;
    while (code == OK && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        strcpy(shown, line);
        if (!line[0] || line[0] == '#' || read_line(line)) continue;
        fprintf(stderr, "fake nvml: %s: not understood: %s\n", path, shown);
        code = UNKNOWN;
    }
    fclose(file);
    return code;
}

/* What every entry point asks first. */

static int refused(const char *function, int a, int b) {
    for (int i = rule_count - 1; i >= 0; i--) {
        int device = rules[i].device;
        if (!strcmp(rules[i].function, function) && (device == UNSET || device == a || device == b)) return rules[i].code;
    }
    return OK;
}

#define INDEX(device) ((int)((char *)(device) - (char *)0) - 1) /* a handle is the index plus one, never NULL */
#define REFUSE(a, b) do { int code_ = refused(__func__, a, b); if (code_) return code_; } while (0)
#define DEVICE(device, g) int g = INDEX(device); if (g < 0 || g >= gpu_count) return INVALID_ARGUMENT; REFUSE(g, g)

/* The slice that a handle stands for, NULL where it is a GPU's. */
static struct slice *slice_of(void *device) {
    int number = INDEX(device) - GPUS;
    return number < 0 || number >= GPUS * SLICES ? NULL : &gpus[number / SLICES].slice[number % SLICES];
}

#define SLICE(device, s) struct slice *s = slice_of(device); if (s) REFUSE(INDEX(device), INDEX(device))

static int give_text(const char *text, char *into, unsigned length) {
    if (!text[0]) return NOT_SUPPORTED;
    if (strlen(text) >= length) return INSUFFICIENT_SIZE;
    strcpy(into, text);
    return OK;
}

static int give_pci(const char *bus_id, struct pci *pci) {
    if (!bus_id[0]) return NOT_SUPPORTED;
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%s", bus_id);
    sscanf(bus_id, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    return OK;
}

/* The entry points, named as in nvml.h. */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const char *path = getenv("STACKWRIGHT_FAKE_NVML");
    int code = path ? read_answers(path) : DRIVER_NOT_LOADED;
    if (code) return code;
    REFUSE(UNSET, UNSET);
    return OK;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    REFUSE(UNSET, UNSET);
    return OK;
}

const char *nvmlErrorString(int code) {
    return code == 15 ? "GPU is lost" : code == 27 ? "Not Ready" : code == 29 ? "Invalid state" : "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    REFUSE(UNSET, UNSET);
    return give_text(driver_version, version, length);
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    REFUSE(UNSET, UNSET);
    *version = cuda_version;
    return cuda_version ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    REFUSE(UNSET, UNSET);
    *count = (unsigned)gpu_count;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if ((int)index >= gpu_count) return INVALID_ARGUMENT;
    REFUSE((int)index, (int)index);
    *device = (char *)0 + index + 1;
    return OK;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    SLICE(device, s);
    if (s) return give_text(s->name, name, length);
    DEVICE(device, g);
    return give_text(gpus[g].name, name, length);
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    SLICE(device, s);
    if (s) return give_text(s->uuid, uuid, length);
    DEVICE(device, g);
    return give_text(gpus[g].uuid, uuid, length);
}

int nvmlDeviceGetPciInfo_v3(void *device, struct pci *pci) {
    DEVICE(device, g);
    return give_pci(gpus[g].bus, pci);
}

static int give_memory(unsigned long long total, unsigned long long used, int known, struct memory *memory) {
    *memory = (struct memory){total, total - used, used};
    return known ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    SLICE(device, s);
    if (s) return give_memory(s->total, s->used, s->has_memory, memory);
    DEVICE(device, g);
    return give_memory(gpus[g].total, gpus[g].used, gpus[g].has_memory, memory);
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    DEVICE(device, g);
    *major = gpus[g].major;
    *minor = gpus[g].minor;
    return gpus[g].major == UNSET ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    DEVICE(device, g);
    *current = *pending = (unsigned)gpus[g].mig;
    return gpus[g].mig == UNSET ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    DEVICE(device, g);
    *count = gpus[g].mig == 1 ? SLICES : 0;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) {
    DEVICE(device, g);
    if (gpus[g].mig != 1) return NOT_SUPPORTED;
    if (index >= SLICES) return INVALID_ARGUMENT;
    REFUSE(slice_number(g, (int)index), slice_number(g, (int)index));
    *slice = (char *)0 + slice_number(g, (int)index) + 1;
    return gpus[g].slice[index].known ? OK : NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) {
    SLICE(device, s);
    if (!s) return NOT_FOUND;
    *id = (unsigned)s->instance;
    return s->instance == UNSET ? NOT_SUPPORTED : OK;
}

static int find_lane(int g, unsigned link, struct lane **lane) {
    if (!gpus[g].lanes) return NOT_SUPPORTED;
    if ((int)link >= gpus[g].lanes) return INVALID_ARGUMENT;
    *lane = &gpus[g].lane[link];
    return (*lane)->known ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    struct lane *lane;
    DEVICE(device, g);
    int code = find_lane(g, link, &lane);
    if (code == OK) *active = (unsigned)lane->active;
    return code;
}

int nvmlDeviceGetNvLinkVersion(void *device, unsigned link, unsigned *version) {
    struct lane *lane;
    DEVICE(device, g);
    int code = find_lane(g, link, &lane);
    if (code == OK) *version = lane->version;
    return code;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned link, struct pci *pci) {
    struct lane *lane;
    DEVICE(device, g);
    int code = find_lane(g, link, &lane);
    if (code) return code;
    if (!lane->active) return NOT_SUPPORTED;
    /* As inside a virtual machine, which does not see the switches. */
    return give_pci(lane->type == TO_SWITCH ? "FFFFFFFF:FFFF:FF.0" : gpus[lane->peer].bus, pci);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(void *device, unsigned link, unsigned *type) {
    struct lane *lane;
    DEVICE(device, g);
    int code = find_lane(g, link, &lane);
    if (code) return code;
    *type = (unsigned)lane->type;
    return lane->active ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetNvLinkErrorCounter(void *device, unsigned link, unsigned counter, unsigned long long *count) {
    struct lane *lane;
    DEVICE(device, g);
    int code = find_lane(g, link, &lane);
    if (code) return code;
    if (counter > 3) return INVALID_ARGUMENT;
    *count = now[g].lane_errors[counter];
    return now[g].has_lane_errors && lane->active ? OK : NOT_SUPPORTED;
}

struct field {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type, code;
    union { double number; unsigned long long count; } value;
};

int nvmlDeviceGetFieldValues(void *device, int count, struct field *fields) {
    DEVICE(device, g);
    for (int i = 0; i < count; i++) {
        struct lane *lane;
        int is_known = (fields[i].id == 138 || fields[i].id == 139) && now[g].has_traffic;
        fields[i].code = is_known ? (unsigned)find_lane(g, fields[i].scope, &lane) : NOT_SUPPORTED;
        fields[i].value.count = fields[i].id == 138 ? now[g].sent : now[g].received;
    }
    return OK;
}

#define PAIR(a, b) \
    int x = INDEX(a), y = INDEX(b); \
    if (x < 0 || x >= gpu_count || y < 0 || y >= gpu_count) return INVALID_ARGUMENT; \
    REFUSE(x, y)

int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, unsigned *level) {
    PAIR(a, b);
    *level = (unsigned)ancestor[x][y];
    return ancestor[x][y] == UNSET ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetP2PStatus(void *a, void *b, unsigned capability, unsigned *status) {
    PAIR(a, b);
    if (capability != 0) return NOT_SUPPORTED;
    *status = (unsigned)p2p[x][y];
    return p2p[x][y] == UNSET ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *processes) {
    DEVICE(device, g);
    if (!now[g].listed) return NOT_SUPPORTED;
    unsigned room = *count;
    *count = (unsigned)now[g].processes;
    if (room < *count) return INSUFFICIENT_SIZE;
    if (processes) memcpy(processes, now[g].process, *count * sizeof *processes);
    return OK;
}

int nvmlDeviceGetTotalEccErrors(void *device, unsigned type, unsigned counter, unsigned long long *errors) {
    DEVICE(device, g);
    if (now[g].ecc == UNSET || type != 1 || counter != 0) return NOT_SUPPORTED;
    *errors = (unsigned long long)now[g].ecc;
    return OK;
}

int nvmlDeviceGetRemappedRows(void *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    DEVICE(device, g);
    if (now[g].rows_broken == UNSET) return NOT_SUPPORTED;
    *corrected = *uncorrected = *pending = 0;
    *failed = (unsigned)now[g].rows_broken;
    return OK;
}

static int give_number(int number, unsigned *into) {
    if (number == UNSET) return NOT_SUPPORTED;
    *into = (unsigned)number;
    return OK;
}

struct utilization { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates) {
    DEVICE(device, g);
    rates->memory = 0;
    return give_number(now[g].busy, &rates->gpu);
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) {
    DEVICE(device, g);
    return sensor ? INVALID_ARGUMENT : give_number(now[g].temperature, degrees);
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    DEVICE(device, g);
    return give_number(now[g].power, milliwatts);
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
    DEVICE(device, g);
    return give_number(now[g].power_limit, milliwatts);
}

int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) {
    DEVICE(device, g);
    return type != 1 ? NOT_SUPPORTED : give_number(now[g].clock, mhz);
}

static int give_reasons(int g, unsigned long long *reasons) {
    *reasons = (unsigned long long)now[g].slowed;
    return now[g].slowed == UNSET ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
    DEVICE(device, g);
    return give_reasons(g, reasons);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    DEVICE(device, g);
    return give_reasons(g, reasons);
}

/* Events: one set, of faults alone. */

struct event { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };

int nvmlEventSetCreate(void **set) {
    REFUSE(UNSET, UNSET);
    *set = now;
    return OK;
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    DEVICE(device, g);
    if (set != now || types != 8) return INVALID_ARGUMENT;
    now[g].registered = 1;
    return OK;
}

int nvmlEventSetWait_v2(void *set, struct event *event, unsigned milliseconds) {
    (void)milliseconds;
    REFUSE(UNSET, UNSET);
    if (set != now) return INVALID_ARGUMENT;
    for (int g = 0; g < gpu_count; g++)
        if (now[g].registered && now[g].xids) {
            *event = (struct event){(char *)0 + g + 1, 8, now[g].xid[--now[g].xids], ~0u, ~0u};
            return OK;
        }
    return 10; /* NVML_ERROR_TIMEOUT */
}

int nvmlEventSetFree(void *set) {
    REFUSE(UNSET, UNSET);
    return set == now ? OK : INVALID_ARGUMENT;
}
