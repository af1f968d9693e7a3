"""Hypothesis strategies for the words of the domain: hosts as any machine could be, not only as known ones are."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st
from stackwright.domain.host import (
    HOST_SCHEMA,
    Containers,
    Cpu,
    Driver,
    Gpu,
    GpuAccess,
    Host,
    Link,
    LinkKind,
    MigSlice,
    OperatingSystem,
)

GIB = 2**30


@cache
def plain_texts() -> st.SearchStrategy[str]:
    """Texts that a name or version may be: printable, one line, no blanks at the ends. YAML's own words included."""
    words = st.sampled_from(["null", "true", "no", "8.6", "1e5", "0x1F", "1:30", "~", "=", "<<", "2026-11-21", "- a"])
    texts = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=60)
    return words | texts.filter(lambda text: text.isprintable() and text == text.strip())


@cache
def versions() -> st.SearchStrategy[str]:
    """Versions as drivers and engines write them."""
    numbers = st.lists(st.integers(0, 999), min_size=2, max_size=4)
    return numbers.map(lambda parts: ".".join(str(part) for part in parts))


@st.composite
def cpus(draw: st.DrawFn) -> Cpu:
    """A processor with no more cores than threads."""
    threads = draw(st.none() | st.integers(1, 512))
    cores = draw(st.none() | st.integers(1, threads or 512))
    flags = draw(
        st.lists(st.sampled_from(["avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"]), unique=True)
    )
    return Cpu(
        model=draw(st.none() | plain_texts()),
        cores=cores,
        threads=threads,
        numa_nodes=draw(st.none() | st.integers(1, 16)),
        flags=tuple(flags),
    )


@st.composite
def gpus(draw: st.DrawFn, index: int) -> Gpu:
    """A device; any of its facts may be unknown."""
    total = draw(st.none() | st.integers(1, 300).map(lambda size: size * GIB))
    letters = st.text(string.hexdigits.lower(), min_size=8, max_size=8)
    return Gpu(
        index=index,
        uuid=draw(st.none() | letters.map(lambda text: f"GPU-{text}-{index:04d}")),
        name=draw(st.none() | plain_texts()),
        memory_bytes=total,
        memory_used_bytes=draw(st.none() | st.integers(0, total)) if total is not None else None,
        compute_capability=draw(
            st.none() | st.sampled_from(["6.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"])
        ),
        pci_bus_id=draw(st.none() | st.just(f"00000000:{index + 1:02X}:00.0")),
        numa_node=draw(st.none() | st.integers(0, 15)),
        mig=draw(st.none() | st.booleans()),
    )


@st.composite
def slices(draw: st.DrawFn, index: int, whole: Gpu) -> Gpu:
    """A MIG slice of a GPU, of one of an A100's profiles; as with any device, its facts may be unknown."""
    profile, eighths = draw(st.sampled_from([("1g.5gb", 1), ("2g.10gb", 2), ("3g.20gb", 4), ("7g.40gb", 8)]))
    total = None if whole.memory_bytes is None else whole.memory_bytes * eighths // 8
    return replace(
        whole,
        index=index,
        uuid=draw(st.none() | st.just(f"MIG-{whole.index:04d}-{index:04d}")),
        name=None if whole.name is None else f"{whole.name} MIG {profile}",
        memory_bytes=total,
        memory_used_bytes=draw(st.none() | st.sampled_from([0, total, total // 2])) if total is not None else None,
        mig=False,
        # Numbers may meet: compute instances of one GPU instance share its memory.
        mig_slice=MigSlice(gpu=whole.index, gpu_instance=draw(st.none() | st.integers(1, 9))),
    )


@st.composite
def links(draw: st.DrawFn, a: int, b: int) -> Link:
    """A connection of two given GPUs."""
    kind = draw(st.sampled_from(LinkKind))
    nvlink = kind in (LinkKind.NVLINK, LinkKind.NVSWITCH)
    return Link(
        a=a,
        b=b,
        kind=kind,
        lanes=draw(st.none() | st.integers(1, 18)) if nvlink else None,
        version=draw(st.none() | st.integers(1, 6)) if nvlink else None,
    )


@st.composite
def hosts(draw: st.DrawFn, max_gpus: int = 5, gpu: Callable[[int], st.SearchStrategy[Gpu]] = gpus) -> Host:
    """A host that `stackwright.detect.snapshot.check_host` accepts, with up to `max_gpus` GPUs: `gpu(index)` draws each.

    One with MIG on may have slices behind them.
    """
    count = draw(st.integers(0, max_gpus))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    known = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    whole = [draw(gpu(index)) for index in range(count)]
    cut = [each for each in whole if each.mig for _ in range(draw(st.integers(0, 3)))]
    devices = (*whole, *(draw(slices(index, each)) for index, each in enumerate(cut, start=count)))
    row = st.lists(st.none() | st.booleans(), min_size=len(devices), max_size=len(devices)).map(tuple)
    driver = st.builds(
        Driver,
        version=st.none() | versions(),
        cuda=st.none() | versions(),
        error=st.none() | plain_texts(),
    )
    containers = st.builds(
        Containers,
        engine=st.sampled_from(["docker", "podman"]),
        version=st.none() | versions(),
        compose=st.none() | versions(),
        gpu_access=st.sampled_from(GpuAccess),
    )
    return Host(
        schema=HOST_SCHEMA,
        cpu=draw(cpus()),
        memory_bytes=draw(st.none() | st.integers(GIB, 4096 * GIB)),
        os=OperatingSystem(kernel=draw(st.none() | plain_texts()), wsl=draw(st.none() | st.booleans())),
        driver=draw(driver if count else st.none() | driver),
        gpus=devices,
        links=tuple(draw(links(a, b)) for a, b in sorted(known)),
        p2p=tuple(draw(st.lists(row, min_size=len(devices), max_size=len(devices)))),
        containers=draw(
            containers | st.just(Containers(engine=None, version=None, compose=None, gpu_access=None)),
        ),
    )
