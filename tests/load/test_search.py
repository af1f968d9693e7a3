"""The search's order, and what it makes of rounds: when a change is better, hopeless, or confirmed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.domain.environment import Environment
from stackwright.domain.load import Percentiles, Round
from stackwright.domain.tuning import (
    TUNE_SCHEMA,
    Aim,
    Axis,
    Change,
    Goal,
    Outcome,
    SearchGround,
    TimeSpent,
    Tried,
    TuneLoad,
    TuneState,
)
from stackwright.load.search import (
    LEAST_NOISE,
    TRIAL_ROUNDS,
    best_of,
    best_rounds,
    confirms,
    costs_of,
    judge,
    next_change,
    noise_of,
    untried,
)

THROUGHPUT, LATENCY = Aim(goal=Goal.THROUGHPUT), Aim(goal=Goal.LATENCY)
BOUND = Aim(goal=Goal.THROUGHPUT, first_token_ms=300)
AXES = (
    Axis(name="requests", key="SEQS", now="8", ladders=(("16", "32"), ("4", "2")), why=""),
    Axis(name="step", key="STEP", now="1", ladders=(("2",),), why=""),
)


def rounds(*speeds: float, first: float = 100.0, failed: int = 0) -> tuple[Round, ...]:
    """Return rounds of one second with so many tokens each."""
    return tuple(
        Round(
            requests=4,
            failed=failed,
            duration_s=1.0,
            input_tokens=10,
            output_tokens=int(speed),
            first_token=Percentiles(p50=first, p95=first, p99=first),
            between_tokens=Percentiles(),
            whole_answer=Percentiles(p50=100_000 / speed),
            errors=("busy",) if failed else (),
        )
        for speed in speeds
    )


def history(outcomes: dict[tuple[str, str], Outcome]) -> list[tuple[str, str]]:
    """Run a search in which each change fares as told, others no better; return what was tried, in order."""
    tried: list[Tried] = []
    while (change := next_change(AXES, tried)) is not None:
        outcome = outcomes.get((change.key, change.value), Outcome.NO_BETTER)
        tried.append(Tried(change=change, outcome=outcome, note=""))
    return [(one.change.key, one.change.value) for one in tried]


def test_a_ladder_is_left_at_the_first_step_that_is_no_better() -> None:
    assert history({}) == [("SEQS", "16"), ("SEQS", "4"), ("STEP", "2")]


def test_a_ladder_is_climbed_while_it_pays_and_the_other_way_is_not_tried() -> None:
    up = {("SEQS", "16"): Outcome.BETTER}
    assert history(up) == [("SEQS", "16"), ("SEQS", "32"), ("STEP", "2")]
    assert history({**up, ("SEQS", "32"): Outcome.BETTER}) == [("SEQS", "16"), ("SEQS", "32"), ("STEP", "2")]
    assert history({("SEQS", "4"): Outcome.BETTER})[1:3] == [("SEQS", "4"), ("SEQS", "2")]


@pytest.mark.parametrize("outcome", [Outcome.STOPPED, Outcome.FAILED, Outcome.LEFT_OUT])
def test_what_fails_ends_its_ladder_alone(outcome: Outcome) -> None:
    assert history({("SEQS", "16"): outcome}) == [("SEQS", "16"), ("SEQS", "4"), ("STEP", "2")]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["SEQS", "STEP"]), st.sampled_from("16 32 4 2".split())), st.sampled_from(Outcome)
    )
)
def test_nothing_is_tried_twice_and_the_best_is_what_was_better_last(
    outcomes: dict[tuple[str, str], Outcome],
) -> None:
    seen = history(outcomes)
    assert len(seen) == len(set(seen)) <= 5


def test_a_change_starts_from_the_best_so_far() -> None:
    better = Change(key="SEQS", value="16", settings={"SEQS": "16"})
    tried = [Tried(change=better, outcome=Outcome.BETTER, note="", rounds=rounds(5))]
    assert next_change(AXES, tried) == Change(key="SEQS", value="32", settings={"SEQS": "32"})
    tried.append(Tried(change=replace(better, value="32"), outcome=Outcome.NO_BETTER, note=""))
    assert next_change(AXES, tried) == Change(key="STEP", value="2", settings={"SEQS": "16", "STEP": "2"})
    assert best_of(tried) == {"SEQS": "16"}
    assert best_rounds(state(tried=tuple(tried))) == rounds(5)
    assert untried(AXES, tried) == ("STEP=2",)
    assert untried(AXES, []) == ("SEQS=16", "SEQS=32", "SEQS=4", "SEQS=2", "STEP=2")


@pytest.mark.parametrize(
    ("before", "found", "outcome", "note"),
    [
        ((100, 100, 100), (90,), Outcome.STOPPED, "not better in every round"),
        ((100, 100, 100), (120,), None, ""),
        ((100, 100, 100), (120, 99), Outcome.STOPPED, "not better in every round"),
        ((100, 100, 100), (120, 120, 99), Outcome.NO_BETTER, "not better in every round"),
        ((100, 100, 100), (103, 104, 103), Outcome.NO_BETTER, "within the noise of 5.0%"),
        ((100, 100, 100), (110, 112, 110), Outcome.BETTER, "better in every round"),
        # Paired: the second round is harder than the others, before and after.
        ((100, 50, 100), (110, 55, 110), Outcome.BETTER, "better in every round"),
    ],
)
def test_rounds_are_judged_in_pairs(
    before: Sequence[float], found: Sequence[float], outcome: Outcome | None, note: str
) -> None:
    judged = judge(THROUGHPUT, 0.05, rounds(*before), rounds(*found))
    assert (judged.outcome, judged.note) == (outcome, note)


def test_for_latency_less_is_better() -> None:
    assert judge(LATENCY, 0.05, rounds(100, 100, 100), rounds(110, 110, 110)).outcome is Outcome.BETTER
    assert judge(LATENCY, 0.05, rounds(100, 100, 100), rounds(90)).outcome is Outcome.STOPPED


def test_requests_that_fail_are_never_better() -> None:
    judged = judge(THROUGHPUT, 0.05, rounds(100, 100, 100), rounds(300, failed=1))
    assert (judged.outcome, judged.note) == (Outcome.STOPPED, "requests failed: busy")


def test_a_bound_that_was_kept_is_kept() -> None:
    judged = judge(BOUND, 0.05, rounds(100, 100, 100), rounds(300, first=301))
    assert (judged.outcome, judged.note) == (Outcome.STOPPED, "first token p99 301 ms, above the bound of 300")
    assert judge(BOUND, 0.05, rounds(100, 100, 100), rounds(*[300] * 3, first=299)).outcome is Outcome.BETTER


def test_a_bound_that_was_broken_comes_first() -> None:
    """Slower in tokens, but sooner with the first of them."""
    before = rounds(100, 100, 100, first=500)
    assert judge(BOUND, 0.05, before, rounds(*[60] * 3, first=400)).outcome is Outcome.BETTER
    assert judge(BOUND, 0.05, before, rounds(300, first=501)).outcome is Outcome.STOPPED


def test_noise_is_how_far_a_round_strays_from_the_middle() -> None:
    assert noise_of(THROUGHPUT, rounds(100, 90, 105)) == pytest.approx(0.1)
    assert noise_of(THROUGHPUT, rounds(100, 100)) == LEAST_NOISE


def test_what_is_best_is_confirmed_where_the_ranges_lie_apart() -> None:
    assert confirms(THROUGHPUT, rounds(100, 110), rounds(120, 130)) == (True, "tokens/s 105.0 → 125.0 (+19.0%)")
    better, said = confirms(THROUGHPUT, rounds(100, 121), rounds(120, 130))
    assert (better, said) == (False, "tokens/s 110.5 → 125.0 (+13.1%): noise in a second measurement")
    assert confirms(THROUGHPUT, rounds(100, 110), rounds(120, 130, failed=1))[0] is False
    assert confirms(BOUND, rounds(100, 110), rounds(120, 130, first=400))[0] is False
    assert confirms(BOUND, rounds(100, 110, first=500), rounds(50, 60, first=200))[0] is True
    assert confirms(LATENCY, rounds(100, 110), rounds(120, 130))[0] is True


def state(**changes: object) -> TuneState:
    """Return a search at its beginning, but for some fields."""
    load = TuneLoad(model="smoke", preset="chat", at_once=4, requests=16)
    begun = TuneState(
        schema=TUNE_SCHEMA,
        name="dev-tune-1",
        environment=Environment.DEV,
        ground=SearchGround(inputs="", generation=1, aim=THROUGHPUT, load=load, axes=AXES),
        time=TimeSpent(minutes=10),
    )
    return replace(begun, **changes)


def test_costs_are_those_that_were_measured() -> None:
    assert costs_of(TimeSpent(minutes=10), 60) is None
    costs = costs_of(TimeSpent(minutes=10, rounds_s=60.0), 40)
    assert costs is not None
    assert costs.trial_s == 40 + (TRIAL_ROUNDS + 1) * 10
    assert costs.end_s == 2 * (40 + 60) + 30
    later = costs_of(TimeSpent(minutes=10, rounds_s=60.0, start_s=20.0), 40)
    assert later is not None
    assert later.trial_s == 60
    assert TimeSpent(minutes=10, total_s=240.0).left_s == 360
    assert TimeSpent(minutes=10, total_s=700.0).left_s == 0
