"""Intel GPUs' names and memory as Level Zero Sysman tells them: a program of its own, standard library alone.

`other_gpus` runs this file in a child process, since Intel's driver library has ended its process more than once
(github.com/intel/compute-runtime: issues 803, memory is asked for, and 721, `zesInit` under WSL; read 2026-11-30).
Loads libze_loader.so.1. Functions, structures and numbers: zes_api.h and ze_api.h of oneapi-src/level-zero v1.32.0
(specification v1.17-r1.17.24), read 2026-11-30.

Writes one line of JSON, the `LevelZeroAnswers` of `other_gpus`.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from collections.abc import Callable
from ctypes import Structure, byref, c_char, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, ClassVar

LIBRARY = "libze_loader.so.1"

# zes_structure_type_t, and the last one ze_structure_type_t.
_DEVICE, _PCI, _MEMORY, _STATE, _CORE_DEVICE = 0x1, 0x2, 0xB, 0x1E, 0x3
# ZES_MEM_LOC_DEVICE, ZE_DEVICE_PROPERTY_FLAG_INTEGRATED.
_OWN, _INTEGRATED = 1, 1
# ze_result_t of what a person can mend; a loader of v1.32.0 without a driver gave the first (tried 2026-11-30).
_CODES = {
    0x78000001: "that no driver is ready: libze_intel_gpu is not installed, or /dev/dri may not be opened",
    0x70010000: "that permission is missing",
    0x70000001: "that the device is lost",
}


class _Tagged(Structure):
    """What every structure begins with."""

    _fields_: ClassVar[tuple[Any, ...]] = (("stype", c_uint32), ("next", c_void_p))


class _Pci(_Tagged):
    """zes_pci_properties_t."""

    _fields_ = (
        *((name, c_uint32) for name in ("domain", "bus", "device", "function")),
        ("generation", c_int32),
        ("width", c_int32),
        ("bandwidth", c_int64),
        ("counters", c_uint8 * 3),
    )


class _CoreDevice(_Tagged):
    """ze_device_properties_t."""

    _fields_ = (
        *((name, c_uint32) for name in ("type", "vendor", "device", "flags", "subdevice", "clock")),
        ("allocation", c_uint64),
        ("counts", c_uint32 * 7),
        ("resolution", c_uint64),
        ("bits", c_uint32 * 2),
        ("uuid", c_uint8 * 16),
        ("name", c_char * 256),
    )


class _Device(_Tagged):
    """zes_device_properties_t; its texts are the numbers and names of board, maker and driver."""

    _fields_ = (("core", _CoreDevice), ("subdevices", c_uint32), ("texts", c_char * 64 * 6))


class _Memory(_Tagged):
    """zes_mem_properties_t."""

    _fields_ = (
        ("type", c_uint32),
        ("on_subdevice", c_uint8),
        ("subdevice", c_uint32),
        ("location", c_uint32),
        ("physical_bytes", c_uint64),
        ("bus_width", c_int32),
        ("channels", c_int32),
    )


class _State(_Tagged):
    """zes_mem_state_t."""

    _fields_ = (("health", c_uint32), ("free_bytes", c_uint64), ("bytes", c_uint64))


class _NoAnswer(Exception):
    """A function that answered with an error, or is not in the library; the text is for the person."""


def main() -> None:
    """Write what the library tells, and leave before it is torn down."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps(_read()) + "\n")
    sys.stdout.flush()
    # Past the destructors: the loader's own have crashed (its CHANGELOG, v1.31.0).
    os._exit(0)


def _read() -> dict[str, Any]:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as failure:
        absent = "No such file" in str(failure)
        return {"words": f"Level Zero is not installed ({LIBRARY})" if absent else str(failure), "cards": {}}
    words, cards = None, {}
    try:
        _ask(library, "zesInit", 0)
        drivers = _handles(library, "zesDriverGet")
    except _NoAnswer as failure:
        return {"words": str(failure), "cards": {}}
    for driver in drivers:
        try:
            for device in _handles(library, "zesDeviceGet", driver):
                address = _read_address(library, device)
                cards[address] = _read_card(library, device)
        except _NoAnswer as failure:
            words = str(failure)
    return {"words": words, "cards": cards}


def _read_address(library: ctypes.CDLL, device: c_void_p) -> str:
    pci = _Pci(stype=_PCI)
    _ask(library, "zesDevicePciGetProperties", device, byref(pci))
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.{pci.function:x}"


def _read_card(library: ctypes.CDLL, device: c_void_p) -> dict[str, Any]:
    card: dict[str, Any] = {}
    try:
        properties = _Device(stype=_DEVICE, core=_CoreDevice(stype=_CORE_DEVICE))
        _ask(library, "zesDeviceGetProperties", device, byref(properties))
        card["name"] = properties.core.name.decode("utf-8", errors="replace")
        card["integrated"] = bool(properties.core.flags & _INTEGRATED)
        card["memory_bytes"] = _read_memory(library, device)
    except _NoAnswer as failure:
        card["words"] = str(failure)
    return card


def _read_memory(library: ctypes.CDLL, device: c_void_p) -> int:
    """Add up the modules on the card, one for each tile; a part of them alone would be no answer."""
    found = 0
    for module in _handles(library, "zesDeviceEnumMemoryModules", device):
        memory, state = _Memory(stype=_MEMORY), _State(stype=_STATE)
        _ask(library, "zesMemoryGetProperties", module, byref(memory))
        if memory.location != _OWN:
            continue
        # Intel's driver knows the physical size of tiles alone (compute-runtime, sysman_product_helper_hw.inl).
        if not memory.physical_bytes:
            _ask(library, "zesMemoryGetState", module, byref(state))
        found += memory.physical_bytes or state.bytes
    if not 0 < found < 2**63:
        raise _NoAnswer("Level Zero tells no size")
    return found


def _handles(library: ctypes.CDLL, name: str, *parents: c_void_p) -> list[c_void_p]:
    """Ask how many there are, then for them."""
    count = c_uint32()
    _ask(library, name, *parents, byref(count), None)
    rows = (c_void_p * count.value)()
    if count.value:
        _ask(library, name, *parents, byref(count), rows)
    return [c_void_p(row) for row in rows[: count.value]]


def _ask(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    try:
        function: Callable[..., int] = getattr(library, name)
    except AttributeError:
        raise _NoAnswer(f"{LIBRARY} is too old: it has no {name}") from None
    if code := function(*arguments):
        raise _NoAnswer(f"Level Zero's {name} answers {_CODES.get(code, 'an error')} ({code:#x})")


if __name__ == "__main__":
    main()
