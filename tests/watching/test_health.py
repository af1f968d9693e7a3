"""What the watcher makes of states and of real logs (logs/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.watching.health import MOST_RESTARTS, HealthVerdict, judge, telling_line

LOGS = Path(__file__).parent / "logs"


def log(name: str) -> str:
    """Return one recorded log."""
    return (LOGS / f"{name}.log").read_text(encoding="utf-8")


def state(name: str, phase: ServicePhase, restarts: int = 0) -> ServiceState:
    """Return a service in a phase."""
    return ServiceState(name=name, phase=phase, restarts=restarts)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "no-shared-memory",
            (
                "RuntimeError: Insufficient space in /dev/shm for shared-memory allocation: 160 MiB required, "
                "64 MiB free. "
                "Increase /dev/shm (e.g. --shm-size or --ipc=host)."
            ),
        ),
        (
            "no-numa-library",
            (
                "Failed to import from vllm._C: ImportError('libnuma.so.1: cannot open shared object file: "
                "No such file or directory')"
            ),
        ),
        (
            "no-numa-nodes",
            (
                "AssertionError: Not enough allowed NUMA nodes to bind threads of 2 local CPUWorkers. "
                "Allowed NUMA nodes are [0]. Please try to bind threads manually or decrease DP/TP/PP."
            ),
        ),
    ],
)
def test_the_line_that_tells_why_is_found(name: str, line: str) -> None:
    """Not the last exception: vLLM's outermost only says `See root cause above`."""
    assert "See root cause above" in log(name).splitlines()[-1]
    assert telling_line(log(name)) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        (" \n\n", None),
        ("ready\nbye", "bye"),
        ("sh: 1: cannot create /x: Error 30\nstopping", "sh: 1: cannot create /x: Error 30"),
        ("\x1b[1;31mValueError: no\x1b[0m\x07\nbye", "ValueError: no"),
        ('Traceback (most recent call last):\n  File "a", line 1\n    raise X\nKeyError', "KeyError"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_any_log_has_a_telling_line_unless_it_is_empty(text: str, line: str | None) -> None:
    assert telling_line(text) == line


@settings(deadline=None)
@given(st.text())
def test_a_telling_line_can_be_shown_on_a_terminal(text: str) -> None:
    line = telling_line(text)
    assert line is None or (0 < len(line) <= 300 and "\x1b" not in line and len(line.splitlines()) == 1)


@pytest.mark.parametrize(
    ("phases", "verdict"),
    [
        ((), HealthVerdict.WAIT),
        ((ServicePhase.HEALTHY, ServicePhase.HEALTHY), HealthVerdict.ASK),
        ((ServicePhase.HEALTHY, ServicePhase.STARTING), HealthVerdict.WAIT),
        ((ServicePhase.HEALTHY, ServicePhase.UNHEALTHY), HealthVerdict.WAIT),
        ((ServicePhase.WAITING, ServicePhase.ABSENT), HealthVerdict.WAIT),
        ((ServicePhase.HEALTHY, ServicePhase.EXITED), HealthVerdict.FAILED),
        ((ServicePhase.EXITED, ServicePhase.WAITING), HealthVerdict.FAILED),
    ],
)
def test_services_are_judged_together(phases: tuple[ServicePhase, ...], verdict: HealthVerdict) -> None:
    states = tuple(state(f"s{position}", phase) for position, phase in enumerate(phases))
    judgement = judge(states)
    assert judgement.verdict is verdict
    blamed = next((each for each in states if each.phase is ServicePhase.EXITED), None)
    assert judgement.culprit is blamed


def test_a_service_that_keeps_falling_has_failed() -> None:
    falls = state("engine", ServicePhase.STARTING, restarts=MOST_RESTARTS + 1)
    assert judge((state("redis", ServicePhase.HEALTHY), falls)).culprit is falls
    assert judge((state("engine", ServicePhase.STARTING, restarts=MOST_RESTARTS),)).verdict is HealthVerdict.WAIT


def test_falls_of_earlier_weeks_are_not_this_starts() -> None:
    """A service that runs on and on collects them."""
    healthy = state("engine", ServicePhase.HEALTHY, restarts=MOST_RESTARTS + 5)
    assert judge((healthy,), {"engine": MOST_RESTARTS + 5}).verdict is HealthVerdict.ASK
    assert judge((healthy,), {"engine": 4}).culprit is healthy
