"""Asks NVML how each GPU is doing now: whether it answers, who holds its memory, how hard it works, what ails it.

Touches libnvidia-ml.so.1 through `pynvml`, and /proc/<pid>/comm; read-only. Nothing that pynvml
raises leaves this module. Semantics: NVML API reference (docs.nvidia.com/deploy/nvml-api) and nvml.h, as bound by
nvidia-ml-py 13.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stackwright.detect.fact import Fact, Unread, known, plain_text, read_file
from stackwright.detect.nvml import (
    INVALID_ARGUMENT,
    MOST_LANES,
    NOT_SUPPORTED,
    SliceAnswers,
    ask,
    find_library,
    probe_slices,
)
from stackwright.domain.machine import GpuProcess, GpuReading, GpuState, Seen, SliceState, Unseen

# nvml.h: NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC.
UNCORRECTED, SINCE_DRIVER_LOAD = 1, 0

# nvml.h: NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, nvmlEventTypeXidCriticalError.
TEMPERATURE_GPU, CLOCK_SM, XID_EVENT = 0, 1, 0x8

# An instance that NVML does not name: a process on a whole GPU (nvml.h, nvmlProcessInfo_t: 0xFFFFFFFF).
NO_INSTANCE = 0xFFFFFFFF

# nvml.h, nvmlClocksEventReason*. Left out: idle (0x1), a wished clock (0x2), a display's (0x100).
SLOWED = {
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat",
    0x40: "heat (hardware)",
    0x80: "power brake",
}

# More than one look could find: the queue of events is emptied, and no flood of them holds a look up.
MOST_EVENTS = 100


def read_gpu_states() -> Seen[tuple[GpuState, ...]]:
    """Ask every device once; Unseen where NVML itself does not answer."""
    with GpuWatch(events=False) as watch:
        return watch.read()


class GpuWatch:
    """Asks every device as often as `read` is called; between two calls NVML collects the faults that come (XIDs).

    Beginning with NVML may take a second where no other program holds the driver: a watch begins once.
    """

    def __init__(self, *, events: bool = True) -> None:
        """`events`: collect faults too."""
        self._wants_events = events
        self._pynvml: Fact[Any] = Unread(words="not begun")
        self._events: Any = None
        self._xids: dict[int, list[int]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._pynvml = ask(_begin)
        if self._wants_events and not isinstance(self._pynvml, Unread):
            self._events = self._collect(self._pynvml)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(self._pynvml, Unread):
            if self._events is not None:
                ask(self._pynvml.nvmlEventSetFree, self._events)
            ask(self._pynvml.nvmlShutdown)

    def read(self) -> Seen[tuple[GpuState, ...]]:
        """Ask every device; Unseen where NVML itself does not answer."""
        pynvml = self._pynvml
        if isinstance(pynvml, Unread):
            return Unseen(why=pynvml.words)
        count = ask(pynvml.nvmlDeviceGetCount)
        if isinstance(count, Unread):
            return Unseen(why=count.words)
        if self._events is not None:
            self._take_events(pynvml)
        return tuple(_read_state(pynvml, index, self._xids) for index in range(count))

    def _collect(self, pynvml: Any) -> Any:
        """Ask for the faults of every device that tells of them; None where none does."""
        made = ask(pynvml.nvmlEventSetCreate)
        count = known(ask(pynvml.nvmlDeviceGetCount)) or 0
        if isinstance(made, Unread):
            return None
        for index in range(count):
            handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
            if not isinstance(handle, Unread):
                ask(pynvml.nvmlDeviceRegisterEvents, handle, XID_EVENT, made)
        return made

    def _take_events(self, pynvml: Any) -> None:
        for _ in range(MOST_EVENTS):
            event = ask(pynvml.nvmlEventSetWait_v2, self._events, 0)
            if isinstance(event, Unread):  # a timeout: there are no more
                return
            if event.eventType == XID_EVENT:
                self._xids[_number_of(event.device)].append(int(event.eventData))


def _begin() -> Any:
    present = find_library()
    if present is None:
        raise OSError("no NVIDIA driver on this machine")
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _number_of(handle: Any) -> int:
    """Return what tells one device's handle from another's: NVML gives the same pointer each time."""
    import ctypes

    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _read_state(pynvml: Any, index: int, xids: dict[int, list[int]]) -> GpuState:
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
        reading=_read_device(pynvml, handle, memory, tuple(xids.get(_number_of(handle), ()))),
        slices=_read_slices(pynvml, handle),
    )


def _read_device(pynvml: Any, handle: object, memory: Fact[Any], xids: tuple[int, ...]) -> GpuReading:
    busy = known(ask(pynvml.nvmlDeviceGetUtilizationRates, handle))
    power, limit = (
        known(ask(question, handle))
        for question in (pynvml.nvmlDeviceGetPowerUsage, pynvml.nvmlDeviceGetEnforcedPowerLimit)
    )
    return GpuReading(
        name=known(plain_text(ask(pynvml.nvmlDeviceGetName, handle))),
        memory_bytes=None if isinstance(memory, Unread) else int(memory.total),
        memory_used_bytes=None if isinstance(memory, Unread) else int(memory.used),
        busy_percent=None if busy is None else int(busy.gpu),
        temperature_c=known(ask(pynvml.nvmlDeviceGetTemperature, handle, TEMPERATURE_GPU)),
        # NVML tells milliwatts.
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        clock_mhz=known(ask(pynvml.nvmlDeviceGetClockInfo, handle, CLOCK_SM)),
        slowed=_read_slowed(pynvml, handle),
        xids=xids,
    )


def _read_slowed(pynvml: Any, handle: object) -> tuple[str, ...] | None:
    """Return why the clocks are low; drivers before 535 have the question under its older name alone."""
    bits = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if isinstance(bits, Unread):
        bits = ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    return None if isinstance(bits, Unread) else tuple(words for bit, words in SLOWED.items() if bits & bit)


def _read_slices(pynvml: Any, handle: object) -> tuple[SliceState, ...]:
    if ask(lambda: int(pynvml.nvmlDeviceGetMigMode(handle)[0])) != 1:
        return ()
    rows = known(probe_slices(pynvml, handle)) or ()
    return tuple(_slice_state(row) for row in rows if not isinstance(row, Unread))


def _slice_state(row: SliceAnswers) -> SliceState:
    total, used = known(row.memory) or (None, None)
    return SliceState(
        uuid=known(row.uuid),
        name=known(plain_text(row.name)),
        gpu_instance=known(row.gpu_instance),
        memory_bytes=total,
        memory_used_bytes=used,
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
    # One that computes and draws is in both lists, with the same bytes.
    found = {(int(row.pid), int(row.gpuInstanceId)): row.usedGpuMemory for rows in lists for row in rows or ()}
    return tuple(
        GpuProcess(
            pid=pid,
            name=known(plain_text(read_file(Path("/"), f"/proc/{pid}/comm"))),
            memory_bytes=None if used is None else int(used),
            gpu_instance=None if instance == NO_INSTANCE else instance,
        )
        for (pid, instance), used in sorted(found.items())
    )
