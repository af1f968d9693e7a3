"""What a load test measured, and what its spread allows to be said. Touches nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from stackwright.domain.environment import Environment

LOAD_SCHEMA = 1
"""Raised when a field of a stored result changes its meaning or goes; further fields do not raise it."""


class Percentiles(Struct, frozen=True, kw_only=True):
    """How long something took, in milliseconds; None where nothing was measured."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Round(Struct, frozen=True, kw_only=True):
    """One round of requests. `requests` are all that were sent, `failed` those without a whole answer.

    `first_token`, `between_tokens` (between two pieces of the stream, mostly a token each) and `whole_answer` are in
    milliseconds, of the requests that were answered. `errors` are the first words of up to three kinds.
    """

    requests: int
    failed: int
    duration_s: float
    input_tokens: int
    output_tokens: int
    first_token: Percentiles
    between_tokens: Percentiles
    whole_answer: Percentiles
    errors: tuple[str, ...] = ()

    @property
    def requests_per_s(self) -> float | None:
        """Answered requests per second."""
        return (self.requests - self.failed) / self.duration_s if self.duration_s > 0 else None

    @property
    def output_tokens_per_s(self) -> float | None:
        """Tokens that the model wrote, per second."""
        return self.output_tokens / self.duration_s if self.duration_s > 0 else None


class Point(Struct, frozen=True, kw_only=True):
    """Rounds under one load: `concurrency` requests at once, or `rate` new ones per second; the other is None."""

    concurrency: int | None = None
    rate: float | None = None
    rounds: tuple[Round, ...] = ()

    @property
    def load(self) -> tuple[int | None, float | None]:
        """What makes points of two results comparable."""
        return self.concurrency, self.rate


class Workload(Struct, frozen=True, kw_only=True):
    """What was sent. `preset` or `file` (its name and digest) says from where; lengths in tokens, None where unknown.

    `shared_tokens` are the same at the beginning of several prompts. `shortened`: to fit the model's context.
    """

    preset: str | None = None
    file: str | None = None
    input_tokens: int | None = None
    shared_tokens: int = 0
    output_tokens: int
    shortened: bool = False


class MeasuredRelease(Struct, frozen=True, kw_only=True):
    """What ran: this program, the engine, its image as planned."""

    stackwright: str
    engine: str
    image: str


class LoadResult(Struct, frozen=True, kw_only=True):
    """One load test, as it is stored. `date` is its start, in UTC; `plan_digest` the SHA-256 of plan.json then."""

    schema: int
    name: str
    date: str
    environment: Environment
    host: str
    plan_digest: str
    release: MeasuredRelease
    generator: str
    model: str
    workload: Workload
    points: tuple[Point, ...]
    interrupted: bool = False


class Spread(Struct, frozen=True, kw_only=True):
    """One measure over the rounds of a point."""

    middle: float
    least: float
    most: float
    rounds: int

    @property
    def share(self) -> float | None:
        """How far least and most are apart, as a part of the middle; None for one round, or a middle of 0."""
        return (self.most - self.least) / self.middle if self.rounds > 1 and self.middle else None


class Measure(Struct, frozen=True, kw_only=True):
    """One thing that is measured in each round. `more_is_better`: else less is."""

    name: str
    title: str
    read: Callable[[Round], float | None]
    more_is_better: bool = False


MEASURES: tuple[Measure, ...] = (
    Measure(name="requests_per_s", title="requests/s", read=lambda one: one.requests_per_s, more_is_better=True),
    Measure(
        name="output_tokens_per_s", title="tokens/s", read=lambda one: one.output_tokens_per_s, more_is_better=True
    ),
    Measure(name="first_token_p50_ms", title="first token p50", read=lambda one: one.first_token.p50),
    Measure(name="first_token_p95_ms", title="first token p95", read=lambda one: one.first_token.p95),
    Measure(name="first_token_p99_ms", title="first token p99", read=lambda one: one.first_token.p99),
    Measure(name="between_tokens_p50_ms", title="between tokens p50", read=lambda one: one.between_tokens.p50),
    Measure(name="between_tokens_p95_ms", title="between tokens p95", read=lambda one: one.between_tokens.p95),
    Measure(name="between_tokens_p99_ms", title="between tokens p99", read=lambda one: one.between_tokens.p99),
    Measure(name="whole_answer_p50_ms", title="whole answer p50", read=lambda one: one.whole_answer.p50),
    Measure(name="failed", title="errors", read=lambda one: float(one.failed)),
)


class LoadVerdict(StrEnum):
    """What a difference between two points is."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"
    UNKNOWN = "unknown"


class Difference(Struct, frozen=True, kw_only=True):
    """One measure of two points under the same load. `change`: of the middles, as a part of the first's."""

    measure: str
    a: Spread | None
    b: Spread | None
    change: float | None
    verdict: LoadVerdict


def percentiles_of(seconds: Sequence[float]) -> Percentiles:
    """Return percentiles in milliseconds: the smallest value that so many of 100 do not exceed (nearest rank)."""
    ordered = sorted(seconds)

    def at(share: float) -> float | None:
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1] * 1000 if ordered else None

    return Percentiles(p50=at(0.5), p95=at(0.95), p99=at(0.99))


def spread_of(rounds: Sequence[Round], measure: Measure) -> Spread | None:
    """Return a measure over some rounds; None where none has it."""
    values = [value for one in rounds if (value := measure.read(one)) is not None]
    if not values:
        return None
    from statistics import median  # brings random and fractions, and every command loads this module

    return Spread(middle=median(values), least=min(values), most=max(values), rounds=len(values))


def compare_points(a: Point, b: Point) -> tuple[Difference, ...]:
    """Compare two points, measure by measure.

    A difference is noise where the ranges of the rounds meet. Without any real difference, two ranges of n rounds each
    lie apart in 2 of (2n over n) cases, since every order of the rounds is as likely: 1 in 10 for 3, 1 in 126 for 5.
    """
    return tuple(compare_rounds(measure, a.rounds, b.rounds) for measure in MEASURES)


def compare_rounds(measure: Measure, a: Sequence[Round], b: Sequence[Round]) -> Difference:
    """Compare one measure of two sets of rounds, as `compare_points` does."""
    one, other = spread_of(a, measure), spread_of(b, measure)
    if one is None or other is None:
        return Difference(measure=measure.name, a=one, b=other, change=None, verdict=LoadVerdict.UNKNOWN)
    change = (other.middle - one.middle) / one.middle if one.middle else 0.0 if other.middle == 0 else None
    if min(one.rounds, other.rounds) < 2:
        verdict = LoadVerdict.UNKNOWN
    elif one.least <= other.most and other.least <= one.most:
        verdict = LoadVerdict.NOISE
    else:
        verdict = LoadVerdict.BETTER if (other.middle > one.middle) is measure.more_is_better else LoadVerdict.WORSE
    return Difference(measure=measure.name, a=one, b=other, change=change, verdict=verdict)


def common_points(a: LoadResult, b: LoadResult) -> tuple[tuple[Point, Point], ...]:
    """Return the points of two results that were under the same load."""
    others: Mapping[tuple[int | None, float | None], Point] = {point.load: point for point in b.points}
    return tuple((point, others[point.load]) for point in a.points if point.load in others)


class LoadAsked(Struct, frozen=True, kw_only=True):
    """Rounds to send, each its prompts: to which model at which address, with which key, and under which load."""

    url: str
    key: str
    model: str
    rounds: Sequence[Sequence[str]]
    output_tokens: int
    concurrency: int | None
    rate: float | None
