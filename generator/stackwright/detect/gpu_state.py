"""Asks NVML how each GPU is doing now: whether it answers, who holds its memory, NVLink lanes, memory errors.

Touches libnvidia-ml.so.1 through `pynvml`, and /proc/<pid>/comm below a root folder; read-only. Nothing that pynvml
raises leaves this module. Semantics: NVML API reference (docs.nvidia.com/deploy/nvml-api) and nvml.h, as bound by
nvidia-ml-py 13.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stackwright.detect.fact import Unread, plain_text, read_file
from stackwright.detect.nvml import INVALID_ARGUMENT, MOST_LANES, NOT_SUPPORTED
from stackwright.domain.machine import GpuProcess, GpuState, Seen, T, Unseen

# nvml.h: NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC.
UNCORRECTED, SINCE_DRIVER_LOAD = 1, 0


def look_at_gpus(root: Path = Path("/")) -> Seen[tuple[GpuState, ...]]:
    """Ask every device once; Unseen where NVML itself does not answer."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as failure:  # noqa: BLE001 whatever an installation can break at import or at its first call
        return Unseen(why=_words(failure))
    try:
        return tuple(_look_at(pynvml, root, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as failure:
        return Unseen(why=_words(failure))
    finally:
        _ask(pynvml.nvmlShutdown)


def _look_at(pynvml: Any, root: Path, index: int) -> GpuState:
    handle, failure = _try(pynvml.nvmlDeviceGetHandleByIndex, index)
    if failure is None:
        uuid, failure = _try(pynvml.nvmlDeviceGetUUID, handle)
    if failure is not None:
        return GpuState(index=index, uuid=None, failure=_words(failure), code=_code(failure))
    # A device that fell off the bus keeps its handle and its name: the first question to the device itself tells.
    _, failure = _try(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if failure is not None and _code(failure) == NOT_SUPPORTED:  # unified memory: no figures, and in good health
        failure = None
    lanes, lanes_up = _count_lanes(pynvml, handle)
    rows = _ask(pynvml.nvmlDeviceGetRemappedRows, handle)
    return GpuState(
        index=index,
        uuid=str(uuid),
        failure=None if failure is None else _words(failure),
        code=None if failure is None else _code(failure),
        processes=_list_processes(pynvml, root, handle),
        lanes=lanes,
        lanes_up=lanes_up,
        ecc_errors=_ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, UNCORRECTED, SINCE_DRIVER_LOAD),
        rows_broken=None if rows is None else bool(rows[3]),
    )


def _count_lanes(pynvml: Any, handle: object) -> tuple[int, int]:
    """Count the NVLinks that the device has, and those that are up."""
    states: list[int] = []
    for number in range(MOST_LANES):
        state, failure = _try(pynvml.nvmlDeviceGetNvLinkState, handle, number)
        if failure is not None and _code(failure) == INVALID_ARGUMENT:
            break
        states += [] if state is None else [int(state)]
    return len(states), sum(state == 1 for state in states)


def _list_processes(pynvml: Any, root: Path, handle: object) -> tuple[GpuProcess, ...] | None:
    """List who computes or draws on the device; None where NVML does not say (WSL, a container)."""
    lists = [
        _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle),
        _ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
    ]
    if all(rows is None for rows in lists):
        return None
    found = {int(row.pid): row.usedGpuMemory for rows in lists for row in rows or ()}
    return tuple(
        GpuProcess(pid=pid, name=_name(root, pid), memory_bytes=None if used is None else int(used))
        for pid, used in sorted(found.items())
    )


def _name(root: Path, pid: int) -> str | None:
    name = plain_text(read_file(root, f"/proc/{pid}/comm"))
    return None if isinstance(name, Unread) else name


def _try(function: Callable[..., T], *arguments: object) -> tuple[T | None, Exception | None]:
    """Call one NVML function; return its answer, or what it raised."""
    try:
        return function(*arguments), None
    except Exception as failure:  # noqa: BLE001 NVMLError, UnicodeDecodeError, ctypes.ArgumentError, OSError
        return None, failure


def _ask(function: Callable[..., T], *arguments: object) -> T | None:
    return _try(function, *arguments)[0]


def _code(failure: Exception) -> int | None:
    code = getattr(failure, "value", None)
    return code if isinstance(code, int) else None


def _words(failure: Exception) -> str:
    return " ".join(str(failure).split()).rstrip(".") or type(failure).__name__
