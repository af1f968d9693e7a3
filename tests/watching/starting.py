"""One start under watch in a test: a scripted runtime, a clock that only sleeping moves, and what the person is
told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from stackwright.domain.service import Service, ServicePhase, ServiceState, Word
from stackwright.errors import NotHealthyError
from stackwright.runtime import Say, ServiceChange, Stack
from stackwright.watching.watch import Clock, watch

from tests.watching.gateway import KEY

LOGS = Path(__file__).parent / "logs"


def state(name: str, phase: ServicePhase, **more: int) -> ServiceState:
    """Return one service's state."""
    return ServiceState(name=name, phase=phase, **more)  # type: ignore[arg-type]


States = tuple[ServiceState, ...]
ALL_WELL = (state("engine", ServicePhase.HEALTHY), state("gateway", ServicePhase.HEALTHY))
STARTING = (state("engine", ServicePhase.STARTING), state("gateway", ServicePhase.WAITING))
PERMANENT = """\
ValueError: To serve at least one request with the models's max seq len (40960), (4.38 GiB KV cache is needed, \
which is larger than the available KV cache memory (0.44 GiB). Based on the available memory, the estimated maximum \
model length is 4096. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the \
engine.
"""
LOADS = "(Worker pid=9491) INFO 11-21 03:45:14 [cpu_model_runner.py:68] Starting to load model /smoke...\n"


@dataclass
class Time:
    """A clock that only sleeping moves. `then` is called after each pause."""

    now_s: float = 0.0
    then: Callable[[float], None] = lambda _: None

    def clock(self) -> Clock:
        """Return it as the watcher takes it."""
        return Clock(now=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.now_s += seconds
        self.then(self.now_s)


@dataclass
class Scripted:
    """A runtime that reports what it is told to, one look after another; the last stays."""

    looks: list[States]
    log: str = ""
    name: str = "scripted"
    notes: tuple[str, ...] = ()
    noted: str = ""

    def prepare(self, say: Say) -> None:
        """Do nothing."""

    def trial(self, service: Service, words: Iterable[Word]) -> None:
        """Have no place for a program."""

    def owner(self) -> Path | None:
        """Know of nobody."""
        return None

    def changes(self) -> tuple[ServiceChange, ...]:
        """Have nothing to change."""
        return ()

    def reads(self) -> dict[str, str]:
        """Read nothing."""
        return {}

    def up(self, services: tuple[str, ...] = (), *, anew: bool = False) -> None:
        """Do nothing."""

    def prove(self) -> None:
        """Nothing limits these restarts."""

    def halt(self) -> None:
        """Do nothing."""

    def services(self) -> States:
        """Report the next look."""
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def logs(self, service: str, lines: int) -> str:  # noqa: ARG002  # the Protocol's signature
        """Return the scripted log of an engine."""
        return self.log if service.startswith("engine") else ""

    def events(self) -> str:
        """Tell what the test noted."""
        return self.noted

    def inspect(self) -> str:
        """Know nothing."""
        return ""

    def end(self, service: str, *, kill: bool = False) -> None:
        """Not be called."""
        raise NotImplementedError

    def down(self) -> None:
        """Do nothing."""


@dataclass
class Start:
    """One start under watch: its runtime, its gateway, its time, and what the person is told."""

    runtime: Scripted
    stack: Stack
    time: Time = field(default_factory=Time)
    said: list[tuple[str, str]] = field(default_factory=list)

    def watch(self, limit_s: float | None = None) -> dict[str, str]:
        """Watch it to its end."""
        return watch(self.runtime, self.stack, KEY, self._say, limit_s=limit_s, clock=self.time.clock())

    def _say(self, service: str, words: str) -> None:
        self.said.append((service, words))

    def fail(self, limit_s: float | None = None) -> tuple[str, str | None]:
        """Watch it to its bad end; return message and hint."""
        with pytest.raises(NotHealthyError) as failure:
            self.watch(limit_s)
        return failure.value.message, failure.value.hint


MakeStart = Callable[..., Start]
