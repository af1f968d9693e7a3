"""Match the known failures of `failures.yaml` against what services, runtimes and the kernel have written. Pure.

A rule looks at one line at a time, so that what it costs is bounded by `LONGEST_LINE`; the order of the file is the
order of the answers, what causes standing before what follows from it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

from msgspec import Struct, field

from stackwright.domain.service import ServicePhase, ServiceState

# A match that may look back over a line costs its length squared; no message that a rule knows is longer.
LONGEST_LINE = 4000
LONGEST_QUOTE = 300
UNKNOWN = "…"
_NO_VALUES: Mapping[str, str] = {}


class EvidenceKind(StrEnum):
    """Where a text was written, if by no service: by the runtime, by the kernel, or by us about a service's state.

    That of a service's own text is the service's kind.
    """

    RUNTIME = "runtime"
    STATE = "state"
    KERNEL = "kernel"


class Rule(Struct, frozen=True, kw_only=True):
    """One known failure.

    `where`: the kinds of service, and the further places, whose texts it is tried on. `patterns`: regular expressions,
    any of which a line has to match; named groups may stand in `cause`, `fix` and `settings` as `{group}`. `also` and
    `unless`: what another line of the same text must, or must not, match. `settings`: pins that mend it. `permanent`:
    trying the same again cannot help. `source`: where the words and the fix come from; `seen`: the date on which it was
    read.
    """

    id: str
    where: tuple[str, ...]
    patterns: tuple[str, ...]
    cause: str
    fix: str
    source: str
    seen: str
    permanent: bool
    also: str | None = None
    unless: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


class Diagnosis(Struct, frozen=True, kw_only=True):
    """A rule that matched: its sentences with the values filled in, and the `line` that gave it away.

    `settings` holds the pins whose values are known; `permanent` says that trying the same again cannot help.
    """

    rule: str
    cause: str
    fix: str
    source: str
    line: str
    permanent: bool
    settings: tuple[tuple[str, str], ...] = ()


def state_line(state: ServiceState) -> str:
    """Write a service's state as the line that rules for the kind `state` match; empty while it runs well."""
    if state.phase is ServicePhase.EXITED:
        detail = f" ({state.detail})" if state.detail else ""
        return f"{state.name} ended with exit code {state.exit_code}{detail}"
    if state.restarts or state.phase is ServicePhase.UNHEALTHY:
        return f"{state.name} is {state.phase.value}, restarted {state.restarts} times"
    return ""


def diagnose_log(
    text: str,
    rules: Iterable[Rule],
    *,
    kind: str | None = None,
    values: Mapping[str, str] = _NO_VALUES,
) -> tuple[Diagnosis, ...]:
    """Return every known failure that a text shows, best first: in the order of the rules.

    Args:
        kind: what wrote the text; None tries the rules for every kind.
        values: the settings in force, by key, and `environment`: what a fix may name.
    """
    lines = clean_lines(text)
    joined = "\n".join(lines)
    found = (_match(rule, joined, values) for rule in rules if kind is None or kind in rule.where)
    return tuple(diagnosis for diagnosis in found if diagnosis is not None)


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean_lines(text: str) -> list[str]:
    """Split a log into lines without colours and control characters, each cut to what a message may need."""
    return [_ESCAPES.sub("", line)[:LONGEST_LINE] for line in text.split("\n")]


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _match(rule: Rule, text: str, values: Mapping[str, str]) -> Diagnosis | None:
    """Try one rule. Of several lines that match, the last tells of the latest start."""
    found: re.Match[str] | None = None
    for pattern in rule.patterns:
        for found in _compiled(pattern).finditer(text):  # noqa: B007  # the last one is wanted
            pass
        if found is not None:
            break
    if found is None:
        return None
    if rule.also is not None and _compiled(rule.also).search(text) is None:
        return None
    if rule.unless is not None and _compiled(rule.unless).search(text) is not None:
        return None
    known = {**values, **{name: value.strip() for name, value in found.groupdict().items() if value is not None}}
    return _diagnosis(rule, _line_at(text, found.start()), known)


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)].strip()[:LONGEST_QUOTE]


def _diagnosis(rule: Rule, line: str, known: Mapping[str, str]) -> Diagnosis:
    pins = {key: fill(template, known) for key, template in rule.settings.items()}
    words = " ".join(f"--set {key}={value}" for key, value in pins.items())
    command = f"configure-gpu --env {known.get('environment', 'ENV')} {words}".strip()
    filled = {**known, "command": command}
    return Diagnosis(
        rule=rule.id,
        cause=fill(rule.cause, filled),
        fix=fill(rule.fix, filled),
        source=rule.source,
        line=line,
        permanent=rule.permanent,
        settings=tuple((key, value) for key, value in pins.items() if UNKNOWN not in value),
    )


_BLANK = re.compile(r"\{(\w+)(?:\|(\w+))?\}")


def fill(template: str, known: Mapping[str, str]) -> str:
    """Replace each `{name}`, or `{name|filter}`, by its value; by `…` where there is none."""

    def value_of(blank: re.Match[str]) -> str:
        value = known.get(blank[1])
        return UNKNOWN if value is None else _filtered(value, blank[2])

    return _BLANK.sub(value_of, template)


def _filtered(value: str, name: str | None) -> str:
    """Apply a filter: `digits` drops thousands separators, `whole` a fraction; `half` halves, `less` takes 0.05 off."""
    if name is None:
        return value
    digits = value.replace(",", "")
    try:
        number = float(digits)
    except ValueError:
        return UNKNOWN
    if name == "less":
        return f"{number - 0.05:.2f}" if number > 0.1 else UNKNOWN  # below it nothing is left
    if number < 1 or number >= 2**53:
        return UNKNOWN
    return str(max(int(number) // 2, 1) if name == "half" else int(number))


def blanks(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield each name and filter that a rule's texts use, for the check of the data."""
    for text in (rule.cause, rule.fix, *rule.settings.values()):
        yield from ((blank[1], blank[2] or "") for blank in _BLANK.finditer(text))
