"""Asks NVML for everything that the host needs, through `pynvml` (nvidia-ml-py), and keeps the answers as they came.

Touches libnvidia-ml.so.1, and /proc/driver/nvidia and /sys/bus/pci below a root folder; read-only. Nothing that pynvml
raises leaves this module: each answer that did not come is an `Unread` with NVML's words. Meaning is made of the
answers in `topology`. Numbers and semantics: NVML API reference (docs.nvidia.com/deploy/nvml-api) and nvml.h.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from stackwright.detect import gpu_reading
from stackwright.detect.fact import PCI_ADDRESS, Fact, T, Unread, read_file
from stackwright.detect.gpu_reading import INVALID_ARGUMENT, MOST_LANES, NOT_SUPPORTED, NoAnswer, slice_handles

LIBRARY = "libnvidia-ml.so.1"

FUNCTION_NOT_FOUND = 13

# pynvml 13's NVML_P2P_CAPS_INDEX_READ is the tuple `(0,)`, which its own binding refuses.
P2P_READ = 0


class LaneAnswers(Struct, frozen=True, kw_only=True):
    """One NVLink lane. `state` is 1 where it is up; the others are asked only then, and None otherwise."""

    state: Fact[int]
    remote_type: Fact[int] | None = None
    remote_bus_id: Fact[str] | None = None
    version: Fact[int] | None = None


class SliceAnswers(Struct, frozen=True, kw_only=True):
    """One MIG device; `number` is NVML's below its GPU. `memory` is (total, used) bytes."""

    number: int
    name: Fact[str]
    uuid: Fact[str]
    memory: Fact[tuple[int, int]]
    gpu_instance: Fact[int]


class GpuAnswers(Struct, frozen=True, kw_only=True):
    """One device. `memory` is (total, used) bytes; `capability` (major, minor); `numa_node` the text in /sys.

    `slices` are asked for only where MIG is on. One that has a number but no handle is an Unread among them.
    """

    index: int
    name: Fact[str]
    uuid: Fact[str]
    memory: Fact[tuple[int, int]]
    capability: Fact[tuple[int, int]]
    pci_bus_id: Fact[str]
    numa_node: Fact[str]
    mig: Fact[int]
    lanes: tuple[LaneAnswers, ...]
    slices: Fact[tuple[SliceAnswers | Unread, ...]]


class PairAnswers(Struct, frozen=True, kw_only=True):
    """Two devices, `a` < `b`: nvmlGpuTopologyLevel_t, and nvmlGpuP2PStatus_t for reading either way."""

    a: int
    b: int
    ancestor: Fact[int]
    a_reads_b: Fact[int]
    b_reads_a: Fact[int]


class NvmlAnswers(Struct, frozen=True, kw_only=True):
    """All of NVML's answers. A device without a handle (a lost GPU) is an Unread in `gpus`, and in no pair."""

    driver_version: Fact[str]
    cuda_version: Fact[int]
    gpus: Fact[tuple[GpuAnswers | Unread, ...]]
    pairs: tuple[PairAnswers, ...]


def probe_nvml(root: Path) -> Fact[NvmlAnswers] | None:
    """Ask NVML; None where the machine has no such library, Unread where it refuses to begin."""
    present = find_library()
    if present is None or isinstance(present, Unread):
        return present
    try:
        import pynvml
    except Exception as failure:  # noqa: BLE001 whatever an installation can break at import is one null of the host
        return Unread(words=f"pynvml: {failure}")
    begun = ask(pynvml.nvmlInit)
    if isinstance(begun, Unread):
        return begun
    try:
        return _probe_system(pynvml, root)
    finally:
        ask(pynvml.nvmlShutdown)


def sysfs_address(pci_bus_id: str) -> str:
    """Turn NVML's `00000000:C1:00.0` into the kernel's `0000:c1:00.0`.

    NVML writes the domain with 8 hexadecimal digits, the kernel with at least 4 (linux/pci.h, pci_setup_device).
    """
    domain, _, rest = pci_bus_id.lower().partition(":")
    return f"{domain.lstrip('0').rjust(4, '0')}:{rest}"


def find_library() -> bool | Unread | None:
    """Load the library as pynvml will: a tenth of the time that importing pynvml takes to say that there is none."""
    import ctypes

    try:
        ctypes.CDLL(LIBRARY)
    except OSError as failure:
        words = str(failure)
        return None if "No such file" in words else Unread(words=words)
    return True


def ask(function: Callable[..., T], *arguments: object) -> Fact[T]:
    """Call one NVML function."""
    answer = gpu_reading.ask(function, *arguments)
    return Unread(words=answer.words, code=answer.code) if isinstance(answer, NoAnswer) else answer


def _probe_system(pynvml: Any, root: Path) -> NvmlAnswers:
    count = ask(pynvml.nvmlDeviceGetCount)
    handles = [] if isinstance(count, Unread) else [ask(pynvml.nvmlDeviceGetHandleByIndex, i) for i in range(count)]
    gpus = tuple(
        handle if isinstance(handle, Unread) else _probe_gpu(pynvml, root, index, handle)
        for index, handle in enumerate(handles)
    )
    pairs = tuple(
        _probe_pair(pynvml, a, handles[a], b, handles[b])
        for a in range(len(handles))
        for b in range(a + 1, len(handles))
        if not isinstance(handles[a], Unread) and not isinstance(handles[b], Unread)
    )
    return NvmlAnswers(
        driver_version=ask(pynvml.nvmlSystemGetDriverVersion),
        # The first version of this function answers with a built-in number where libcuda is absent: a guess.
        cuda_version=ask(pynvml.nvmlSystemGetCudaDriverVersion_v2),
        gpus=count if isinstance(count, Unread) else gpus,
        pairs=pairs,
    )


def _probe_gpu(pynvml: Any, root: Path, index: int, handle: object) -> GpuAnswers:
    bus_id = ask(lambda: _bus_id(pynvml.nvmlDeviceGetPciInfo(handle)))
    mig = ask(lambda: int(pynvml.nvmlDeviceGetMigMode(handle)[0]))
    return GpuAnswers(
        index=index,
        name=ask(pynvml.nvmlDeviceGetName, handle),
        uuid=ask(pynvml.nvmlDeviceGetUUID, handle),
        memory=ask(lambda: _memory(pynvml.nvmlDeviceGetMemoryInfo(handle))),
        capability=ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        pci_bus_id=bus_id,
        numa_node=_probe_numa_node(root, bus_id),
        mig=mig,
        lanes=_probe_lanes(pynvml, handle),
        slices=probe_slices(pynvml, handle) if mig == 1 else (),
    )


def probe_slices(pynvml: Any, handle: object) -> Fact[tuple[SliceAnswers | Unread, ...]]:
    """Ask for every MIG device that there may be."""
    handles = slice_handles(pynvml, handle)
    if isinstance(handles, NoAnswer):
        return Unread(words=handles.words, code=handles.code)
    return tuple(
        Unread(words=mig_device.words, code=mig_device.code)
        if isinstance(mig_device, NoAnswer)
        else _probe_slice(pynvml, number, mig_device)
        for number, mig_device in handles
    )


def _probe_slice(pynvml: Any, number: int, mig_device: object) -> SliceAnswers:
    """Ask a MIG device for what NVML tells of one; all else is its GPU's."""
    return SliceAnswers(
        number=number,
        name=ask(pynvml.nvmlDeviceGetName, mig_device),
        uuid=ask(pynvml.nvmlDeviceGetUUID, mig_device),
        memory=ask(lambda: _memory(pynvml.nvmlDeviceGetMemoryInfo(mig_device))),
        gpu_instance=ask(pynvml.nvmlDeviceGetGpuInstanceId, mig_device),
    )


def _probe_numa_node(root: Path, bus_id: Fact[str]) -> Fact[str]:
    """Read the node whose CPUs are nearest.

    Not nvmlDeviceGetNumaNodeId: that is the node that a GPU's own memory forms on Grace Hopper, one without CPUs.
    """
    if isinstance(bus_id, Unread):
        return bus_id
    return read_file(root, f"/sys/bus/pci/devices/{sysfs_address(bus_id)}/numa_node")


def _probe_lanes(pynvml: Any, handle: object) -> tuple[LaneAnswers, ...]:
    lanes = []
    for number in range(MOST_LANES):
        state = ask(pynvml.nvmlDeviceGetNvLinkState, handle, number)
        if isinstance(state, Unread) and state.code == INVALID_ARGUMENT:
            break
        if isinstance(state, Unread) and state.code == NOT_SUPPORTED:
            continue
        lanes.append(_probe_lane(pynvml, handle, number, state))
    return tuple(lanes)


def _probe_lane(pynvml: Any, handle: object, number: int, state: Fact[int]) -> LaneAnswers:
    if isinstance(state, Unread) or state == 0:
        return LaneAnswers(state=state)
    return LaneAnswers(
        state=state,
        remote_type=ask(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, number),
        remote_bus_id=ask(lambda: _bus_id(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, number))),
        version=ask(pynvml.nvmlDeviceGetNvLinkVersion, handle, number),
    )


def _probe_pair(pynvml: Any, a: int, first: object, b: int, second: object) -> PairAnswers:
    return PairAnswers(
        a=a,
        b=b,
        ancestor=ask(pynvml.nvmlDeviceGetTopologyCommonAncestor, first, second),
        a_reads_b=ask(pynvml.nvmlDeviceGetP2PStatus, first, second, P2P_READ),
        b_reads_a=ask(pynvml.nvmlDeviceGetP2PStatus, second, first, P2P_READ),
    )


def _bus_id(info: Any) -> str:
    """Return nvmlPciInfo_t's address; pynvml has given it as bytes and as text. It becomes part of a path: checked."""
    bus_id = info.busId.decode("ascii") if isinstance(info.busId, bytes) else str(info.busId)
    if not PCI_ADDRESS.fullmatch(bus_id):
        raise ValueError("not a PCI address")
    return bus_id


def _memory(info: Any) -> tuple[int, int]:
    """Return total and used bytes of nvmlMemory_t, whose `used` counts what the driver reserves."""
    return int(info.total), int(info.used)
