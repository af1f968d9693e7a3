"""How each GPU is doing, as NVML tells it: the one way of reading that `status` and the exporter have.

Standard library alone, and nothing of this package: compose/monitoring/gpu_exporter.py runs beside a copy of this file
where there is no more. NVML is asked through a binding that has the names of `pynvml` (nvidia-ml-py). Nothing that the
binding raises leaves this module. Semantics: NVML API reference (docs.nvidia.com/deploy/nvml-api) and nvml.h, as bound
by nvidia-ml-py 13.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NOT_FOUND = 6

# nvml.h's NVML_NVLINK_MAX_LINKS was 6, 12 and 18 before; asking ends at the first lane that NVML calls invalid.
MOST_LANES = 36

# nvml.h: NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC.
UNCORRECTED, SINCE_DRIVER_LOAD = 1, 0

# nvml.h: NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, nvmlEventTypeXidCriticalError.
TEMPERATURE_GPU, CLOCK_SM, XID_EVENT = 0, 1, 0x8

# nvml.h, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX and _RX: KiB of one lane, which is the scope.
SENT, RECEIVED = 138, 139

# nvml.h, nvmlNvLinkErrorCounter_t.
LANE_ERRORS = {0: "replay", 1: "recovery", 2: "crc flit", 3: "crc data"}

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


class NoAnswer(NamedTuple):
    """An answer that did not come: NVML's words, and its number where NVML spoke."""

    words: str
    code: int | None = None


class DeviceFigures(NamedTuple):
    """What a device tells of itself now; each is None where NVML does not tell it. Units end the names."""

    name: str | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    busy_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    clock_mhz: int | None = None
    slowed: tuple[str, ...] | None = None


class LinkFigures(NamedTuple):
    """The NVLinks of a device: how many it has and are up; bytes and errors of all lanes since the driver was loaded.

    Bytes are None, and a kind of error is left out, where NVML does not tell them of any lane.
    """

    lanes: int = 0
    lanes_up: int = 0
    sent_bytes: int | None = None
    received_bytes: int | None = None
    errors: Mapping[str, int] = MappingProxyType({})


class SliceFigures(NamedTuple):
    """One MIG slice now; NVML tells its memory alone."""

    uuid: str | None
    name: str | None
    gpu_instance: int | None
    memory_bytes: int | None
    memory_used_bytes: int | None


class GpuFigures(NamedTuple):
    """One device. `failure` is NVML's words where it does not answer, `code` their number.

    `xids`: NVIDIA's numbers of the faults that came while NVML was being watched. `ecc_errors`: uncorrected ones since
    the driver was loaded. `rows_broken`: memory rows that could not be replaced. `slices` are asked for where MIG is
    on. `handle` is the binding's, None where there is none.
    """

    index: int  # type: ignore[assignment]  # nobody asks for the method of a tuple that it hides
    uuid: str | None
    failure: str | None = None
    code: int | None = None
    device: DeviceFigures = DeviceFigures()
    links: LinkFigures = LinkFigures()
    slices: tuple[SliceFigures, ...] = ()
    ecc_errors: int | None = None
    rows_broken: bool | None = None
    xids: tuple[int, ...] = ()
    handle: Any = None


def ask(function: Callable[..., Any], *arguments: object) -> Any:
    """Call one function of the binding; NoAnswer where it raises."""
    try:
        return function(*arguments)
    except Exception as failure:  # noqa: BLE001 NVMLError, UnicodeDecodeError, ctypes.ArgumentError, OSError
        code = getattr(failure, "value", None)
        words = str(failure).strip().rstrip(".") or type(failure).__name__
        return NoAnswer(words=" ".join(words.split()), code=code if isinstance(code, int) else None)


def told(answer: Any) -> Any:
    """Return an answer, None where it was refused."""
    return None if isinstance(answer, NoAnswer) else answer


class Readings:
    """Asks every device as often as `read` is called, of an NVML that has begun.

    Between two calls NVML collects the faults that come (XIDs), where they are wished for.
    """

    def __init__(self, nvml: Any, *, events: bool, counters: bool = False) -> None:
        """`events`: collect faults too. `counters`: read traffic and errors of every NVLink, hundreds of calls."""
        self._nvml, self._counters = nvml, counters
        self._xids: dict[int, list[int]] = defaultdict(list)
        self._numbers: dict[int, int] = {}
        self._events = self._collect() if events else None

    def close(self) -> None:
        """Collect no more faults."""
        if self._events is not None:
            ask(self._nvml.nvmlEventSetFree, self._events)

    def read(self) -> tuple[GpuFigures, ...] | NoAnswer:
        """Ask every device; NoAnswer where NVML itself does not answer."""
        count = ask(self._nvml.nvmlDeviceGetCount)
        if isinstance(count, NoAnswer):
            return count
        if self._events is not None:
            self._take_events()
        return tuple(self._read_gpu(index) for index in range(count))

    def _collect(self) -> Any:
        """Ask for the faults of every device that tells of them; None where there can be no set of events."""
        made = told(ask(self._nvml.nvmlEventSetCreate))
        count = told(ask(self._nvml.nvmlDeviceGetCount)) or 0
        for index in range(count if made is not None else 0):
            handle = ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
            if not isinstance(handle, NoAnswer):
                self._numbers[index] = _number_of(handle)
                ask(self._nvml.nvmlDeviceRegisterEvents, handle, XID_EVENT, made)
        return made

    def _take_events(self) -> None:
        for _ in range(MOST_EVENTS):
            event = ask(self._nvml.nvmlEventSetWait_v2, self._events, 0)
            if isinstance(event, NoAnswer):  # a timeout: there are no more
                return
            if event.eventType == XID_EVENT:
                self._xids[_number_of(event.device)].append(int(event.eventData))

    def _read_gpu(self, index: int) -> GpuFigures:
        nvml = self._nvml
        handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
        uuid = handle if isinstance(handle, NoAnswer) else ask(nvml.nvmlDeviceGetUUID, handle)
        if isinstance(uuid, NoAnswer):
            return GpuFigures(index=index, uuid=None, failure=uuid.words, code=uuid.code, xids=self._xids_of(index))
        # A device that fell off the bus keeps its handle and its name: the first question to the device itself tells.
        # One with unified memory has no figures, and is in good health.
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        failure = memory if isinstance(memory, NoAnswer) and memory.code != NOT_SUPPORTED else None
        rows = told(ask(nvml.nvmlDeviceGetRemappedRows, handle))
        return GpuFigures(
            index=index,
            uuid=str(uuid),
            failure=None if failure is None else failure.words,
            code=None if failure is None else failure.code,
            device=_read_device(nvml, handle, told(memory)),
            links=_read_links(nvml, handle, counters=self._counters),
            slices=tuple(_read_slices(nvml, handle)),
            ecc_errors=told(ask(nvml.nvmlDeviceGetTotalEccErrors, handle, UNCORRECTED, SINCE_DRIVER_LOAD)),
            rows_broken=None if rows is None else bool(rows[3]),
            xids=self._xids_of(index),
            handle=handle,
        )

    def _xids_of(self, index: int) -> tuple[int, ...]:
        """Return the faults of a device, by the handle that it had: a lost one may have none any more."""
        return tuple(self._xids.get(self._numbers.get(index, 0), ()))


def _number_of(handle: Any) -> int:
    """Return what tells one device's handle from another's: NVML gives the same pointer each time."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _read_device(nvml: Any, handle: object, memory: Any) -> DeviceFigures:
    busy = told(ask(nvml.nvmlDeviceGetUtilizationRates, handle))
    power, limit = (
        told(ask(question, handle)) for question in (nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetEnforcedPowerLimit)
    )
    return DeviceFigures(
        name=told(ask(nvml.nvmlDeviceGetName, handle)),
        memory_bytes=None if memory is None else int(memory.total),
        memory_used_bytes=None if memory is None else int(memory.used),
        busy_percent=None if busy is None else int(busy.gpu),
        temperature_c=told(ask(nvml.nvmlDeviceGetTemperature, handle, TEMPERATURE_GPU)),
        # NVML tells milliwatts.
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        clock_mhz=told(ask(nvml.nvmlDeviceGetClockInfo, handle, CLOCK_SM)),
        slowed=_read_slowed(nvml, handle),
    )


def _read_slowed(nvml: Any, handle: object) -> tuple[str, ...] | None:
    """Return why the clocks are low; drivers before 535 have the question under its older name alone."""
    bits = ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if isinstance(bits, NoAnswer):
        bits = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    return None if isinstance(bits, NoAnswer) else tuple(words for bit, words in SLOWED.items() if bits & bit)


def _read_links(nvml: Any, handle: object, *, counters: bool) -> LinkFigures:
    states: dict[int, int] = {}
    for number in range(MOST_LANES):
        state = ask(nvml.nvmlDeviceGetNvLinkState, handle, number)
        if isinstance(state, NoAnswer) and state.code == INVALID_ARGUMENT:
            break
        if not isinstance(state, NoAnswer):
            states[number] = int(state)
    up = [number for number, state in states.items() if state == 1]
    if not (up and counters):
        return LinkFigures(lanes=len(states), lanes_up=len(up))
    errors = {
        kind: sum(counts)
        for counter, kind in LANE_ERRORS.items()
        if (counts := _known(ask(nvml.nvmlDeviceGetNvLinkErrorCounter, handle, lane, counter) for lane in up))
    }
    sent, received = (_read_traffic(nvml, handle, field_id, up) for field_id in (SENT, RECEIVED))
    return LinkFigures(lanes=len(states), lanes_up=len(up), sent_bytes=sent, received_bytes=received, errors=errors)


def _known(answers: Iterator[Any]) -> list[int]:
    return [int(answer) for answer in answers if not isinstance(answer, NoAnswer)]


def _read_traffic(nvml: Any, handle: object, field_id: int, lanes: list[int]) -> int | None:
    """Return what went over all lanes in one direction, in bytes."""
    rows = told(ask(nvml.nvmlDeviceGetFieldValues, handle, [(field_id, lane) for lane in lanes]))
    values = [int(row.value.ullVal) for row in rows or () if row.nvmlReturn == 0]
    return sum(values) * 1024 if values else None


def slice_handles(nvml: Any, handle: object) -> Iterator[tuple[int, Any]] | NoAnswer:
    """Return the number of every MIG device, with its handle or NoAnswer; one that was destroyed leaves a gap."""
    most = ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    if isinstance(most, NoAnswer):
        return most
    found = ((number, ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)) for number in range(most))
    return (row for row in found if not (isinstance(row[1], NoAnswer) and row[1].code == NOT_FOUND))


def _read_slices(nvml: Any, handle: object) -> Iterator[SliceFigures]:
    if told(ask(lambda: int(nvml.nvmlDeviceGetMigMode(handle)[0]))) != 1:
        return
    for _, mig_device in told(slice_handles(nvml, handle)) or ():
        if isinstance(mig_device, NoAnswer):
            continue
        memory = told(ask(nvml.nvmlDeviceGetMemoryInfo, mig_device))
        yield SliceFigures(
            uuid=told(ask(nvml.nvmlDeviceGetUUID, mig_device)),
            name=told(ask(nvml.nvmlDeviceGetName, mig_device)),
            gpu_instance=told(ask(nvml.nvmlDeviceGetGpuInstanceId, mig_device)),
            memory_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
        )
