"""Which GPUs are close to each other, and which is alone."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from stackwright.domain.host import Gpu, Host, Link, LinkKind

NVLINK_KINDS = frozenset({LinkKind.NVLINK, LinkKind.NVSWITCH})


class GpuPair(Struct, frozen=True, kw_only=True):
    """Two GPUs, `a` < `b`, by index. `kind` is None where NVML does not tell how they reach each other.

    `peers`: whether each can read the other's memory, None where unknown. `split`: tensor parallel uses the pair where
    a model pays for it.
    """

    a: int
    b: int
    kind: LinkKind | None
    lanes: int | None
    peers: bool | None
    split: bool
    why: str


def nvlink_islands(gpus: Iterable[Gpu], links: Iterable[Link]) -> tuple[tuple[Gpu, ...], ...]:
    """Group GPUs into islands in which every pair is joined by NVLink or NVSwitch; largest first, then by index.

    A chain (0-1, 1-2 without 0-2) is two islands, not one: the ends would talk over PCIe.
    """
    joined = {frozenset((link.a, link.b)) for link in links if link.kind in NVLINK_KINDS}
    islands: list[list[Gpu]] = []
    for gpu in sorted(gpus, key=lambda gpu: gpu.index):
        home = next(
            (island for island in islands if all(frozenset((gpu.index, other.index)) in joined for other in island)),
            None,
        )
        if home is None:
            islands.append([gpu])
        else:
            home.append(gpu)
    return tuple(tuple(island) for island in sorted(islands, key=lambda island: (-len(island), island[0].index)))


def sole_slice(host: Host) -> Gpu | None:
    """Return the MIG slice of a host that has one GPU and one slice of it, as a pod often has; None on any other."""
    slices = [gpu for gpu in host.gpus if gpu.mig_slice is not None]
    return slices[0] if len(slices) == 1 and len(host.gpus) == 2 else None
