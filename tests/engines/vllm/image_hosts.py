"""Hosts for the tests of the image planner, and the packaged catalog without what it does not read."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.host import HOST_SCHEMA, Containers, Cpu, Driver, Gpu, Host, OperatingSystem
from stackwright.engines.protocol import EngineNeeds, ImageChoice
from stackwright.engines.vllm.image import choose_image
from stackwright.errors import NoPlanError

CATALOG = replace(load_catalog(), services=tuple, llms=tuple)
X86, ARM = ("avx2", "avx512f"), ("asimd", "sve2")


def host(
    *names: str,
    driver: str | None = None,
    cuda: str | None = None,
    wsl: bool = False,
    flags: tuple[str, ...] = X86,
    capability: str | None = None,
) -> Host:
    """Make a host with these GPUs; each has its catalog row's compute capability where none is given."""
    rows = [CATALOG.find_gpu(name) for name in names]
    gpus = tuple(
        Gpu(
            index=index,
            uuid=f"GPU-{index}",
            name=name,
            memory_bytes=2**34,
            memory_used_bytes=0,
            compute_capability=capability or (row.compute_capability if row else None),
            pci_bus_id=None,
            numa_node=None,
            mig=False,
        )
        for index, (name, row) in enumerate(zip(names, rows, strict=True))
    )
    return Host(
        schema=HOST_SCHEMA,
        cpu=Cpu(model="A processor", cores=8, threads=16, numa_nodes=1, flags=flags),
        memory_bytes=2**36,
        os=OperatingSystem(kernel="6.8.0", wsl=wsl),
        driver=Driver(version=driver, cuda=cuda) if driver or cuda else None,
        gpus=gpus,
        links=(),
        p2p=(),
        containers=Containers(engine=None, version=None, compose=None, gpu_access=None),
    )


def choose(machine: Host, **needs: object) -> ImageChoice:
    """Choose for all GPUs of the host."""
    return choose_image(machine, machine.gpus, CATALOG, EngineNeeds(**needs))  # type: ignore[arg-type]


def refusal(machine: Host, **needs: object) -> NoPlanError:
    """Return the error of a choice that must fail."""
    with pytest.raises(NoPlanError) as failure:
        choose(machine, **needs)
    return failure.value
