"""What clients ask ends first, in the time that open requests get; a stubborn one is killed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.runtime import Stack
from stackwright.watching.drain import drain, drain_limit

from tests.watching.gateway import KEY, Gateway
from tests.watching.starting import MakeStart, Scripted, States, Time

# As LiteLLM writes it with two workers; the question itself is one of them.
METRICS = """\
# TYPE litellm_in_flight_requests gauge
litellm_in_flight_requests{pid="7"} 9.0
litellm_in_flight_requests{pid="8"} 4.0
litellm_in_flight_requests_total 99.0
"""


@dataclass
class Stopping(Scripted):
    """A gateway that goes once it has been asked in the last of these ways, and takes a while."""

    goes_at: str = "term"
    takes_s: float = 0.0
    time: Time = field(default_factory=Time)
    asked: list[tuple[str, float]] = field(default_factory=list)

    def end(self, service: str, *, kill: bool = False) -> None:
        """Note it."""
        assert service == "gateway"
        self.asked.append(("kill" if kill else "term", self.time.now_s))

    def services(self) -> States:
        """Report whether it is there still."""
        since = next((at for way, at in self.asked if way == self.goes_at), None)
        if self.goes_at == "again":
            since = self.asked[1][1] if len(self.asked) > 1 else None
        gone = since is not None and self.time.now_s >= since + self.takes_s
        return (ServiceState(name="gateway", phase=ServicePhase.EXITED if gone else ServicePhase.HEALTHY),)


def stopped(stack: Stack, runtime: Stopping, limit_s: float) -> list[str]:
    """Drain, and return what the person is told."""
    said: list[str] = []
    drain(runtime, stack, limit_s, said.append, key=KEY, clock=runtime.time.clock())
    return said


@pytest.fixture
def stack(start: MakeStart, gateway: Gateway) -> Stack:
    """Give a stack whose gateway tells how many requests are open."""
    gateway.replies["models"] = [(200, METRICS)]
    return start().stack


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((200, METRICS), "draining: 12 requests open, up to 30 s"),
        ((200, "litellm_in_flight_requests 2.0\n"), "draining: 1 request open, up to 30 s"),
        ((200, "up 1.0\n"), "draining: up to 30 s"),
        ((503, "no"), "draining: up to 30 s"),
    ],
)
def test_open_requests_get_their_time(told: tuple[int, str], words: str, stack: Stack, gateway: Gateway) -> None:
    gateway.replies["models"] = [told]
    runtime = Stopping(looks=[], takes_s=12)
    assert stopped(stack, runtime, 30) == [words]
    assert runtime.asked == [("term", 0)]
    assert runtime.time.now_s == 12


@pytest.mark.parametrize(("limit_s", "again_at"), [(30, 30), (0, 0)])
def test_what_is_still_open_is_ended(stack: Stack, limit_s: float, again_at: float) -> None:
    runtime = Stopping(looks=[], goes_at="again", takes_s=1)
    assert stopped(stack, runtime, limit_s)[-1] == "draining: time is up, ending what is still open"
    assert runtime.asked == [("term", 0), ("term", again_at)]


def test_one_that_heeds_nothing_is_killed(stack: Stack) -> None:
    runtime = Stopping(looks=[], goes_at="kill")
    stopped(stack, runtime, 5)
    assert runtime.asked == [("term", 0), ("term", 5), ("kill", 15)]


def test_one_that_does_not_run_is_left_alone(stack: Stack) -> None:
    runtime = Stopping(looks=[], asked=[("term", 0)])
    assert stopped(stack, runtime, 30) == []
    assert len(runtime.asked) == 1
    assert drain_limit(stack) == 30
