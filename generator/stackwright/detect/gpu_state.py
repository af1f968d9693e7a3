"""Asks NVML how each GPU is doing now: whether it answers, who holds its memory, NVLink lanes, memory errors.

Touches libnvidia-ml.so.1 through `pynvml`, and /proc/<pid>/comm; read-only. Nothing that pynvml
raises leaves this module. Semantics: NVML API reference (docs.nvidia.com/deploy/nvml-api) and nvml.h, as bound by
nvidia-ml-py 13.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stackwright.detect.fact import Unread, known, plain_text, read_file
from stackwright.detect.nvml import INVALID_ARGUMENT, MOST_LANES, NOT_SUPPORTED, ask
from stackwright.domain.machine import GpuProcess, GpuState, Seen, Unseen

# nvml.h: NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC.
UNCORRECTED, SINCE_DRIVER_LOAD = 1, 0


def read_gpu_states() -> Seen[tuple[GpuState, ...]]:
    """Ask every device once; Unseen where NVML itself does not answer."""
    pynvml = ask(_begin)
    if isinstance(pynvml, Unread):
        return Unseen(why=pynvml.words)
    try:
        count = ask(pynvml.nvmlDeviceGetCount)
        if isinstance(count, Unread):
            return Unseen(why=count.words)
        return tuple(_read_state(pynvml, index) for index in range(count))
    finally:
        ask(pynvml.nvmlShutdown)


def _begin() -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _read_state(pynvml: Any, index: int) -> GpuState:
    handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = handle if isinstance(handle, Unread) else ask(pynvml.nvmlDeviceGetUUID, handle)
    if isinstance(uuid, Unread):
        return GpuState(index=index, uuid=None, failure=uuid.words, code=uuid.code)
    # A device that fell off the bus keeps its handle and its name: the first question to the device itself tells.
    # One with unified memory has no figures, and is in good health.
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    failure = memory if isinstance(memory, Unread) and memory.code != NOT_SUPPORTED else None
    lanes, lanes_up = _count_lanes(pynvml, handle)
    rows = known(ask(pynvml.nvmlDeviceGetRemappedRows, handle))
    return GpuState(
        index=index,
        uuid=str(uuid),
        failure=None if failure is None else failure.words,
        code=None if failure is None else failure.code,
        processes=_list_processes(pynvml, handle),
        lanes=lanes,
        lanes_up=lanes_up,
        ecc_errors=known(ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, UNCORRECTED, SINCE_DRIVER_LOAD)),
        rows_broken=None if rows is None else bool(rows[3]),
    )


def _count_lanes(pynvml: Any, handle: object) -> tuple[int, int]:
    """Count the NVLinks that the device has, and those that are up."""
    states: list[int] = []
    for number in range(MOST_LANES):
        state = ask(pynvml.nvmlDeviceGetNvLinkState, handle, number)
        if isinstance(state, Unread) and state.code == INVALID_ARGUMENT:
            break
        states += [] if isinstance(state, Unread) else [int(state)]
    return len(states), sum(state == 1 for state in states)


def _list_processes(pynvml: Any, handle: object) -> tuple[GpuProcess, ...] | None:
    """List who computes or draws on the device; None where NVML does not say (WSL, a container)."""
    lists = [
        known(ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)),
        known(ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle)),
    ]
    if all(rows is None for rows in lists):
        return None
    used_bytes = {int(row.pid): row.usedGpuMemory for rows in lists for row in rows or ()}
    return tuple(
        GpuProcess(
            pid=pid,
            name=known(plain_text(read_file(Path("/"), f"/proc/{pid}/comm"))),
            memory_bytes=None if used is None else int(used),
        )
        for pid, used in sorted(used_bytes.items())
    )
