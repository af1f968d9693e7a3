"""The host: one detected machine. What could not be read is None, never a guess.

The YAML form is the snapshot of `docs/reference/host.md`: field names here are its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

HOST_SCHEMA = 1


class LinkKind(StrEnum):
    """How two GPUs reach each other, closest first.

    The PCIe kinds are NVML's common-ancestor levels: `pcie-switch` is PIX or PXB, `pcie-host` is
    PHB, `numa` is NODE and `system` is SYS (nvml.h, nvmlGpuTopologyLevel_t; nvidia-smi topo -m).
    """

    NVLINK = "nvlink"
    NVSWITCH = "nvswitch"
    PCIE_SWITCH = "pcie-switch"
    PCIE_HOST = "pcie-host"
    NUMA = "numa"
    SYSTEM = "system"


class GpuAccess(StrEnum):
    """How the container engine hands GPUs to a container."""

    CDI = "cdi"
    RUNTIME = "runtime"
    NONE = "none"


class Cpu(Struct, frozen=True, kw_only=True):
    """The processor. `cores` are physical, `threads` logical; `flags` are the instruction sets that matter."""

    model: str | None
    cores: int | None
    threads: int | None
    numa_nodes: int | None
    flags: tuple[str, ...]


class OperatingSystem(Struct, frozen=True, kw_only=True):
    """The kernel, and whether it is the Windows Subsystem for Linux.

    `container`: what this system itself runs in, such as `lxc`; None where nothing says that it does.
    """

    kernel: str | None
    wsl: bool | None
    container: str | None = None


def newer_driver(os: OperatingSystem, cuda: str | None) -> str:
    """Return how a system comes by a driver that speaks a CUDA version; a container has its machine's."""
    if os.wsl:
        return "update the NVIDIA driver on Windows"
    if os.container:
        return (
            f"take a pod whose driver reports CUDA ≥ {cuda or 'of the image'}, or update the driver of the machine "
            "that this container runs on"
        )
    return "update the NVIDIA driver"


class Driver(Struct, frozen=True, kw_only=True):
    """The NVIDIA driver: its version, the newest CUDA it speaks, and NVML's failure where it gave one."""

    version: str | None
    cuda: str | None
    error: str | None = None


class MigSlice(Struct, frozen=True, kw_only=True):
    """What a MIG slice is cut from: the GPU with index `gpu`, and there a GPU instance.

    Slices of one GPU instance share its memory (NVIDIA MIG user guide, concepts: compute instance).
    """

    gpu: int
    gpu_instance: int | None


class Gpu(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One device; everything but `index` is None where it could not be read.

    `index` is NVML's (PCI bus order). A MIG slice is a device of its own, with `mig_slice`, and numbered behind the
    GPUs; the GPU that it is cut from keeps its row, with `mig` true.
    """

    index: int
    uuid: str | None
    name: str | None
    memory_bytes: int | None
    memory_used_bytes: int | None
    compute_capability: str | None
    pci_bus_id: str | None
    numa_node: int | None
    mig: bool | None
    mig_slice: MigSlice | None = None


class Maker(StrEnum):
    """Who makes a GPU that is not NVIDIA's."""

    AMD = "amd"
    INTEL = "intel"
    HABANA = "habana"


class OtherGpu(Struct, frozen=True, kw_only=True):
    """A GPU of another maker than NVIDIA; no plan uses it.

    `architecture` is AMD's, such as gfx1100. `integrated`: the processor's own graphics, which serve no model.
    """

    maker: Maker
    name: str | None
    architecture: str | None
    memory_bytes: int | None
    pci_bus_id: str
    driver: str | None
    integrated: bool


class Link(Struct, frozen=True, kw_only=True):
    """The best connection between GPUs `a` < `b` (indices). `lanes` and `version` only for NVLink kinds."""

    a: int
    b: int
    kind: LinkKind
    lanes: int | None
    version: int | None


class Containers(Struct, frozen=True, kw_only=True):
    """The container engine that answers, or Nones where none does.

    `rootless`: root in a container is the engine's own user, and other users are none of this machine. `selinux`: the
    kernel keeps containers from files without their label. None where the engine does not say so.
    """

    engine: str | None
    version: str | None
    compose: str | None
    gpu_access: GpuAccess | None
    rootless: bool | None = None
    selinux: bool | None = None


class Network(Struct, frozen=True, kw_only=True):
    """What programs of this machine are told about the way to the internet.

    `proxy` is a URL without user and password; `no_proxy` are hosts that are asked without it. `certificates` is a PEM
    file of authorities that this machine trusts beyond the public ones. `hub` is a mirror; `offline`: none is asked.
    """

    proxy: str | None = None
    no_proxy: tuple[str, ...] = ()
    certificates: str | None = None
    hub: str | None = None
    offline: bool = False


_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def is_offline(variables: Mapping[str, str]) -> bool:
    """Return whether no hub may be asked (huggingface_hub 2.4.0, constants.py: the variables and what is true)."""
    return any(variables.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


class Host(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One machine. `p2p[i][j]`: can the i-th of `gpus` read the j-th's memory; n×n, None where unknown.

    `network` is None where programs reach the internet without being told how.
    """

    schema: int
    cpu: Cpu
    memory_bytes: int | None
    os: OperatingSystem
    driver: Driver | None
    gpus: tuple[Gpu, ...]
    links: tuple[Link, ...]
    p2p: tuple[tuple[bool | None, ...], ...]
    containers: Containers
    network: Network | None = None
    other_gpus: tuple[OtherGpu, ...] = ()
