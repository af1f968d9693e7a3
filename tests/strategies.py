"""Hypothesis strategies for the words of the domain: hosts as any machine could be, not only as known ones are."""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st
from msgspec.structs import replace
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
    Network,
    OperatingSystem,
)

GIB = 2**30
T = TypeVar("T")


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


# Made once each: Hypothesis works out anew what a strategy can give for every object that it meets.
@cache
def maybe_text() -> st.SearchStrategy[str | None]:
    """One of these texts, or nothing."""
    return st.none() | plain_texts()


@cache
def maybe_version() -> st.SearchStrategy[str | None]:
    """A version, or nothing."""
    return st.none() | versions()


@cache
def maybe_number(first: int, last: int) -> st.SearchStrategy[int | None]:
    """A number from the first to the last, or nothing."""
    return st.none() | st.integers(first, last)


@cache
def one_of(*values: T) -> st.SearchStrategy[T]:
    """One of these values."""
    return st.sampled_from(values)


MAYBE = st.none() | st.booleans()
FLAGS = st.lists(st.sampled_from(["avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"]), unique=True)
GPU_MEMORY = st.none() | st.integers(1, 300).map(lambda size: size * GIB)
GPU_LETTERS = st.none() | st.text(string.hexdigits.lower(), min_size=8, max_size=8)
NO_CONTAINERS = Containers(engine=None, version=None, compose=None, gpu_access=None)


@cache
def drivers() -> st.SearchStrategy[Driver]:
    """A driver, or what was heard of one."""
    return st.builds(Driver, version=maybe_version(), cuda=maybe_version(), error=maybe_text())


@cache
def containers() -> st.SearchStrategy[Containers]:
    """A container engine, or none."""
    engines = st.builds(
        Containers,
        engine=st.sampled_from(["docker", "podman"]),
        version=maybe_version(),
        compose=maybe_version(),
        gpu_access=st.sampled_from(GpuAccess),
        rootless=st.sampled_from([None, True]),
        selinux=st.sampled_from([None, True]),
    )
    return engines | st.just(NO_CONTAINERS)


@cache
def networks() -> st.SearchStrategy[Network | None]:
    """A way to the internet that is told; most hosts have none."""
    told = st.builds(
        Network,
        proxy=one_of(None, "http://proxy.corp:3128", "http://127.0.0.1:3128"),
        no_proxy=one_of((), ("*.corp", "10.0.0.0/8")),
        certificates=one_of(None, "/etc/corp.pem"),
        hub=one_of(None, "https://mirror.corp/hf"),
        offline=st.booleans(),
    )
    return st.none() | told.filter(lambda network: network != Network())


@st.composite
def cpus(draw: st.DrawFn) -> Cpu:
    """A processor with no more cores than threads."""
    threads = draw(maybe_number(1, 512))
    cores = draw(maybe_number(1, threads or 512))
    flags = draw(FLAGS)
    return Cpu(
        model=draw(maybe_text()),
        cores=cores,
        threads=threads,
        numa_nodes=draw(maybe_number(1, 16)),
        flags=tuple(flags),
    )


@st.composite
def gpus(draw: st.DrawFn, index: int) -> Gpu:
    """A device; any of its facts may be unknown."""
    total, letters = draw(GPU_MEMORY), draw(GPU_LETTERS)
    return Gpu(
        index=index,
        uuid=None if letters is None else f"GPU-{letters}-{index:04d}",
        name=draw(maybe_text()),
        memory_bytes=total,
        memory_used_bytes=draw(maybe_number(0, total)) if total is not None else None,
        compute_capability=draw(one_of(None, "6.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")),
        pci_bus_id=draw(one_of(None, f"00000000:{index + 1:02X}:00.0")),
        numa_node=draw(maybe_number(0, 15)),
        mig=draw(MAYBE),
    )


@st.composite
def slices(draw: st.DrawFn, index: int, whole: Gpu) -> Gpu:
    """A MIG slice of a GPU, of one of an A100's profiles; as with any device, its facts may be unknown."""
    profile, eighths = draw(one_of(("1g.5gb", 1), ("2g.10gb", 2), ("3g.20gb", 4), ("7g.40gb", 8)))
    total = None if whole.memory_bytes is None else whole.memory_bytes * eighths // 8
    return replace(
        whole,
        index=index,
        uuid=draw(one_of(None, f"MIG-{whole.index:04d}-{index:04d}")),
        name=None if whole.name is None else f"{whole.name} MIG {profile}",
        memory_bytes=total,
        memory_used_bytes=draw(st.none() | st.sampled_from([0, total, total // 2])) if total is not None else None,
        mig=False,
        # Numbers may meet: compute instances of one GPU instance share its memory.
        mig_slice=MigSlice(gpu=whole.index, gpu_instance=draw(maybe_number(1, 9))),
    )


@st.composite
def links(draw: st.DrawFn, a: int, b: int) -> Link:
    """A connection of two given GPUs."""
    kind = draw(one_of(*LinkKind))
    nvlink = kind in (LinkKind.NVLINK, LinkKind.NVSWITCH)
    return Link(
        a=a,
        b=b,
        kind=kind,
        lanes=draw(maybe_number(1, 18)) if nvlink else None,
        version=draw(maybe_number(1, 6)) if nvlink else None,
    )


@st.composite
def hosts(draw: st.DrawFn, max_gpus: int = 5, gpu: Callable[[int], st.SearchStrategy[Gpu]] = gpus) -> Host:
    """A host that `stackwright.detect.snapshot.check_host` accepts, with up to `max_gpus` GPUs: `gpu(index)` draws
    each.

    One with MIG on may have slices behind them.
    """
    count = draw(one_of(*range(max_gpus + 1)))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    known = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    whole = [draw(gpu(index)) for index in range(count)]
    cut = [each for each in whole if each.mig for _ in range(draw(one_of(0, 1, 2, 3)))]
    devices = (*whole, *(draw(slices(index, each)) for index, each in enumerate(cut, start=count)))
    row = st.lists(MAYBE, min_size=len(devices), max_size=len(devices)).map(tuple)
    return Host(
        schema=HOST_SCHEMA,
        cpu=draw(cpus()),
        memory_bytes=draw(maybe_number(GIB, 4096 * GIB)),
        os=OperatingSystem(kernel=draw(maybe_text()), wsl=draw(MAYBE)),
        driver=draw(drivers()) if count or draw(st.booleans()) else None,
        gpus=devices,
        links=tuple(draw(links(a, b)) for a, b in sorted(known)),
        p2p=tuple(draw(st.lists(row, min_size=len(devices), max_size=len(devices)))),
        containers=draw(containers()),
        network=draw(networks()),
    )
