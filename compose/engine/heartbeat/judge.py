"""Whether an engine is hung: observations in, a verdict out. Pure: no clock, no file, no network.

Times are seconds of one clock that stands still while the machine sleeps. Standard library alone. The reasons:
docs/explanation/heartbeat.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAST_FACTOR, MOST_GRACES = 2, 4
"""The longest silence of this run that ended by itself counts twice; the grace grows to four times its value at most.
"""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One look at the engine.

    `marks` are figures that change with every step of the engine, and with nothing else. `open_requests` are those that
    it has not answered yet. `worked`: whether its processes used the processor, or waited for a disk, since the last
    look.
    """

    at_s: float
    answered: bool
    open_requests: int = 0
    marks: tuple[float, ...] = ()
    worked: bool = True


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long an engine may be silent.

    `grace_s`: with requests open. `rest_s`: the same where its processes do nothing either; None where that proves
    nothing, since a GPU works for them. `blind_s`: a longer time between two looks means that nobody looked meanwhile.
    """

    grace_s: float
    rest_s: float | None
    blind_s: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The engine is hung: since when, with how many open requests, and whether its server still answers."""

    silent_s: float
    open_requests: int
    answers: bool
    at_rest: bool


@dataclass(kw_only=True)
class Judge:
    """Judges one run of an engine. Nothing is judged before its first answer: who starts it watches that."""

    limits: Limits
    longest_s: float = 0.0
    _last: Observation | None = None
    _marks: tuple[float, ...] = ()
    _moved_s: float = 0.0
    _alive_s: float = 0.0
    _worked_s: float = 0.0
    _open: int = field(default=0)

    @property
    def grace_s(self) -> float:
        """The grace now: a silence that ended by itself has shown what a step may take here."""
        grace_s = self.limits.grace_s
        return min(max(grace_s, PAST_FACTOR * self.longest_s), MOST_GRACES * grace_s)

    @property
    def began(self) -> bool:
        """Whether the engine has answered once."""
        return self._last is not None

    def idle_s(self, now_s: float) -> float:
        """Return how long no step was seen; 0 before the first answer."""
        return 0.0 if self._last is None else now_s - self._moved_s

    def observe(self, seen: Observation) -> Verdict | None:
        """Take one look into account; return a verdict if the engine is hung."""
        if self._last is None and not seen.answered:
            return None
        if self._last is None or seen.at_s - self._last.at_s > self.limits.blind_s:
            self._begin_anew(seen)
            return None
        self._last = seen
        self._open = seen.open_requests if seen.answered else self._open
        if seen.answered and seen.marks != self._marks:
            self.longest_s = max(self.longest_s, seen.at_s - self._alive_s)
            self._marks, self._moved_s = seen.marks, seen.at_s
            self._alive_s = self._worked_s = seen.at_s
        elif seen.answered and not seen.open_requests:
            self._alive_s = self._worked_s = seen.at_s
        elif seen.worked:
            self._worked_s = seen.at_s
        return self._verdict(seen)

    def _begin_anew(self, seen: Observation) -> None:
        """Start to count: at the first answer, and after a time in which this program was itself stopped."""
        self._last = seen
        self._marks = seen.marks if seen.answered else self._marks
        self._moved_s = self._alive_s = self._worked_s = seen.at_s

    def _verdict(self, seen: Observation) -> Verdict | None:
        silent_s, rest_s = seen.at_s - self._alive_s, seen.at_s - self._worked_s
        at_rest = self.limits.rest_s is not None and rest_s >= self.limits.rest_s
        if silent_s < self.grace_s and not at_rest:
            return None
        return Verdict(silent_s=silent_s, open_requests=self._open, answers=seen.answered, at_rest=at_rest)
