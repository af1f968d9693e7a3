"""What the planner makes of each connection between GPUs: whether a replica would be split over it, and why. Pure."""

from __future__ import annotations

from stackwright.domain.forecast import EngineSettings
from stackwright.domain.host import Gpu, Host, Link
from stackwright.domain.placement import Placement
from stackwright.domain.topology import NVLINK_KINDS, GpuPair, nvlink_islands
from stackwright.errors import NoPlanError
from stackwright.planning.placement import Heads, equal_groups, placements, usable_gpus

LAST_RESORT = "only where no smaller group holds the model"


def judge_pairs(host: Host) -> tuple[GpuPair, ...]:
    """Judge every pair of whole GPUs."""
    gpus = [gpu for gpu in host.gpus if gpu.mig_slice is None]
    links = {(link.a, link.b): link for link in host.links}
    return tuple(
        _judge(host, first, second, links.get((first.index, second.index)))
        for number, first in enumerate(gpus)
        for second in gpus[number + 1 :]
    )


def _judge(host: Host, first: Gpu, second: Gpu, link: Link | None) -> GpuPair:
    places = {gpu.index: place for place, gpu in enumerate(host.gpus)}
    a, b = places[first.index], places[second.index]
    ways = (host.p2p[a][b], host.p2p[b][a]) if host.p2p else (None, None)
    split, why = _verdict(host, first, second, link)
    return GpuPair(
        a=first.index,
        b=second.index,
        kind=None if link is None else link.kind,
        lanes=None if link is None else link.lanes,
        peers=None if None in ways else all(ways),
        split=split,
        why=why,
    )


def _verdict(host: Host, first: Gpu, second: Gpu, link: Link | None) -> tuple[bool, str]:
    try:
        usable = usable_gpus(host, ())
    except NoPlanError:
        usable = ()
    if first.mig or second.mig:
        return False, "MIG is on: a replica runs on one slice"
    for gpu in (first, second):
        if gpu not in usable:
            return False, f"GPU {gpu.index} cannot be used"
    group = next((group for group in equal_groups(usable) if first in group), (first,))
    if second not in group:
        return False, "different models of GPU: each rank would wait for the slower"
    island = next((island for island in nvlink_islands(group, host.links) if first in island), (first,))
    if second in island:
        return True, "tensor parallel inside an NVLink island"
    if link is not None and link.kind in NVLINK_KINDS:
        return False, f"NVLink, but the pair is in no island in which all are joined; {LAST_RESORT}"
    return False, f"all-reduces over PCIe are slow: a replica on each; {LAST_RESORT}"


def possible_placements(host: Host) -> tuple[tuple[Placement, ...], str | None]:
    """Return the ways to place a model of no special shape, the preferred one first, or none and the reason."""
    try:
        return placements(host, None, EngineSettings(), Heads()), None
    except NoPlanError as failure:
        return (), failure.message
