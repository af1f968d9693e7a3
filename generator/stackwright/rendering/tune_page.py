"""A search for better settings for a terminal: what it may try, what it tried, and how it ended. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from statistics import median

from msgspec import Struct

from stackwright.domain.load import Round
from stackwright.domain.tuning import Aim, Axis, Goal, Outcome, Tried, TuneLoad, TuneState
from stackwright.rendering.load_page import format_value
from stackwright.rendering.table import Column
from stackwright.units import format_seconds


class ListedValue(Struct, frozen=True, kw_only=True):
    """A value that may be tried: with which context in tokens, and why it is not tried, None where it is."""

    key: str
    now: str
    value: str
    why: str
    context: str | None
    objection: str | None


def describe_aim(aim: Aim) -> str:
    """Return what is to be best, in words."""
    best = {Goal.THROUGHPUT: "most tokens per second", Goal.LATENCY: "quickest whole answers"}[aim.goal]
    bound = aim.first_token_ms
    return best if bound is None else f"{best}, first token within {bound:,.0f} ms (p99)"


def describe_sent(load: TuneLoad) -> str:
    """Return the load in words."""
    return f"{load.prompts or load.preset}, {load.at_once} at once, {load.requests} requests a round"


def cost_lines(rows: Sequence[ListedValue], state: TuneState, start_s: float | None) -> Iterator[str]:
    """Yield what a search costs, as far as it is known before: `start_s` is how long a start took earlier."""
    promising = [row for row in rows if row.objection is None]
    keys, out = {row.key for row in promising}, len(rows) - len(promising)
    left_out = f"; {out} left out by the forecast" if out else ""
    within = f", within {state.time.left_s / 60:.0f} minutes" if promising else ""
    yield f"{_counted(promising, 'value')} of {_counted(keys, 'setting')} to try{within}{left_out}"
    if promising:
        known = "for an unknown time" if start_s is None else f"for about {format_seconds(start_s)}"
        yield f"each change restarts the engine, {known}; the load slows other clients"


def _counted(things: Collection[object], what: str) -> str:
    return f"{len(things)} {what}{'s' if len(things) != 1 else ''}"


def listed_table(rows: Sequence[ListedValue]) -> tuple[list[Column], list[list[str]]]:
    """Return the table of what may be tried, in the order of the search."""
    columns = [
        Column(title="setting"),
        Column(title="now", right=True, rank=2),
        Column(title="try", right=True),
        Column(title="context", right=True, rank=3),
        Column(title="why, or why not", cut=True),
    ]
    cells = [
        [
            row.key,
            row.now,
            row.value,
            row.context or "",
            row.why if row.objection is None else f"left out: {row.objection}",
        ]
        for row in rows
    ]
    return columns, cells


def describe_rounds(rounds: Sequence[Round]) -> str:
    """Return the middle of some rounds: tokens per second, and the time to the first token."""
    speeds = [value for one in rounds if (value := one.output_tokens_per_s) is not None]
    firsts = [one.first_token.p99 for one in rounds if one.first_token.p99 is not None]
    answers = [one.whole_answer.p50 for one in rounds if one.whole_answer.p50 is not None]
    if not (speeds and firsts and answers):
        return "nothing measured"
    return (
        f"{format_value(median(speeds))} tokens/s, first token p99 {format_value(median(firsts))} ms, "
        f"whole answer p50 {format_value(median(answers))} ms"
    )


def tried_line(tried: Tried, axis: Axis) -> str:
    """Return one line on a change that is done."""
    gain = "" if tried.gain is None else f" {tried.gain:+.1%}"
    note = f" ({tried.note})" if tried.note else ""
    return f"{tried.change.key} {axis.now} → {tried.change.value}: {tried.outcome.value}{gain}{note}"


def tried_table(state: TuneState) -> tuple[list[Column], list[list[str]]]:
    """Return the table of what was tried, with medians over the rounds."""
    axes = {axis.key: axis for axis in state.ground.axes}
    columns = [
        Column(title="setting"),
        Column(title="now", right=True, rank=3),
        Column(title="tried", right=True),
        Column(title="outcome"),
        Column(title="gain", right=True),
        Column(title="tokens/s", right=True, rank=1),
        Column(title="first p99", right=True, rank=2),
        Column(title="note", cut=True, rank=4),
    ]
    rows = [["as before", "", "", "", "", *_figures(state.baseline), ""]]
    rows += [
        [
            one.change.key,
            axes[one.change.key].now,
            one.change.value,
            one.outcome.value,
            "" if one.gain is None else f"{one.gain:+.1%}",
            *_figures(one.rounds),
            one.note,
        ]
        for one in state.tried
    ]
    return columns, rows


def _figures(rounds: Sequence[Round]) -> tuple[str, str]:
    speeds = [value for one in rounds if (value := one.output_tokens_per_s) is not None]
    firsts = [one.first_token.p99 for one in rounds if one.first_token.p99 is not None]
    return (
        format_value(median(speeds)) if speeds else "",
        format_value(median(firsts)) if firsts else "",
    )


def end_lines(state: TuneState, untried: Sequence[str]) -> Iterator[str]:
    """Yield how a search ended, and what it cost."""
    yield state.ended or "not finished"
    if state.kept:
        yield "before, started anew: " + describe_rounds(state.confirmation.before)
        yield "now, started anew: " + describe_rounds(state.confirmation.after)
    if untried:
        yield f"not tried for want of time: {', '.join(untried)}"
    measured = [one for one in state.tried if one.outcome is not Outcome.LEFT_OUT]
    yield (
        f"{_counted(measured, 'change')} measured in {format_seconds(state.time.total_s)}, "
        f"{format_seconds(state.time.without_service_s)} of it without service"
    )
