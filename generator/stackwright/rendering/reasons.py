"""A plan's settings as lines for people: all of them as their file has them, or why each has its value. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby

from stackwright.domain.plan import Plan, Setting
from stackwright.rendering.numbered import flat_settings, spec_of_written

# A longer value is cut in the middle: the file has it whole.
_LONGEST_VALUE = 32


def list_settings(plan: Plan) -> Iterator[str]:
    """Yield every setting as KEY=VALUE below the name of its section."""
    yield f"# {plan.environment}"
    for section, rows in _by_section(plan):
        yield f"# --- {section} ---"
        yield from (f"{key}={setting.value}" for key, setting in rows)


def list_reasons(plans: Sequence[Plan], width: int) -> Iterator[str]:
    """Yield each value with its reason, by section, and below them the sources by number.

    What several plans have alike stands there once.
    """
    sources: list[str] = []
    shared = _shared(plans)
    if shared:
        names = ", ".join(plan.environment.value for plan in plans)
        yield from _list(plans[0], names, shared, sources, width)
    for plan in plans:
        own = flat_settings(plan).keys() - shared
        if own:
            yield from _list(plan, plan.environment.value, own, sources, width)
    yield "sources"
    for number, source in enumerate(sources, start=1):
        yield from _wrap(f"[{number}] {source}", width)


def _shared(plans: Sequence[Plan]) -> frozenset[str]:
    """Return the keys that all plans have with the same value and reason; of one plan alone there are none."""
    if len(plans) < 2:
        return frozenset()
    first, *others = (flat_settings(plan) for plan in plans)
    return frozenset(key for key, setting in first.items() if all(other.get(key) == setting for other in others))


def _list(plan: Plan, title: str, keys: AbstractSet[str], sources: list[str], width: int) -> Iterator[str]:
    yield f"why, in {title}:"
    for section, rows in _by_section(plan):
        wanted = [(key, setting) for key, setting in rows if key in keys]
        if wanted:
            yield section
        for key, setting in wanted:
            if setting.source not in sources:
                sources.append(setting.source)
            number = sources.index(setting.source) + 1
            yield from _wrap(f"{key}={_short(setting.value)}  {setting.reason}{_NO_BREAK}[{number}]", width)


# `textwrap` breaks a line at no other blank than those of ASCII.
_NO_BREAK = "\N{NO-BREAK SPACE}"


def _wrap(text: str, width: int) -> Iterator[str]:
    lines = textwrap.wrap(
        text,
        max(width, 40),
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from (line.replace(_NO_BREAK, " ") for line in lines)


def _short(value: str) -> str:
    half = _LONGEST_VALUE // 2 - 1
    return value if len(value) <= _LONGEST_VALUE else f"{value[:half]}…{value[-half:]}"


def _by_section(plan: Plan) -> Iterator[tuple[str, list[tuple[str, Setting]]]]:
    rows = ((key, setting, spec_of_written(key)) for key, setting in flat_settings(plan).items())
    for section, members in groupby(rows, key=lambda row: row[2].section if row[2] else ""):
        yield section, [(key, setting) for key, setting, _ in members]
