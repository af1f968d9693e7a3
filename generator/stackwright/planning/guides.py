"""What popular guides say of such a host, where a fact says otherwise: told beside the setting that it would change. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stackwright.domain.catalog import Guide
from stackwright.domain.host import Gpu, Link
from stackwright.domain.plan import Setting
from stackwright.domain.topology import NVLINK_KINDS


def contradict_guides(
    settings: Mapping[str, Setting],
    guides: Sequence[Guide],
    gpus: tuple[Gpu, ...],
    ids: frozenset[str],
    links: tuple[Link, ...],
) -> dict[str, Setting]:
    """Return the settings, each with the claims that it goes against and the facts that it follows.

    Args:
        settings: those of the plan.
        guides: the catalog's rows.
        gpus: those of the plan; none on the CPU, of which no guide is known to be wrong.
        ids: the catalog's names of their models.
        links: of the host.
    """
    told = dict(settings)
    for guide in guides:
        if guide.setting in told and _concerns(guide, gpus, ids, links):
            before, source = told[guide.setting], f"{guide.source} ({guide.date})"
            told[guide.setting] = replace(
                before,
                reason=f"{before.reason}; guides say that {guide.claim}, but {guide.fact}",
                source=before.source if source in before.source else f"{before.source}; {source}",
            )
    return told


def _concerns(guide: Guide, gpus: tuple[Gpu, ...], ids: frozenset[str], links: tuple[Link, ...]) -> bool:
    """Say whether a claim would be made of these GPUs; every condition that the row sets must hold."""
    if not gpus or (guide.gpus and not ids & set(guide.gpus)):
        return False
    sizes = [gpu.memory_bytes for gpu in gpus]
    if guide.memory_gb_at_most is not None and not all(
        size and size <= guide.memory_gb_at_most * 2**30 for size in sizes
    ):
        return False
    indices = {gpu.index for gpu in gpus}
    joined = any(link.kind in NVLINK_KINDS and {link.a, link.b} <= indices for link in links)
    return len(gpus) > 1 and guide.nvlink is joined if guide.nvlink is not None else True
