"""What rounds say together, and when a difference is noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from msgspec.structs import replace
from stackwright.domain.load import (
    MEASURES,
    LoadVerdict,
    Percentiles,
    Point,
    Round,
    compare_points,
    percentiles_of,
    spread_of,
)
from stackwright.rendering.load_page import format_value, plot_lines, point_table
from stackwright.rendering.sheet import Sheet

SPEED = MEASURES[1]
NOTHING = Percentiles()


def rounds(*speeds: float) -> tuple[Round, ...]:
    """Return rounds of one second with so many tokens."""
    return tuple(
        Round(
            requests=4,
            failed=0,
            duration_s=1.0,
            input_tokens=10,
            output_tokens=int(speed),
            first_token=percentiles_of([0.5 / speed]),
            between_tokens=NOTHING,
            whole_answer=NOTHING,
        )
        for speed in speeds
    )


def verdicts(a: Sequence[float], b: Sequence[float]) -> dict[str, LoadVerdict]:
    """Compare the speeds of two points."""
    found = compare_points(Point(concurrency=1, rounds=rounds(*a)), Point(concurrency=1, rounds=rounds(*b)))
    return {one.measure: one.verdict for one in found}


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles_of([number / 1000 for number in range(1, 101)]) == Percentiles(p50=50.0, p95=95.0, p99=99.0)
    assert percentiles_of([0.25]) == Percentiles(p50=250.0, p95=250.0, p99=250.0)
    assert percentiles_of([]) == NOTHING


def test_a_spread_has_middle_and_ends() -> None:
    spread = spread_of(rounds(80, 100, 130), SPEED)
    assert spread is not None
    assert (spread.middle, spread.least, spread.most, spread.share) == (100, 80, 130, 0.5)
    assert spread_of(rounds(1), MEASURES[5]) is None


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((90, 100, 110), (105, 115, 125), LoadVerdict.NOISE),
        ((90, 100, 110), (110, 120, 130), LoadVerdict.NOISE),
        ((90, 100, 110), (111, 120, 130), LoadVerdict.BETTER),
        ((111, 120, 130), (90, 100, 110), LoadVerdict.WORSE),
        ((100,), (200, 201), LoadVerdict.UNKNOWN),
    ],
)
def test_a_difference_inside_the_spread_is_noise(a: Sequence[float], b: Sequence[float], verdict: LoadVerdict) -> None:
    found = verdicts(a, b)
    assert found["output_tokens_per_s"] is verdict
    # Less time to the first token is better, and goes with more tokens here.
    assert found["first_token_p50_ms"] is verdict
    assert found["between_tokens_p50_ms"] is LoadVerdict.UNKNOWN


@pytest.mark.parametrize(("count", "of"), [(3, 10), (5, 126)])
def test_chance_alone_seldom_looks_like_a_difference(count: int, of: int) -> None:
    """Every way to share ten values out is as likely; the page and the decision say how often ranges lie apart."""
    values = [float(100 + number) for number in range(2 * count)]
    ways = [(chosen, [value for value in values if value not in chosen]) for chosen in combinations(values, count)]
    apart = [way for way in ways if verdicts(*way)["output_tokens_per_s"] is not LoadVerdict.NOISE]
    assert len(ways) == of * len(apart)


def test_errors_are_shown_and_times_that_were_not_measured_are_unknown() -> None:
    [one] = rounds(100)
    failed = replace(one, failed=4, output_tokens=0, first_token=NOTHING)
    columns, [row] = point_table([Point(rate=0.5, rounds=(failed,))])
    shown = dict(zip([column.title for column in columns], row, strict=True))
    assert (shown["load"], shown["errors"], shown["first p50"]) == ("0.5 new/s", "4 of 4", "unknown")
    assert (shown["requests/s"], shown["spread"]) == ("0", "unknown")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_bars_fit_their_width(width: int) -> None:
    points = [Point(concurrency=number, rounds=rounds(10 * number, 12 * number)) for number in (1, 4, 16)]
    lines = list(plot_lines(points, Sheet(width=width, ascii=True)))
    assert max(map(len, lines)) <= max(width, len("tokens per second, with the range of the rounds"))
    bars = [line.count("#") for line in lines[2:5]]
    assert bars == sorted(bars)
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (0.0, "0")])
def test_values_have_three_figures(value: float, shown: str) -> None:
    assert format_value(value) == shown
