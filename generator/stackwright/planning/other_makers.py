"""What this release cannot do for GPUs of other makers, and what would. Pure."""

from __future__ import annotations

from collections import Counter

from stackwright.domain.host import Host, Maker, OtherGpu
from stackwright.engines import default_engine
from stackwright.units import format_bytes

TITLES = {Maker.AMD: "AMD", Maker.INTEL: "Intel", Maker.HABANA: "Intel Gaudi"}


def serving_gpus(host: Host) -> tuple[OtherGpu, ...]:
    """Return the GPUs of other makers that some build serves: of a processor's own graphics few."""
    return tuple(gpu for gpu in host.other_gpus if default_engine().build_for(gpu) is not None)


def describe_other_gpus(host: Host) -> str:
    """Return them in a few words: `2× AMD Radeon RX 7900 XTX (gfx1100, 24 GiB)`."""
    names = Counter(_describe(gpu) for gpu in serving_gpus(host))
    return ", ".join(f"{count}× {name}" for name, count in names.items())


def what_would(host: Host) -> str:
    """Return what serves such GPUs, as the rest of a hint."""
    named = map(default_engine().build_for, serving_gpus(host))
    builds = dict.fromkeys(build for build in named if build is not None)
    return f"outside Stackwright, use {', and '.join(builds)}"


def warn_of_other_gpus(host: Host) -> str | None:
    """Return what a plan says that goes to the processor beside such GPUs; None where there is none."""
    found = describe_other_gpus(host)
    if not found or host.gpus:
        return None
    return f"this release does not support {found}: the processor serves; {what_would(host)}"


def _describe(gpu: OtherGpu) -> str:
    size = None if gpu.memory_bytes is None else format_bytes(gpu.memory_bytes)
    facts = (gpu.architecture, "in the processor, with its memory" if gpu.integrated else size)
    told = ", ".join(fact for fact in facts if fact)
    title = TITLES[gpu.maker]
    maker = title.split()[0]
    name = gpu.name or f"{title} GPU"
    name = name if name.lower().startswith(maker.lower()) else f"{maker} {name}"
    return f"{name} ({told})" if told else name
