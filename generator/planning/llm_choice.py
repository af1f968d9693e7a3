"""Which model to serve where the user named none: the best of the catalog for this host and objective. Pure.

No benchmark score is known here, and none is invented: what decides are facts of the catalog. The rule, which
docs/decisions/0012-models.md argues:

1. A candidate chats (or chats and sees), needs no engine newer than the chosen one, has a checkpoint that fits, and
   needs no access request unless a token is there.
2. Of those, only the recent: released within `RECENT_MONTHS` of the newest that fits. Older ones follow as runners-up.
3. Of those, the large: at least `SAME_CLASS` of the most parameters among them.
4. Of those, by objective: `latency` the fewest parameters read per token, since decoding is bound by reading weights;
   `throughput` the mixtures of experts, which read a part of themselves; `context` the longest context. Then the most
   parameters, in tenths of the most; among those the newest, then the most parameters exactly, then the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from generator.domain.catalog import order_release
from generator.domain.model_facts import CatalogLlm, Checkpoint, LlmRole
from generator.planning.quantization import Kernel, advise_checkpoint
from generator.units import format_bytes

RECENT_MONTHS = 12
SAME_CLASS = 0.5
RUNNERS_UP = 3
OBJECTIVES = ("throughput", "latency", "context")
_CHATS = (LlmRole.CHAT, LlmRole.VISION)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that this host can serve, the checkpoint that it would serve, and why it stands where it stands."""

    row: CatalogLlm
    checkpoint: Checkpoint
    kernel: Kernel | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class LlmChoice:
    """The model, the next best ones, and why each of the others is out. `best` is None where nothing fits."""

    best: Candidate | None
    runners_up: tuple[Candidate, ...]
    excluded: tuple[tuple[str, str], ...]


def choose_llm(
    llms: Iterable[CatalogLlm],
    fits: Callable[[CatalogLlm, Checkpoint], bool | None],
    *,
    objective: str,
    compute_capability: str | None,
    has_token: bool,
    engine_version: str | None = None,
    most_active_parameters: int | None = None,
) -> LlmChoice:
    """Choose a model by the rule above.

    Args:
        fits: says of a checkpoint whether this host serves it; None where nobody can know, which counts as no.
        objective: `throughput`, `latency` or `context`.
        compute_capability: of the least capable GPU; None on a CPU.
        has_token: whether the hub's token is there; without it, a model that may ask for access is never chosen.
        engine_version: the newest release that this host runs, None where any may be had.
        most_active_parameters: no model that reads more per token, for hosts where it would crawl (CPU).
    """
    found: list[Candidate] = []
    excluded: list[tuple[str, str]] = []
    for row in llms:
        reason = _unfit(row, engine_version, most_active_parameters)
        if reason is not None:
            excluded.append((row.name, reason))
            continue
        advice = advise_checkpoint(row, compute_capability, partial(fits, row), has_token=has_token)
        if advice.checkpoint is None:
            excluded.append((row.name, advice.sentence))
            continue
        found.append(Candidate(row=row, checkpoint=advice.checkpoint, kernel=advice.kernel, reason=advice.sentence))
    ranked = _rank(found, objective)
    return LlmChoice(
        best=ranked[0] if ranked else None, runners_up=tuple(ranked[1 : 1 + RUNNERS_UP]), excluded=tuple(excluded)
    )


def _unfit(row: CatalogLlm, engine_version: str | None, most_active: int | None) -> str | None:
    if row.role not in _CHATS:
        return f"is for {row.role}"
    if engine_version and row.minimum_engine and order_release(row.minimum_engine) > order_release(engine_version):
        return f"needs engine {row.minimum_engine}, this host runs {engine_version}"
    if most_active is not None and _active(row) > most_active:
        return f"reads {_billions(_active(row))} parameters per token, more than {_billions(most_active)}"
    return None


def _rank(found: list[Candidate], objective: str) -> list[Candidate]:
    """Sort candidates, best first, each with the reason of its place."""
    if not found:
        return []
    newest = max(_months(each.row) for each in found)
    recent = [each for each in found if newest - _months(each.row) <= RECENT_MONTHS]
    largest = max(each.row.parameters or 0 for each in recent)

    def place(each: Candidate) -> tuple[object, ...]:
        row, old = each.row, newest - _months(each.row) > RECENT_MONTHS
        small = (row.parameters or 0) < SAME_CLASS * largest
        wish = {"context": -(row.context_tokens or 0), "latency": _active(row)}.get(objective, not _is_sparse(row))
        # A tenth more parameters says less of a model than its age does.
        tenths = round(10 * (row.parameters or 0) / (largest or 1))
        rank = (-tenths, -_months(row), -(row.parameters or 0), row.name)
        return (old, small, *((0,) if old or small else (wish,)), *rank)

    return [_explained(each, newest, largest, objective) for each in sorted(found, key=place)]


def _explained(each: Candidate, newest: int, largest: int, objective: str) -> Candidate:
    row = each.row
    size = f"{_billions(row.parameters)} parameters"
    if newest - _months(row) > RECENT_MONTHS:
        place = (
            f"released {row.released or 'at an unknown time'}, over {RECENT_MONTHS} months before the newest that fits"
        )
    elif (row.parameters or 0) < SAME_CLASS * largest:
        place = f"{size}, under half of the largest that fits"
    elif objective == "context":
        place = f"context of {row.context_tokens or 'unknown'} tokens, {size}"
    else:
        place = f"reads {_billions(_active(row))} of {size} per token"
    size_on_disk = format_bytes(each.checkpoint.weight_bytes)
    reason = f"{place}; {each.checkpoint.hub_id} loses least of what fits ({each.checkpoint.format}, {size_on_disk})"
    return Candidate(row=row, checkpoint=each.checkpoint, kernel=each.kernel, reason=reason)


def _is_sparse(row: CatalogLlm) -> bool:
    """Say whether a model reads less than half of itself per token."""
    return _active(row) * 2 < (row.parameters or 0)


def _active(row: CatalogLlm) -> int:
    return row.active_parameters or row.parameters or 0


def _months(row: CatalogLlm) -> int:
    """Count the months from year 0 to the release; an unknown one counts as the oldest."""
    if row.released is None:
        return 0
    year, month = row.released.split("-")
    return int(year) * 12 + int(month)


def _billions(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.3g}B"
