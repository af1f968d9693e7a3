"""Judge a log that a person has, without the stack that wrote it: what failed, or the first error where no rule knows.

Pure. A log of several services (`docker compose logs`) is told apart by what stands before each line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from stackwright.diagnosis.rules import LONGEST_QUOTE, Diagnosis, Rule, clean_lines, diagnose_log

# `engine-1  | text`: what Compose writes before a line.
_PREFIX = re.compile(r"^(?P<service>[\w.-]{1,80})\s+\| ")
# A message of these levels tells of no failure, whatever it quotes.
_HARMLESS = re.compile(r"^(?:\(\w[\w.-]* pid=\d+\) ?)*(?:INFO|DEBUG|WARNING)\b")
_ERROR = re.compile(
    r"(?:^|[\s\]])(?P<error>(?:[A-Za-z_][\w.]*)?(?:Error|Exception|Exit): \S.*)"
    r"|(?P<refusal>Error response from daemon: \S.*|^(?:fatal|panic|FATAL): \S.*)"
)
# These only point at another line.
_SECOND_HAND = re.compile(
    r"[Ss]ee root cause above|See stack trace|failed to start\.?$|WorkerProc initialization failed"
)


class LogJudgement(Struct, frozen=True, kw_only=True):
    """What one service's part of a log says. `rule`, `fix` and `source` are None where no known failure matches."""

    cause: str
    fix: str | None
    source: str | None
    lines: tuple[str, ...]
    rule: str | None


def judge_log(text: str, rules: Iterable[Rule], values: Mapping[str, str]) -> tuple[LogJudgement, ...]:
    """Return for each service whose lines tell of a failure the best known one, else its first error.

    A service without a known failure is passed over where another one has one: it fell with that one.
    """
    known = tuple(rules)
    parts = _by_service(text)
    named = [found[0] for part in parts if (found := diagnose_log(part, known, values=values))]
    if named:
        return tuple({diagnosis.rule: _judged(diagnosis) for diagnosis in named}.values())
    errors = (error for part in parts if (error := _first_error(part)) is not None)
    return tuple(
        LogJudgement(
            cause=f"no known failure; the first error is: {error}", fix=None, source=None, lines=(error,), rule=None
        )
        for error in list(errors)[:1]
    )


def _judged(diagnosis: Diagnosis) -> LogJudgement:
    return LogJudgement(
        cause=diagnosis.cause, fix=diagnosis.fix, source=diagnosis.source, lines=(diagnosis.line,), rule=diagnosis.rule
    )


def _by_service(text: str) -> tuple[str, ...]:
    """Return the text of each service, in the order of their first lines; the whole text where none is named."""
    parts: dict[str, list[str]] = {}
    for line in text.splitlines():
        prefix = _PREFIX.match(line)
        parts.setdefault(prefix["service"] if prefix else "", []).append(line[prefix.end() :] if prefix else line)
    return tuple("\n".join(lines) for lines in parts.values())


def _first_error(text: str) -> str | None:
    for line in clean_lines(text):
        if _HARMLESS.match(line) or _SECOND_HAND.search(line):
            continue
        if found := _ERROR.search(line):
            return (found["error"] or found["refusal"]).strip()[:LONGEST_QUOTE]
    return None
