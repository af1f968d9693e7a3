"""What a load test measured, for a terminal: a table of points, bars, and two results side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stackwright.domain.load import (
    MEASURES,
    Difference,
    LoadResult,
    LoadVerdict,
    Measure,
    Point,
    Spread,
    Workload,
    spread_of,
)
from stackwright.rendering.sheet import Sheet
from stackwright.rendering.table import Column

_BY_NAME = {measure.name: measure for measure in MEASURES}
_PLOTTED = (
    ("output_tokens_per_s", "tokens per second, with the range of the rounds"),
    ("first_token_p95_ms", "time to first token, p95, in ms"),
)
_WIDEST_BAR = 60
# Columns of the table beside the load: measure, title, and what goes first where it is narrow.
_COLUMNS = (
    ("requests_per_s", "requests/s", 0),
    ("output_tokens_per_s", "tokens/s", 0),
    ("first_token_p50_ms", "first p50", 2),
    ("first_token_p95_ms", "first p95", 0),
    ("first_token_p99_ms", "first p99", 4),
    ("between_tokens_p50_ms", "between p50", 3),
    ("between_tokens_p95_ms", "between p95", 1),
    ("between_tokens_p99_ms", "between p99", 5),
)


def describe_load(point: Point) -> str:
    """Return the load of a point in words."""
    return f"{point.concurrency} at once" if point.rate is None else f"{point.rate:g} new/s"


def describe_workload(workload: Workload) -> str:
    """Return what was sent, in words."""
    source = workload.preset or f"file {workload.file}"
    prompt = "" if workload.input_tokens is None else f"about {workload.input_tokens:,} tokens in, "
    shared = f"{workload.shared_tokens:,} of them shared, " if workload.shared_tokens else ""
    short = " (shortened to fit the context)" if workload.shortened else ""
    return f"{source}: {prompt}{shared}{workload.output_tokens:,} out{short}"


def describe_result(result: LoadResult) -> list[str]:
    """Return the lines above a table: what was measured, where and when."""
    release = result.release
    return [
        f"{result.name}   {result.model} on {result.host}",
        f"{describe_workload(result.workload)}   {release.engine}, stackwright {release.stackwright}",
    ]


def point_table(points: Sequence[Point]) -> tuple[list[Column], list[list[str]]]:
    """Return the table of points: medians over the rounds, times in milliseconds."""
    columns = [
        Column(title="load"),
        Column(title="rounds", right=True, rank=6),
        *(Column(title=title, right=True, rank=rank) for _, title, rank in _COLUMNS),
        Column(title="spread", right=True),
        Column(title="errors", right=True),
    ]
    return columns, [_row(point) for point in points]


def _row(point: Point) -> list[str]:
    spread = spread_of(point.rounds, _BY_NAME["output_tokens_per_s"])
    share = None if spread is None else spread.share
    failed, sent = (sum(values) for values in zip(*((one.failed, one.requests) for one in point.rounds), strict=True))
    return [
        describe_load(point),
        str(len(point.rounds)),
        *(_middle(point, _BY_NAME[name]) for name, _, _ in _COLUMNS),
        "unknown" if share is None else f"{share:.0%}",
        f"{failed} of {sent}" if failed else "0",
    ]


def _middle(point: Point, measure: Measure) -> str:
    spread = spread_of(point.rounds, measure)
    return "unknown" if spread is None else format_value(spread.middle)


def format_value(value: float) -> str:
    """Write a measured value with three figures; nothing at all as 0."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def plot_lines(points: Sequence[Point], sheet: Sheet) -> Iterator[str]:
    """Yield a bar for each point: throughput, then the time to the first token."""
    names = [describe_load(point) for point in points]
    for name, title in _PLOTTED:
        rows = [(load, spread_of(point.rounds, _BY_NAME[name])) for load, point in zip(names, points, strict=True)]
        most = max((spread.most for _, spread in rows if spread is not None), default=0.0)
        if most > 0:
            yield ""
            yield title
            yield from (_bar(load.rjust(max(map(len, names))), spread, most, sheet) for load, spread in rows)


def _bar(load: str, spread: Spread | None, most: float, sheet: Sheet) -> str:
    """Draw a bar up to the least of the rounds, then lighter up to the most."""
    if spread is None:
        return f"  {load}  unknown"
    figures = format_value(spread.middle)
    width = max(min(_WIDEST_BAR, sheet.width - len(load) - len(figures) - 6), 5)
    full, light = ("#", "-") if sheet.ascii else ("█", "░")
    least, end = (round(value / most * width) for value in (spread.least, spread.most))
    return f"  {load}  {full * least}{light * (end - least)} {figures}"


def difference_table(rows: Sequence[tuple[Point, Sequence[Difference]]]) -> tuple[list[Column], list[list[str]]]:
    """Return the table of what differs between two results, with the range of the rounds of each."""
    columns = [
        Column(title="load"),
        Column(title="measure"),
        Column(title="A", right=True),
        Column(title="range", rank=1),
        Column(title="B", right=True),
        Column(title="range", rank=2),
        Column(title="change", right=True),
        Column(title="verdict"),
    ]
    cells = [
        [
            describe_load(point),
            _BY_NAME[one.measure].title,
            *_cells(one.a),
            *_cells(one.b),
            "unknown" if one.change is None else f"{one.change:+.1%}",
            one.verdict.value,
        ]
        for point, differences in rows
        for one in differences
    ]
    return columns, cells


def _cells(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return "unknown", ""
    return format_value(spread.middle), f"{format_value(spread.least)}–{format_value(spread.most)}"


def unlike_lines(a: LoadResult, b: LoadResult) -> Iterator[str]:
    """Yield what differs between the circumstances of two results, a line each."""
    pairs = (
        ("host", a.host, b.host),
        ("model", a.model, b.model),
        ("engine", a.release.engine, b.release.engine),
        ("image", a.release.image, b.release.image),
        ("stackwright", a.release.stackwright, b.release.stackwright),
        ("plan", a.plan_digest[:12], b.plan_digest[:12]),
    )
    yield from (f"{name}: {one} in A, {other} in B" for name, one, other in pairs if one != other)


def verdict_line(rows: Sequence[tuple[Point, Sequence[Difference]]]) -> str:
    """Return the sum of the verdicts in one sentence."""
    counts = dict.fromkeys(LoadVerdict, 0)
    for _, differences in rows:
        for one in differences:
            counts[one.verdict] += 1
    told = (LoadVerdict.BETTER, LoadVerdict.WORSE, LoadVerdict.NOISE)
    said = f"B against A: {', '.join(f'{counts[verdict]} {verdict.value}' for verdict in told)}"
    return f"{said}, {counts[LoadVerdict.UNKNOWN]} unknown" if counts[LoadVerdict.UNKNOWN] else said
