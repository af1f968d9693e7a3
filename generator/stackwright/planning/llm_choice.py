"""Which model to serve where the user named none: the best of the catalog for this host and objective. Pure.

No benchmark score is known here, and none is invented: what decides are facts of the catalog. The rule, which
docs/decisions/0012-models.md argues:

1. A candidate chats (or chats and sees), needs no engine newer than the chosen one, has a checkpoint that fits, and
   needs no access request unless a token is there.
2. Of those, only the recent: released within `RECENT_MONTHS` of the newest that fits. Older ones follow as runners-up.
3. Of those, the large: at least `SAME_CLASS` of the most parameters among them.
4. Of those, by objective: `latency` the fewest parameters read per token, since decoding is bound by reading weights;
   `throughput` the mixtures of experts, which read a part of themselves; `context` the longest request that fits here.
   Then the most parameters, in tenths of the most; among those the ones with room for more than a few short requests
   (`ROOMY_TOKENS`), the newest, then the most parameters exactly, then the name.

A forecast takes time, so a model is asked about only where its answer can change the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import order_release
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.domain.objective import Objective
from stackwright.domain.role import Role
from stackwright.planning.quantization import Advice, Kernel, Rules, advise_checkpoint

RECENT_MONTHS = 12
SAME_CLASS = 0.5
RUNNERS_UP = 3
# Room for four requests of 8,192 tokens at once, or for a long one, a judgement: the most precise weights are taken
# where they leave that.
ROOMY_TOKENS = 32_768
# What each objective prefers among recent models of a size, in the words of a reason.
PREFERENCES = {
    Objective.THROUGHPUT: "mixture-of-experts models come first: they read fewer weights per token",
    Objective.LATENCY: "the fewest parameters read per token come first: they bound decoding speed",
    Objective.CONTEXT: "the longest request that fits comes first",
}
_CHATS = (Role.CHAT, Role.VISION)

# The longest request, in tokens, that this host serves of a checkpoint: 0 where it does not fit, None where nobody can
# know.
Serves = Callable[[CatalogLlm, Checkpoint], int | None]


class LlmCandidate(Struct, frozen=True, kw_only=True):
    """A model that this host can serve, and the checkpoint that it would serve.

    `tokens`: the longest request that fits, at most what the publisher names. `standing`: why it comes where it comes;
    `reason`: that, and why it is this checkpoint.
    """

    row: CatalogLlm
    checkpoint: Checkpoint
    kernel: Kernel | None
    tokens: int
    standing: str = ""
    reason: str = ""


class LlmChoice(Struct, frozen=True, kw_only=True):
    """The model, the next best ones, and why others that were looked at are out. `best` is None where nothing fits."""

    best: LlmCandidate | None
    runners_up: tuple[LlmCandidate, ...]
    excluded: tuple[tuple[str, str], ...]


def choose_llm(
    rules: Rules,
    llms: Iterable[CatalogLlm],
    serves: Serves,
    *,
    objective: Objective,
    compute_capability: str | None,
    has_token: bool,
    engine_version: str | None = None,
) -> LlmChoice:
    """Choose a model by the rule above.

    Args:
        rules: which kernels the engine's release has (Engine.format_rules).
        serves: how long a request this host serves of a checkpoint; None, nobody can know, counts as none.
        compute_capability: of the least capable GPU; None on a CPU.
        has_token: whether the hub's token is there; without it, a model that may ask for access is never chosen.
        engine_version: the newest release that this host runs, None where any may be had.
    """
    candidates = _Candidates(rules, serves, objective, compute_capability, has_token=has_token)
    rows = []
    for row in llms:
        reason = _unfit(row, engine_version)
        if reason is None:
            rows.append(row)
        else:
            candidates.excluded[row.name] = reason
    ranked = candidates.rank(rows)
    return LlmChoice(
        best=ranked[0] if ranked else None,
        runners_up=tuple(ranked[1:]),
        excluded=tuple(candidates.excluded.items()),
    )


class _Candidates:
    """Looks at models one by one, each at most once, and keeps why those that are out are so."""

    def __init__(
        self, rules: Rules, serves: Serves, objective: Objective, compute_capability: str | None, *, has_token: bool
    ) -> None:
        self.excluded: dict[str, str] = {}
        self._known: dict[str, LlmCandidate | None] = {}
        self._rules, self._serves, self._objective = rules, serves, objective
        self._capability, self._has_token = compute_capability, has_token

    def candidate_of(self, row: CatalogLlm) -> LlmCandidate | None:
        """Return the model as this host would serve it; None where it does not."""
        if row.name not in self._known:
            self._known[row.name] = self._make_candidate(row)
        return self._known[row.name]

    def _make_candidate(self, row: CatalogLlm) -> LlmCandidate | None:
        lengths: dict[str, int] = {}
        most = row.context_tokens

        def serves(checkpoint: Checkpoint, least: int) -> bool | None:
            found = self._serves(row, checkpoint)
            if found:
                lengths[checkpoint.hub_id] = min(found, most) if most else found
            return None if found is None else lengths.get(checkpoint.hub_id, 0) >= least

        # A checkpoint that loses more but leaves more room is the better one, up to what is useful.
        whole = most or 1 if self._objective is Objective.CONTEXT else min(ROOMY_TOKENS, most or ROOMY_TOKENS)
        advice = self._advise(row, lambda checkpoint: serves(checkpoint, whole))
        if advice.checkpoint is None and lengths:
            longest = max(lengths.values())
            advice = self._advise(row, lambda checkpoint: lengths.get(checkpoint.hub_id) == longest)
        if advice.checkpoint is None:
            self.excluded[row.name] = advice.sentence
            return None
        tokens = lengths[advice.checkpoint.hub_id]
        return LlmCandidate(row=row, checkpoint=advice.checkpoint, kernel=advice.kernel, tokens=tokens)

    def _advise(self, row: CatalogLlm, fits: Callable[[Checkpoint], bool | None]) -> Advice:
        return advise_checkpoint(self._rules, row, self._capability, fits, has_token=self._has_token)

    def rank(self, rows: list[CatalogLlm]) -> list[LlmCandidate]:
        """Return the best and the runners-up, best first, each with its standing in words."""
        first = next((found for row in sorted(rows, key=_newest_first) if (found := self.candidate_of(row))), None)
        if first is None:
            return []
        newest = _months(first.row)
        recent = [row for row in rows if newest - _months(row) <= RECENT_MONTHS]
        by_size = sorted(recent, key=lambda row: (-(row.parameters or 0), row.name))
        largest = next((found.row.parameters or 0 for row in by_size if (found := self.candidate_of(row))), 0)
        equals = [row for row in recent if (row.parameters or 0) >= SAME_CLASS * largest]
        rest = [row for row in rows if row not in equals]
        ranked = self._longest_first(equals, largest) if self._objective is Objective.CONTEXT else []
        ranked += self._first(equals, ranked, lambda row: (self._wish(row), _tenths(row, largest)))
        ranked += self._first(rest, ranked, lambda row: (row not in recent, _tenths(row, largest)))
        return [_explained(candidate, newest, largest, self._objective) for candidate in ranked]

    def _first(
        self, rows: list[CatalogLlm], before: list[LlmCandidate], group: Callable[[CatalogLlm], tuple[int, int]]
    ) -> list[LlmCandidate]:
        """Return so many of the first rows that fit as the list `before` lacks: by group, roomy ones first."""
        found: list[LlmCandidate] = []
        missing = 1 + RUNNERS_UP - len(before)
        for _, members in groupby(sorted(rows, key=lambda row: (*group(row), *_newer_first(row))), key=group):
            narrow: list[LlmCandidate] = []
            for row in members:
                if len(found) >= missing:
                    return found
                candidate = self.candidate_of(row)
                if candidate is not None and candidate not in before:
                    (found if is_roomy(row, candidate.tokens) else narrow).append(candidate)
            found += narrow[: missing - len(found)]
        return found

    def _longest_first(self, rows: list[CatalogLlm], largest: int) -> list[LlmCandidate]:
        """Return those with the longest requests.

        A model whose publisher names less than those have is not looked at.
        """
        ranked: list[LlmCandidate] = []
        for row in sorted(rows, key=lambda row: (-(row.context_tokens or 0), row.name)):
            if len(ranked) > RUNNERS_UP and row.context_tokens and row.context_tokens < ranked[RUNNERS_UP].tokens:
                continue
            candidate = self.candidate_of(row)
            if candidate is not None:
                ranked.append(candidate)
                ranked.sort(key=lambda one: (-one.tokens, _tenths(one.row, largest), *_newer_first(one.row)))
        return ranked[: 1 + RUNNERS_UP]

    def _wish(self, row: CatalogLlm) -> int:
        """Return what the objective puts first, the lower the better."""
        return _active(row) if self._objective is Objective.LATENCY else int(not _is_sparse(row))


def order_llms(rows: Iterable[CatalogLlm], objective: Objective, tokens: Mapping[str, int]) -> list[CatalogLlm]:
    """Return models that all fit, by the rule above, those that it leaves out behind.

    Args:
        tokens: the longest request of each, by its name.
    """
    served = list(rows)
    newest = max(map(_months, served), default=0)
    recent = {row.name for row in served if newest - _months(row) <= RECENT_MONTHS}
    largest = max((row.parameters or 0 for row in served if row.name in recent), default=0)

    def order(row: CatalogLlm) -> tuple[object, ...]:
        is_recent, is_large = row.name in recent, (row.parameters or 0) >= SAME_CLASS * largest
        if objective is Objective.CONTEXT:
            wish = -tokens[row.name]
        else:
            wish = _active(row) if objective is Objective.LATENCY else int(not _is_sparse(row))
        return (
            not (is_recent and is_large),
            wish if is_recent and is_large else 0,
            not is_recent,
            _tenths(row, largest),
            not is_roomy(row, tokens[row.name]),
            *_newer_first(row),
        )

    return sorted(served, key=order)


def _tenths(row: CatalogLlm, largest: int) -> int:
    """Return the rank by size: a tenth more parameters says less of a model than its age does."""
    return -round(10 * (row.parameters or 0) / (largest or 1))


def _newer_first(row: CatalogLlm) -> tuple[int, int, str]:
    """Return the rank among models that neither the objective nor their size tells apart."""
    return (-_months(row), -(row.parameters or 0), row.name)


def is_roomy(row: CatalogLlm, tokens: int) -> bool:
    """Return whether so many tokens are room for several requests, or as long as the model's own."""
    return tokens >= min(ROOMY_TOKENS, row.context_tokens or ROOMY_TOKENS)


def _newest_first(row: CatalogLlm) -> tuple[int, str]:
    return (-_months(row), row.name)


def _unfit(row: CatalogLlm, engine_version: str | None) -> str | None:
    if row.role not in _CHATS:
        return f"is for {row.role}"
    if engine_version and row.minimum_engine and order_release(row.minimum_engine) > order_release(engine_version):
        return f"needs engine {row.minimum_engine}, this host runs {engine_version}"
    return None


def _explained(candidate: LlmCandidate, newest: int, largest: int, objective: Objective) -> LlmCandidate:
    standing, checkpoint = _standing(candidate, newest, largest, objective), candidate.checkpoint
    if objective is Objective.CONTEXT:
        most = "has the most precise weights of those that fit such requests"
    elif is_roomy(candidate.row, candidate.tokens):
        most = "has the most precise weights of those that leave room for a cache"
    else:
        most = "leaves the most room of those that fit"
    reason = f"{standing}; {checkpoint.hub_id} {most} ({checkpoint.format}, {checkpoint.size})"
    return replace(candidate, standing=standing, reason=reason)


def _standing(candidate: LlmCandidate, newest: int, largest: int, objective: Objective) -> str:
    row, size = candidate.row, f"{_billions(candidate.row.parameters)} parameters"
    if newest - _months(row) > RECENT_MONTHS:
        released = row.released or "at an unknown time"
        return f"released {released}, more than {RECENT_MONTHS} months before the newest that fits"
    if (row.parameters or 0) < SAME_CLASS * largest:
        return f"{size}, less than half of the largest that fits"
    if objective is Objective.CONTEXT:
        return f"requests of {candidate.tokens:,} tokens fit, {size}"
    room = "" if is_roomy(row, candidate.tokens) else f", room for {candidate.tokens:,} tokens"
    # A dense model reads all of itself, which nobody has to be told.
    part = f"reads {_billions(_active(row))} of {size} per token" if _active(row) != row.parameters else size
    return f"{part}{room}"


def _is_sparse(row: CatalogLlm) -> bool:
    """Return whether a model reads less than half of itself per token."""
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
    if count is None:
        return "unknown"
    return f"{count / 1e9:.3g}B" if count < 1e12 else f"{count / 1e12:.3g}T"
