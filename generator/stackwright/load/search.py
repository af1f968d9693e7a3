"""The search for better settings: what to try next, what a measurement says of it, and what it costs. Pure.

One setting after the other, from what was best so far (coordinate descent). Rounds are compared in pairs: round n of a
change with round n of what was best, which were sent the same prompts. docs/decisions/0073-tune.md
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from stackwright.domain.load import MEASURES, LoadVerdict, Measure, Round, compare_rounds
from stackwright.domain.tuning import Aim, Axis, Change, Goal, Outcome, TimeSpent, Tried, TuneState

BASELINE_ROUNDS, TRIAL_ROUNDS = 5, 3
# Judgement, 2026-11-30: a smaller gain is not worth a restart. Rounds on two cores with other work differed by 6 % and
# more, with a quick engine (tests/integration/test_tune.py).
LEAST_NOISE = 0.02
# The last start finds its work done: checks, and the questions after it.
SETTLE_S = 30.0

_BY_NAME = {measure.name: measure for measure in MEASURES}
_FIRST_TOKEN = _BY_NAME["first_token_p99_ms"]
_OF_GOAL = {
    Goal.THROUGHPUT: _BY_NAME["output_tokens_per_s"],
    Goal.LATENCY: _BY_NAME["whole_answer_p50_ms"],
}


def next_change(axes: Sequence[Axis], tried: Sequence[Tried]) -> Change | None:
    """Return what to try next; None where nothing is left. The same history gives the same answer."""
    known = {(one.change.key, one.change.value): one for one in tried}
    best = best_of(tried)
    for axis in axes:
        for ladder in axis.ladders:
            climbed = False
            for value in ladder:
                done = known.get((axis.key, value))
                if done is None:
                    return Change(key=axis.key, value=value, settings={**best, axis.key: value})
                if done.outcome is not Outcome.BETTER:
                    break
                climbed = True
            if climbed:
                break
    return None


def best_of(tried: Sequence[Tried]) -> dict[str, str]:
    """Return the settings of the last change that was better; empty where none was."""
    return next((one.change.settings for one in reversed(tried) if one.outcome is Outcome.BETTER), {})


def best_rounds(state: TuneState) -> tuple[Round, ...]:
    """Return the rounds of what is best so far."""
    return next((one.rounds for one in reversed(state.tried) if one.outcome is Outcome.BETTER), state.baseline)


def untried(axes: Sequence[Axis], tried: Sequence[Tried]) -> tuple[str, ...]:
    """Return what was still to come when a search ended, as KEY=VALUE; nothing where nothing was."""
    change = next_change(axes, tried)
    words = [f"{axis.key}={value}" for axis, value in all_values(axes)]
    return () if change is None else tuple(words[words.index(f"{change.key}={change.value}") :])


def all_values(axes: Sequence[Axis]) -> tuple[tuple[Axis, str], ...]:
    """Return every value that may come to be tried, in the order of the search."""
    return tuple((axis, value) for axis in axes for ladder in axis.ladders for value in ladder)


def measure_for(aim: Aim, before: Sequence[Round]) -> Measure:
    """Return what is compared: the goal, or the time to the first token as long as what was before breaks its bound."""
    return _FIRST_TOKEN if breaks(aim, before) else _OF_GOAL[aim.goal]


def breaks(aim: Aim, rounds: Sequence[Round]) -> bool:
    """Return whether the middle of the rounds is above the bound of the time to the first token."""
    times = [one.first_token.p99 for one in rounds if one.first_token.p99 is not None]
    return aim.first_token_ms is not None and bool(times) and median(times) > aim.first_token_ms


def noise_of(aim: Aim, rounds: Sequence[Round]) -> float:
    """Return by how large a part of their middle rounds of the same settings differ from it, at most."""
    measure = measure_for(aim, rounds)
    values = [value for one in rounds if (value := measure.read(one))]
    middle = median(values) if values else 0.0
    return max([LEAST_NOISE, *(abs(value / middle - 1) for value in values if middle)])


def gain_of(measure: Measure, before: Round, after: Round) -> float | None:
    """Return by how large a part a round is better than another, below 0 where it is worse; None where unmeasured."""
    one, other = measure.read(before), measure.read(after)
    if not one or not other:
        return None
    return (other / one if measure.more_is_better else one / other) - 1


class RoundsVerdict(Struct, frozen=True, kw_only=True):
    """What the rounds so far say of a change: `outcome` None where more rounds are to be measured."""

    outcome: Outcome | None
    note: str
    gain: float | None = None


def judge(aim: Aim, noise: float, before: Sequence[Round], found: Sequence[Round]) -> RoundsVerdict:
    """Judge a change by its rounds so far, against those of what was best.

    Better is what is so in every pair, and in their middle by more than the noise. So the first pair that is no better
    ends it.
    """
    measure, last = measure_for(aim, before), len(found) >= min(TRIAL_ROUNDS, len(before))
    pairs = list(zip(before, found, strict=False))
    gains = [gain for one, other in pairs if (gain := gain_of(measure, one, other)) is not None]
    gain = median(gains) if gains else None
    no_better = Outcome.NO_BETTER if last else Outcome.STOPPED
    if sum(one.failed for one in found) > sum(one.failed for one, _ in pairs):
        errors = next((one.errors[0] for one in found if one.errors), "no reason given")
        return RoundsVerdict(outcome=no_better, note=f"requests failed: {errors}", gain=gain)
    if gain is None or len(gains) < len(pairs):
        return RoundsVerdict(outcome=no_better, note="a round measured nothing")
    above = [one.first_token.p99 for one in found if _is_above(aim, one)]
    if above and measure is not _FIRST_TOKEN:
        note = f"first token p99 {above[0]:,.0f} ms, above the bound of {aim.first_token_ms:,.0f}"
        return RoundsVerdict(outcome=no_better, note=note, gain=gain)
    if min(gains) <= 0:
        return RoundsVerdict(outcome=no_better, note="not better in every round", gain=gain)
    if not last:
        return RoundsVerdict(outcome=None, note="", gain=gain)
    if gain <= noise:
        return RoundsVerdict(outcome=no_better, note=f"within the noise of {noise:.1%}", gain=gain)
    return RoundsVerdict(outcome=Outcome.BETTER, note="better in every round", gain=gain)


def _is_above(aim: Aim, one: Round) -> bool:
    return aim.first_token_ms is not None and (one.first_token.p99 or 0) > aim.first_token_ms


def confirms(aim: Aim, before: Sequence[Round], after: Sequence[Round]) -> tuple[bool, str]:
    """Return whether fresh rounds of what was best are better than fresh ones of what was before, and in words.

    They are where the ranges lie apart, no more requests failed, and the bound that was kept is kept.
    """
    measure = measure_for(aim, before)
    found = compare_rounds(measure, before, after)
    gained = "" if found.change is None else f" ({found.change:+.1%})"
    if found.a is None or found.b is None:
        return False, "a round measured nothing"
    said = f"{measure.title} {found.a.middle:,.1f} → {found.b.middle:,.1f}{gained}"
    if found.verdict is not LoadVerdict.BETTER:
        return False, f"{said}: {found.verdict.value} in a second measurement"
    if sum(one.failed for one in after) > sum(one.failed for one in before):
        return False, f"{said}, but requests failed"
    if breaks(aim, after) and not breaks(aim, before):
        return False, f"{said}, but the first token comes too late"
    return True, said


class Costs(Struct, frozen=True, kw_only=True):
    """What a search costs in seconds: a start, and a round with its share of starting the generator."""

    start_s: float
    round_s: float

    @property
    def trial_s(self) -> float:
        """One change that is measured to its end: a start, and a round to warm up beside the others."""
        return self.start_s + (TRIAL_ROUNDS + 1) * self.round_s

    @property
    def end_s(self) -> float:
        """What was before and what is best, both started and measured anew, and the last start."""
        return 2 * (self.start_s + (BASELINE_ROUNDS + 1) * self.round_s) + SETTLE_S


def costs_of(time: TimeSpent, usual_start_s: float) -> Costs | None:
    """Return the costs as measured so far; None before the baseline is."""
    if time.rounds_s is None:
        return None
    return Costs(start_s=time.start_s or usual_start_s, round_s=time.rounds_s / (BASELINE_ROUNDS + 1))
