"""What a search for better settings is after, what it has tried, and how it ended. Touches nothing."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field

from stackwright.domain.environment import Environment
from stackwright.domain.load import Round

TUNE_SCHEMA = 1
"""Raised when a field of a stored search changes its meaning or goes."""


class Goal(StrEnum):
    """What is to be best: tokens per second of all requests together, or the time of one whole answer."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"


class Aim(Struct, frozen=True, kw_only=True):
    """The goal, and the most that the time to the first token may be in milliseconds, p99; None without a bound."""

    goal: Goal
    first_token_ms: float | None = None


class TuneLoad(Struct, frozen=True, kw_only=True):
    """What is sent to which model: `at_once` requests, so many `requests` in a round.

    Prompts are of a `preset`, or of a `file` (its path), named by `prompts` with its digest.
    """

    model: str
    preset: str
    file: str | None = None
    prompts: str | None = None
    at_once: int
    requests: int


class Axis(Struct, frozen=True, kw_only=True):
    """One setting that the search changes, by its written key: the value now, and the others in order.

    A ladder is climbed as long as each step is better; the next one is tried only where the first step of the one
    before was not.
    """

    name: str
    key: str
    now: str
    ladders: tuple[tuple[str, ...], ...]
    why: str


class Change(Struct, frozen=True, kw_only=True):
    """A value to try, and the whole of what differs with it from what was before the search."""

    key: str
    value: str
    settings: dict[str, str]


class Outcome(StrEnum):
    """How a change fared."""

    BETTER = "better"
    NO_BETTER = "no better"
    STOPPED = "stopped early"
    FAILED = "did not start"
    LEFT_OUT = "left out"


class Tried(Struct, frozen=True, kw_only=True):
    """One change with what came of it: `note` in words, `gain` as a part (0.1: a tenth better), None unmeasured."""

    change: Change
    outcome: Outcome
    note: str
    gain: float | None = None
    rounds: tuple[Round, ...] = ()


class Confirmation(Struct, frozen=True, kw_only=True):
    """What was before and what is best, each started anew and measured one after the other."""

    before: tuple[Round, ...] = ()
    after: tuple[Round, ...] = ()


class SearchGround(Struct, frozen=True, kw_only=True):
    """What a search began from, and is no longer worth anything without.

    `inputs` is the digest of what its plan was made from, `generation` what ran before.
    """

    inputs: str
    generation: int
    aim: Aim
    load: TuneLoad
    axes: tuple[Axis, ...]


class TimeSpent(Struct, frozen=True, kw_only=True):
    """The time of a search: `total_s` of its `minutes` so far, and `without_service_s` of those.

    `start_s` and `rounds_s`: how long the longest start, and the baseline's rounds took; None before.
    """

    minutes: int
    total_s: float = 0.0
    without_service_s: float = 0.0
    start_s: float | None = None
    rounds_s: float | None = None

    @property
    def left_s(self) -> float:
        """What is left of it."""
        return max(self.minutes * 60 - self.total_s, 0.0)


class TuneState(Struct, frozen=True, kw_only=True):
    """A search as it is stored.

    `noise`: by how large a part rounds of the same settings differ. `ended`: how, in words, None while it goes on;
    `kept`: the settings that were written, empty where nothing was better.
    """

    schema: int
    name: str
    environment: Environment
    ground: SearchGround
    time: TimeSpent
    noise: float | None = None
    baseline: tuple[Round, ...] = ()
    tried: tuple[Tried, ...] = ()
    confirmation: Confirmation = Confirmation()
    ended: str | None = None
    kept: dict[str, str] = field(default_factory=dict)
