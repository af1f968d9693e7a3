"""When an engine is hung: compose/engine/heartbeat/judge.py over what it is shown."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

JUDGE: dict[str, Any] = runpy.run_path(
    str(Path(__file__).resolve().parents[2] / "compose" / "engine" / "heartbeat" / "judge.py")
)
Judge, Limits, Observation = JUDGE["Judge"], JUDGE["Limits"], JUDGE["Observation"]
GRACE_S, REST_S, BLIND_S = 120.0, 60.0, 40.0


def judge(*, rest_s: float | None = None) -> Any:
    """Make a judge of an engine with GPUs, or of one on a processor."""
    return Judge(limits=Limits(grace_s=GRACE_S, rest_s=rest_s, blind_s=BLIND_S))


def looks(first_s: float, last_s: float, *, every_s: float = 5.0, **shown: Any) -> list[Any]:
    """Make equal observations one after the other; `steps` gives each one a mark of its own."""
    steps = shown.pop("steps", False)
    count = int((last_s - first_s) / every_s)
    return [
        Observation(
            **{
                "at_s": first_s + number * every_s,
                "answered": True,
                "marks": (first_s + number,) if steps else (0.0,),
                **shown,
            }
        )
        for number in range(count)
    ]


def verdict_at(court: Any, *shown: list[Any]) -> float | None:
    """Show everything; return when the first verdict fell, None for none."""
    for seen in (seen for some in shown for seen in some):
        if court.observe(seen) is not None:
            return float(seen.at_s)
    return None


WORKING = {"open_requests": 2}
CASES: dict[str, tuple[float | None, list[list[Any]], float | None]] = {
    # name: (rest_s, what is shown, when the verdict falls)
    "idle for hours": (None, [looks(0, 9000)], None),
    "idle on a processor": (REST_S, [looks(0, 9000, worked=False)], None),
    "requests whose tokens come": (None, [looks(0, 3000, steps=True, **WORKING)], None),
    "no token for the grace": (None, [looks(0, 50), looks(50, 900, **WORKING)], 165.0),
    "from the middle of an answer": (None, [looks(0, 50, steps=True, **WORKING), looks(50, 900, **WORKING)], 170.0),
    "a request shorter than the grace": (None, [looks(0, 50), looks(50, 160, **WORKING), looks(160, 900)], None),
    "a long prompt in chunks": (
        None,
        [looks(0, 50), *([*looks(50 + n * 100, 150 + n * 100, marks=(n,), **WORKING)] for n in range(5))],
        None,
    ),
    "a server that is silent": (None, [looks(0, 50), looks(50, 900, answered=False)], 165.0),
    "a server that is silent with requests open": (
        None,
        [looks(0, 50, steps=True, **WORKING), looks(50, 900, answered=False)],
        165.0,
    ),
    "a server that pauses": (None, [looks(0, 50), looks(50, 150, answered=False), looks(150, 900)], None),
    "a start that takes an hour": (None, [looks(0, 3600, answered=False), looks(3600, 3700)], None),
    "nothing works on a processor": (REST_S, [looks(0, 50), looks(50, 900, worked=False, **WORKING)], 105.0),
    "a long step on a processor": (REST_S, [looks(0, 50), looks(50, 900, **WORKING)], 165.0),
    "work in between on a processor": (
        REST_S,
        [
            looks(0, 50),
            looks(50, 100, worked=False, **WORKING),
            looks(100, 105, **WORKING),
            looks(105, 160, worked=False, **WORKING),
        ],
        None,
    ),
    "GPUs work while processes rest": (None, [looks(0, 50), looks(50, 160, worked=False, **WORKING)], None),
    "this program was stopped for an hour": (
        None,
        [looks(0, 50, **WORKING), looks(3650, 3750, **WORKING), looks(3750, 3800, steps=True, **WORKING)],
        None,
    ),
    "stopped for an hour, and hung after it": (None, [looks(0, 50, **WORKING), looks(3650, 9000, **WORKING)], 3770.0),
    "stopped for an hour, the server silent after it": (
        REST_S,
        [looks(0, 50), looks(3650, 9000, answered=False, worked=False)],
        3710.0,
    ),
    "the clients left": (None, [looks(0, 50, **WORKING), looks(50, 900)], None),
}


@pytest.mark.parametrize(("rest_s", "shown", "falls_at"), CASES.values(), ids=CASES)
def test_when_the_verdict_falls(rest_s: float | None, shown: list[list[Any]], falls_at: float | None) -> None:
    assert verdict_at(judge(rest_s=rest_s), *shown) == falls_at


def test_a_silence_that_ended_by_itself_lengthens_the_grace() -> None:
    court = judge()
    assert verdict_at(court, looks(0, 10), looks(10, 120, **WORKING), looks(120, 130, steps=True, **WORKING)) is None
    assert court.grace_s == 2 * court.longest_s == 230.0
    assert verdict_at(court, looks(130, 900, **WORKING)) == 360.0


def test_the_grace_grows_to_four_times_its_value_at_most() -> None:
    court = judge()
    court.longest_s = 5000.0
    assert court.grace_s == 4 * GRACE_S


def test_a_verdict_tells_what_was_seen() -> None:
    court = judge(rest_s=REST_S)
    assert verdict_at(court, looks(0, 50), looks(50, 100, worked=False, **WORKING)) is None
    found = court.observe(Observation(at_s=105.0, answered=False, worked=False))
    assert (found.silent_s, found.open_requests, found.answers, found.at_rest) == (60.0, 2, False, True)


def test_how_long_no_step_came() -> None:
    court = judge()
    assert court.idle_s(1000.0) == 0.0
    assert verdict_at(court, looks(0, 50, steps=True), looks(50, 100, marks=(-1.0,))) is None
    assert court.idle_s(100.0) == 50.0
