"""NVML's functions that gpu_reading.py asks, under the names that `pynvml` has for them.

The gateway's image has no nvidia-ml-py, and a handful of calls needs no package. Signatures and structures: nvml.h, as
bound by nvidia-ml-py 13. Standard library alone; touches libnvidia-ml.so.1, read-only.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
TEXT_BYTES = 96
FUNCTION_NOT_FOUND = 13
Text = ctypes.c_char * TEXT_BYTES


class NvmlError(Exception):
    """NVML refused: its words, and `value`, its number."""

    def __init__(self, words: str, value: int) -> None:
        super().__init__(words)
        self.value = value


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class Utilization(ctypes.Structure):
    """nvmlUtilization_t."""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class EventData(ctypes.Structure):
    """nvmlEventData_t."""

    _fields_ = [
        ("device", ctypes.c_void_p),
        ("eventType", ctypes.c_ulonglong),
        ("eventData", ctypes.c_ulonglong),
        ("gpuInstanceId", ctypes.c_uint),
        ("computeInstanceId", ctypes.c_uint),
    ]


class Value(ctypes.Union):
    """nvmlValue_t; of its members only the one that is asked for here."""

    _fields_ = [("dVal", ctypes.c_double), ("ullVal", ctypes.c_ulonglong)]


class FieldValue(ctypes.Structure):
    """nvmlFieldValue_t."""

    _fields_ = [
        ("fieldId", ctypes.c_uint),
        ("scopeId", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latencyUsec", ctypes.c_longlong),
        ("valueType", ctypes.c_uint),
        ("nvmlReturn", ctypes.c_uint),
        ("value", Value),
    ]


RESULTS: Mapping[str, Callable[[], Any]] = {
    "nvmlDeviceGetCount_v2": ctypes.c_uint,
    "nvmlDeviceGetHandleByIndex_v2": ctypes.c_void_p,
    "nvmlDeviceGetUUID": Text,
    "nvmlDeviceGetName": Text,
    "nvmlDeviceGetMemoryInfo": Memory,
    "nvmlDeviceGetUtilizationRates": Utilization,
    "nvmlDeviceGetPowerUsage": ctypes.c_uint,
    "nvmlDeviceGetEnforcedPowerLimit": ctypes.c_uint,
    "nvmlDeviceGetTemperature": ctypes.c_uint,
    "nvmlDeviceGetClockInfo": ctypes.c_uint,
    "nvmlDeviceGetCurrentClocksEventReasons": ctypes.c_ulonglong,
    "nvmlDeviceGetCurrentClocksThrottleReasons": ctypes.c_ulonglong,
    "nvmlDeviceGetTotalEccErrors": ctypes.c_ulonglong,
    "nvmlDeviceGetNvLinkState": ctypes.c_uint,
    "nvmlDeviceGetNvLinkErrorCounter": ctypes.c_ulonglong,
    "nvmlDeviceGetMaxMigDeviceCount": ctypes.c_uint,
    "nvmlDeviceGetMigDeviceHandleByIndex": ctypes.c_void_p,
    "nvmlDeviceGetGpuInstanceId": ctypes.c_uint,
    "nvmlEventSetCreate": ctypes.c_void_p,
}
"""What each function writes to the last thing that it is given; all others are methods of their own."""

NUMBERS = (ctypes.c_uint, ctypes.c_ulonglong)


class Nvml:
    """The library, begun. Every function raises NvmlError where NVML refuses."""

    def __init__(self) -> None:
        """Load the library and begin. Raises OSError where there is none."""
        self._library = ctypes.CDLL(LIBRARY)
        self._call("nvmlInitWithFlags", 0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a function of `RESULTS`; `pynvml` has the second versions under the first ones' names."""
        function = f"{name}_v2" if f"{name}_v2" in RESULTS else name
        if function not in RESULTS:
            raise AttributeError(name)
        return partial(self._ask, function)

    def _ask(self, function: str, *arguments: object) -> Any:
        result = RESULTS[function]()
        if isinstance(result, Text):
            self._call(function, *arguments, result, TEXT_BYTES)
            return result.value.decode(errors="replace")
        self._call(function, *arguments, ctypes.byref(result))
        return result.value if isinstance(result, NUMBERS) else result

    def nvmlDeviceGetRemappedRows(self, device: object) -> tuple[int, ...]:
        rows = (ctypes.c_uint * 4)()
        places = [ctypes.byref(rows, number * ctypes.sizeof(ctypes.c_uint)) for number in range(4)]
        self._call("nvmlDeviceGetRemappedRows", device, *places)
        return tuple(rows)

    def nvmlDeviceGetFieldValues(self, device: object, fields: Sequence[tuple[int, int]]) -> Sequence[FieldValue]:
        values = (FieldValue * len(fields))()
        for value, (field, scope) in zip(values, fields, strict=True):
            value.fieldId, value.scopeId = field, scope
        self._call("nvmlDeviceGetFieldValues", device, len(fields), ctypes.byref(values))
        return values

    def nvmlDeviceGetMigMode(self, device: object) -> tuple[int, int]:
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        self._call("nvmlDeviceGetMigMode", device, ctypes.byref(current), ctypes.byref(pending))
        return current.value, pending.value

    def nvmlEventSetFree(self, events: object) -> None:
        self._call("nvmlEventSetFree", events)

    def nvmlDeviceRegisterEvents(self, device: object, kinds: int, events: object) -> None:
        self._call("nvmlDeviceRegisterEvents", device, ctypes.c_ulonglong(kinds), events)

    def nvmlEventSetWait_v2(self, events: object, milliseconds: int) -> EventData:
        data = EventData()
        self._call("nvmlEventSetWait_v2", events, ctypes.byref(data), milliseconds)
        return data

    def _call(self, function: str, *arguments: object) -> None:
        found = getattr(self._library, function, None)
        code = FUNCTION_NOT_FOUND if found is None else int(found(*arguments))
        if code:
            self._library.nvmlErrorString.restype = ctypes.c_char_p
            raise NvmlError(self._library.nvmlErrorString(code).decode(errors="replace"), code)
