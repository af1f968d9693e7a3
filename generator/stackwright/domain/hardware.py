"""Facts of GPUs and drivers, each row with its source and the date it was looked up. Pure.

Apart from the rest of the catalog, since a plan for a CPU needs none of them.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

from msgspec import Struct


class GpuClass(StrEnum):
    """What a GPU is sold as; forward compatibility and the container runtime's gate depend on it."""

    CONSUMER = "consumer"
    WORKSTATION = "workstation"
    DATACENTER = "datacenter"
    EMBEDDED = "embedded"


class FactStatus(StrEnum):
    """How a figure is known: as a device reported it, or not at all."""

    MEASURED = "measured"
    UNKNOWN = "unknown"


class NvLink(Struct, frozen=True, kw_only=True):
    """A GPU model's NVLink. `gb_per_s` is both directions together; `peers` the GPUs a bridge joins, None for a mesh.

    `kind`: bridge, mesh (NVSwitch or direct), or c2c (to the Grace processor, not to another GPU).
    """

    generation: int | None
    lanes: int | None
    gb_per_s: float
    kind: str
    peers: int | None = None


class GpuModel(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One NVIDIA GPU model. What NVML says of the device at hand always wins over these figures.

    `names` are NVML's; `memory_gb` is the marketing figure; `nvml_memory_mib` NVML's total, `cuda_memory_gib` what CUDA
    can allocate from, None where nobody saw it. `formats` are those the tensor cores multiply. `p2p_pcie`: yes, no,
    nvlink-only or n/a, None unknown. `processor` where the GPU comes with one, such as Grace. `minimum_driver` is the
    first driver that knows the model.
    """

    id: str
    names: tuple[str, ...]
    architecture: str
    compute_capability: str
    gpu_class: GpuClass
    memory_gb: int
    nvml_memory_mib: int | None
    memory_status: FactStatus
    bandwidth_gb_per_s: float | None
    formats: tuple[str, ...]
    p2p_pcie: str | None
    source: str
    date: str
    cuda_memory_gib: float | None = None
    nvlink: NvLink | None = None
    mig_instances: int = 0
    processor: str | None = None
    unified_memory: bool = False
    minimum_driver: str | None = None
    note: str | None = None


class Price(Struct, frozen=True, kw_only=True):
    """What an hour of one GPU was offered for, on `date`, by its row's id.

    `together`: the number of GPUs that are rented at once, None for any. `market`: the lowest of many offers.
    """

    gpu: str
    provider: str
    usd_per_gpu_hour: float
    together: int | None
    source: str
    date: str
    market: bool = False


class DriverBranch(Struct, frozen=True, kw_only=True):
    """A Linux driver branch and the newest CUDA that it speaks."""

    branch: int
    cuda: str
    source: str
    date: str


class ToolkitDriver(Struct, frozen=True, kw_only=True):
    """A CUDA toolkit and the first Linux driver that supports it in full."""

    cuda: str
    driver: str
    source: str
    date: str


class MinorVersionFloor(Struct, frozen=True, kw_only=True):
    """The first driver that runs any toolkit of one CUDA major release, without newer features and PTX."""

    cuda_major: int
    driver: str
    source: str
    date: str


class ForwardCompatibility(Struct, frozen=True, kw_only=True):
    """Branches on which the compatibility libraries of one CUDA major release run, on data-centre GPUs alone.

    `variable` is what switches them on in the engine's image, from release `since` on.
    """

    cuda_major: int
    branches: tuple[int, ...]
    variable: str
    since: str
    source: str
    date: str


class ContainerGate(Struct, frozen=True, kw_only=True):
    """NVIDIA_REQUIRE_CUDA of a base image: besides `cuda>=X`, older branches that it admits where the brand is none of
    GeForce and TITAN."""

    cuda: str
    branches: tuple[int, ...]
    source: str
    date: str


class Drivers(Struct, frozen=True, kw_only=True):
    """What is known of NVIDIA's driver branches and of the rules between drivers and CUDA."""

    branches: tuple[DriverBranch, ...]
    toolkits: tuple[ToolkitDriver, ...]
    minor_version_floors: tuple[MinorVersionFloor, ...]
    forward_compatibility: tuple[ForwardCompatibility, ...]
    gates: tuple[ContainerGate, ...]


@lru_cache(maxsize=4096)
def plain_gpu_name(name: str) -> str:
    """Bring an NVML name to one form: drivers before R495 or so leave `NVIDIA` out; a MIG slice names its profile."""
    words = name.lower().split()
    if "mig" in words[1:]:
        words = words[: words.index("mig")]
    return " ".join(words[1:] if words[:1] == ["nvidia"] else words)
