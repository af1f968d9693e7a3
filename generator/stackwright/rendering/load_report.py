"""What load tests measured as one HTML page that needs nothing else: no script, no address, no file beside it. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from stackwright.domain.load import (
    MEASURES,
    Difference,
    LoadResult,
    Measure,
    Percentiles,
    Point,
    Round,
    spread_of,
)
from stackwright.reading import to_plain
from stackwright.rendering.load_page import (
    describe_load,
    describe_workload,
    difference_table,
    format_value,
    point_table,
    unlike_lines,
    verdict_line,
)
from stackwright.rendering.page import fill_page

MARK = '<meta name="generator" content="Stackwright load report">'
"""What a page of ours says of itself, so that a later one may take its place and a stranger's file is left alone."""
# Colours of the parts of a memory bar, which the page has already.
_TONES = ("weights", "cache")
_FACTS: tuple[tuple[str, Callable[[LoadResult], str]], ...] = (
    ("result", lambda one: one.name),
    ("model", lambda one: one.model),
    ("on", lambda one: one.host),
    ("sent", lambda one: describe_workload(one.workload)),
    ("engine", lambda one: f"{one.release.engine} ({one.release.image})"),
    ("stackwright", lambda one: one.release.stackwright),
    ("generator", lambda one: one.generator),
    ("plan", lambda one: one.plan_digest[:12]),
    ("began", lambda one: one.date),
)
_ROUND_TITLES = (
    "load",
    "round",
    "requests",
    "failed",
    "seconds",
    "tokens in",
    "tokens out",
    "tokens/s",
    *(f"{name} {share}" for name in ("first", "between", "whole") for share in ("p50", "p95", "p99")),
    "errors",
)


class MeasureBar(Struct, frozen=True, kw_only=True):
    """One measure of one load: the least of its rounds, and how much further the most is, in percent of the chart."""

    label: str
    value: str
    range: str
    least: float
    spread: float
    tone: str


class Chart(Struct, frozen=True, kw_only=True):
    """One measure under every load."""

    title: str
    better: str
    bars: tuple[MeasureBar, ...]


def render_load_page(
    results: Sequence[LoadResult], release: str, differences: Sequence[tuple[Point, Sequence[Difference]]] = ()
) -> str:
    """Return the page of one result, or of two and what differs between them; `release` is this program's."""
    labels = [result.name for result in results] if len(results) == 1 else ["A", "B"]
    named = list(zip(labels, results, strict=True))
    columns, cells = difference_table(differences)
    return fill_page(
        "load.html.j2",
        mark=MARK,
        release=release,
        names=" and ".join(result.name for result in results),
        warnings=list(_warnings(named)),
        facts=_FACTS,
        results=[_section(label, result) for label, result in named],
        charts=list(_charts(named)),
        columns=columns,
        rows=cells,
        verdict=verdict_line(differences),
        round_titles=_ROUND_TITLES,
    )


def _warnings(named: Sequence[tuple[str, LoadResult]]) -> Iterator[str]:
    yield from (
        f"{result.name} was interrupted: some loads have fewer rounds" for _, result in named if result.interrupted
    )
    if len(named) > 1:
        yield from unlike_lines(named[0][1], named[1][1])


def _section(label: str, result: LoadResult) -> dict[str, object]:
    columns, points = point_table(result.points)
    return {
        "label": label,
        "result": result,
        "columns": columns,
        "points": points,
        "rounds": [_round(point, number, one) for point in result.points for number, one in enumerate(point.rounds, 1)],
        "document": json.dumps(to_plain(result), indent=2, ensure_ascii=False),
    }


def _round(point: Point, number: int, one: Round) -> list[str]:
    speed = one.output_tokens_per_s
    times = [cell for each in (one.first_token, one.between_tokens, one.whole_answer) for cell in _cells(each)]
    whole = (one.requests, one.failed)
    tokens = (one.input_tokens, one.output_tokens)
    return [
        describe_load(point),
        str(number),
        *map(str, whole),
        f"{one.duration_s:.1f}",
        *(f"{count:,}" for count in tokens),
        "unknown" if speed is None else format_value(speed),
        *times,
        "; ".join(one.errors),
    ]


def _cells(times: Percentiles) -> list[str]:
    return ["–" if value is None else format_value(value) for value in (times.p50, times.p95, times.p99)]


def _charts(named: Sequence[tuple[str, LoadResult]]) -> Iterator[Chart]:
    for measure in MEASURES:
        bars = tuple(_bars(named, measure))
        if any(bar.least + bar.spread > 0 for bar in bars):
            yield Chart(
                title=measure.title, better="more is better" if measure.more_is_better else "less is better", bars=bars
            )


def _bars(named: Sequence[tuple[str, LoadResult]], measure: Measure) -> Iterator[MeasureBar]:
    """Yield a bar for each load; of two results, those of one load below each other."""
    rows = [
        (label, point, tone, spread_of(point.rounds, measure))
        for (label, result), tone in zip(named, _TONES, strict=False)
        for point in result.points
    ]
    most = max((spread.most for *_, spread in rows if spread is not None), default=0.0) or 1.0
    if len(named) > 1:
        rows.sort(key=lambda row: tuple(value or 0 for value in row[1].load))
    for label, point, tone, spread in rows:
        name = describe_load(point) if len(named) == 1 else f"{describe_load(point)}, {label}"
        if spread is None:
            yield MeasureBar(label=name, value="unknown", range="", least=0, spread=0, tone=tone)
            continue
        yield MeasureBar(
            label=name,
            value=format_value(spread.middle),
            range=f"{format_value(spread.least)}–{format_value(spread.most)}" if spread.rounds > 1 else "",
            least=100 * spread.least / most,
            spread=100 * (spread.most - spread.least) / most,
            tone=tone,
        )
