"""Print which GPUs a new process sees here, and how many NVLinks of each are up, as one line of JSON.

    python gpus.py

Run anew for each look: a container that has lost its devices keeps serving those who opened them before, and a driver
that hangs may hang whoever asks it. Touches libnvidia-ml.so.1, read-only; names and numbers: nvml.h, as bound by
nvidia-ml-py 13. Standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
NOT_SUPPORTED, INVALID_ARGUMENT = 3, 2
ENABLED = 1
MOST_LANES, TEXT = 36, 96
LIMIT_S = 10.0
"""How long a look may take; an engine keeps the driver loaded meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """What a process sees: each GPU's UUID with its NVLinks that are up; `faults` are what it was refused with."""

    links: dict[str, int]
    faults: tuple[str, ...] = ()


class NvmlError(Exception):
    """NVML refused; the text is NVML's own."""


def look(limit_s: float = LIMIT_S) -> Gpus | None:
    """Look with a process of its own; None where this machine has no NVML to ask."""
    try:
        done = subprocess.run(
            [sys.executable, "-B", __file__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return Gpus(links={}, faults=(f"the NVIDIA driver does not answer within {limit_s:g} s",))
    except (OSError, subprocess.CalledProcessError):
        return None
    told = json.loads(done.stdout)
    return None if told is None else Gpus(links=told["links"], faults=tuple(told["faults"]))


def faults_since(first: Gpus, now: Gpus) -> list[str]:
    """Return what is wrong now that was well at the first look."""
    found = [fault for fault in now.faults if fault not in first.faults]
    if found and not now.links:
        return found
    for uuid, links in first.links.items():
        if uuid not in now.links:
            found += [] if any(uuid in fault for fault in found) else [f"{uuid} is gone"]
        elif now.links[uuid] < links:
            found.append(f"{uuid} has {now.links[uuid]} of {links} NVLinks")
    return found


def read() -> Gpus | None:
    """Ask NVML in this process; None where there is no such library."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    try:
        _ask(nvml, "nvmlInitWithFlags", 0)
    except NvmlError as error:
        return Gpus(links={}, faults=(f"Failed to initialize NVML: {error}",))
    count = ctypes.c_uint()
    _ask(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    links: dict[str, int] = {}
    faults = []
    for index in range(count.value):
        name = f"GPU {index}"
        try:
            handle, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(TEXT)
            _ask(nvml, "nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
            _ask(nvml, "nvmlDeviceGetUUID", handle, uuid, TEXT)
            name = uuid.value.decode(errors="replace")
            # One that fell off the bus keeps its name: the first question to the device itself tells.
            _ask(nvml, "nvmlDeviceGetMemoryInfo", handle, (ctypes.c_ulonglong * 3)(), allowed=NOT_SUPPORTED)
            links[name] = _lanes_up(nvml, handle)
        except NvmlError as error:
            faults.append(f"{name}: {error}")
    return Gpus(links=links, faults=tuple(faults))


def _lanes_up(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> int:
    up, state = 0, ctypes.c_uint()
    for lane in range(MOST_LANES):
        code = _call(nvml, "nvmlDeviceGetNvLinkState", handle, lane, ctypes.byref(state))
        if code == INVALID_ARGUMENT:
            break
        up += code == 0 and state.value == ENABLED
    return up


def _ask(nvml: ctypes.CDLL, function: str, *arguments: object, allowed: int = 0) -> None:
    code = _call(nvml, function, *arguments)
    if code not in (0, allowed):
        nvml.nvmlErrorString.restype = ctypes.c_char_p
        raise NvmlError(nvml.nvmlErrorString(code).decode(errors="replace"))


def _call(nvml: ctypes.CDLL, function: str, *arguments: object) -> int:
    return int(getattr(nvml, function)(*arguments)) if hasattr(nvml, function) else NOT_SUPPORTED


if __name__ == "__main__":
    seen = read()
    print(json.dumps(None if seen is None else {"links": seen.links, "faults": seen.faults}))
