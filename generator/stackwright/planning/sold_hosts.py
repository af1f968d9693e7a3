"""Hosts as they could be bought or rented: some GPUs of one model of the catalog, a driver, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from stackwright.domain.catalog import Catalog
from stackwright.domain.hardware import GpuModel
from stackwright.domain.host import (
    HOST_SCHEMA,
    Containers,
    Cpu,
    Driver,
    Gpu,
    Host,
    Link,
    LinkKind,
    OperatingSystem,
)
from stackwright.units import GIB, MIB, version_parts

# A host has mostly one, two, four or eight GPUs.
COUNTS = (1, 2, 4, 8)


@lru_cache(maxsize=1024)
def sold_host(model: GpuModel, count: int, driver: Driver) -> Host | None:
    """Return a host with free GPUs of a model; None where the model's memory is not known.

    GPUs of a mesh are joined, as their boards come; a bridge is bought apart, and none is taken to be there.
    """
    if model.nvml_memory_mib is None and not (model.unified_memory and model.cuda_memory_gib):
        return None
    meshed = model.nvlink is not None and model.nvlink.kind == "mesh"
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    kind = LinkKind.NVSWITCH if meshed else LinkKind.PCIE_HOST
    return Host(
        schema=HOST_SCHEMA,
        cpu=Cpu(model=None, cores=None, threads=None, numa_nodes=None, flags=()),
        memory_bytes=int(model.cuda_memory_gib * GIB) if model.unified_memory and model.cuda_memory_gib else None,
        os=OperatingSystem(kernel=None, wsl=False),
        driver=driver,
        gpus=tuple(_gpu(model, index) for index in range(count)),
        links=tuple(Link(a=a, b=b, kind=kind, lanes=None, version=None) for a, b in pairs),
        p2p=(),
        containers=Containers(engine=None, version=None, compose=None, gpu_access=None),
    )


def _gpu(model: GpuModel, index: int) -> Gpu:
    total = model.nvml_memory_mib
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name=model.names[0],
        memory_bytes=total * MIB if total is not None else None,
        memory_used_bytes=0 if total is not None else None,
        compute_capability=model.compute_capability,
        pci_bus_id=None,
        numa_node=None,
        mig=None,
    )


def newest_driver(catalog: Catalog) -> Driver:
    """Return a driver of the newest branch that the catalog knows."""
    newest = max(catalog.drivers().branches, key=lambda branch: branch.branch)
    return Driver(version=f"{newest.branch}.0.0", cuda=newest.cuda, error=None)


def drivers_for(model: GpuModel, catalog: Catalog) -> Iterator[Driver]:
    """Yield the first drivers of each CUDA release that know a GPU model, newest first."""
    known = sorted(catalog.drivers().toolkits, key=lambda row: version_parts(row.driver), reverse=True)
    floor = version_parts(model.minimum_driver or "0")
    for row in known:
        if version_parts(row.driver) >= floor:
            yield Driver(version=row.driver, cuda=row.cuda, error=None)


def short_name(model: GpuModel) -> str:
    """Return a GPU model's name without its maker: `RTX 3090`, `H100 80GB HBM3`."""
    words = model.names[0].split()
    return " ".join(word for word in words if word not in ("NVIDIA", "GeForce", "Tesla", "Generation", "Edition"))
