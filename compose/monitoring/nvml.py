"""NVML's functions that gpu_reading.py asks, under the names that `pynvml` has for them.

The gateway's image has no nvidia-ml-py, and a handful of calls needs no package. Signatures and structures: nvml.h, as
bound by nvidia-ml-py 13. Standard library alone; touches libnvidia-ml.so.1, read-only.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
TEXT_BYTES = 96
FUNCTION_NOT_FOUND = 13


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


class Nvml:
    """The library, begun. Every method raises NvmlError where NVML refuses."""

    def __init__(self) -> None:
        """Load the library and begin. Raises OSError where there is none."""
        self._library = ctypes.CDLL(LIBRARY)
        self._call("nvmlInitWithFlags", 0)

    def nvmlDeviceGetCount(self) -> int:
        return self._number("nvmlDeviceGetCount_v2")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> ctypes.c_void_p:
        return self._pointer("nvmlDeviceGetHandleByIndex_v2", index)

    def nvmlDeviceGetUUID(self, device: object) -> str:
        return self._text("nvmlDeviceGetUUID", device)

    def nvmlDeviceGetName(self, device: object) -> str:
        return self._text("nvmlDeviceGetName", device)

    def nvmlDeviceGetMemoryInfo(self, device: object) -> Memory:
        return self._filled(Memory(), "nvmlDeviceGetMemoryInfo", device)

    def nvmlDeviceGetUtilizationRates(self, device: object) -> Utilization:
        return self._filled(Utilization(), "nvmlDeviceGetUtilizationRates", device)

    def nvmlDeviceGetPowerUsage(self, device: object) -> int:
        return self._number("nvmlDeviceGetPowerUsage", device)

    def nvmlDeviceGetEnforcedPowerLimit(self, device: object) -> int:
        return self._number("nvmlDeviceGetEnforcedPowerLimit", device)

    def nvmlDeviceGetTemperature(self, device: object, sensor: int) -> int:
        return self._number("nvmlDeviceGetTemperature", device, sensor)

    def nvmlDeviceGetClockInfo(self, device: object, clock: int) -> int:
        return self._number("nvmlDeviceGetClockInfo", device, clock)

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: object) -> int:
        return self._long("nvmlDeviceGetCurrentClocksEventReasons", device)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: object) -> int:
        return self._long("nvmlDeviceGetCurrentClocksThrottleReasons", device)

    def nvmlDeviceGetTotalEccErrors(self, device: object, kind: int, counter: int) -> int:
        return self._long("nvmlDeviceGetTotalEccErrors", device, kind, counter)

    def nvmlDeviceGetRemappedRows(self, device: object) -> tuple[int, ...]:
        rows = (ctypes.c_uint * 4)()
        places = [ctypes.byref(rows, number * ctypes.sizeof(ctypes.c_uint)) for number in range(4)]
        self._call("nvmlDeviceGetRemappedRows", device, *places)
        return tuple(rows)

    def nvmlDeviceGetNvLinkState(self, device: object, lane: int) -> int:
        return self._number("nvmlDeviceGetNvLinkState", device, lane)

    def nvmlDeviceGetNvLinkErrorCounter(self, device: object, lane: int, counter: int) -> int:
        return self._long("nvmlDeviceGetNvLinkErrorCounter", device, lane, counter)

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

    def nvmlDeviceGetMaxMigDeviceCount(self, device: object) -> int:
        return self._number("nvmlDeviceGetMaxMigDeviceCount", device)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: object, number: int) -> ctypes.c_void_p:
        return self._pointer("nvmlDeviceGetMigDeviceHandleByIndex", device, number)

    def nvmlDeviceGetGpuInstanceId(self, device: object) -> int:
        return self._number("nvmlDeviceGetGpuInstanceId", device)

    def nvmlEventSetCreate(self) -> ctypes.c_void_p:
        return self._pointer("nvmlEventSetCreate")

    def nvmlEventSetFree(self, events: object) -> None:
        self._call("nvmlEventSetFree", events)

    def nvmlDeviceRegisterEvents(self, device: object, kinds: int, events: object) -> None:
        self._call("nvmlDeviceRegisterEvents", device, ctypes.c_ulonglong(kinds), events)

    def nvmlEventSetWait_v2(self, events: object, milliseconds: int) -> EventData:
        data = EventData()
        self._call("nvmlEventSetWait_v2", events, ctypes.byref(data), milliseconds)
        return data

    def _number(self, function: str, *arguments: object) -> int:
        result = ctypes.c_uint()
        self._call(function, *arguments, ctypes.byref(result))
        return result.value

    def _long(self, function: str, *arguments: object) -> int:
        result = ctypes.c_ulonglong()
        self._call(function, *arguments, ctypes.byref(result))
        return result.value

    def _pointer(self, function: str, *arguments: object) -> ctypes.c_void_p:
        result = ctypes.c_void_p()
        self._call(function, *arguments, ctypes.byref(result))
        return result

    def _text(self, function: str, device: object) -> str:
        text = ctypes.create_string_buffer(TEXT_BYTES)
        self._call(function, device, text, TEXT_BYTES)
        return text.value.decode(errors="replace")

    def _filled(self, structure: Any, function: str, device: object) -> Any:
        self._call(function, device, ctypes.byref(structure))
        return structure

    def _call(self, function: str, *arguments: object) -> None:
        found = getattr(self._library, function, None)
        code = FUNCTION_NOT_FOUND if found is None else int(found(*arguments))
        if code:
            self._library.nvmlErrorString.restype = ctypes.c_char_p
            raise NvmlError(self._library.nvmlErrorString(code).decode(errors="replace"), code)
