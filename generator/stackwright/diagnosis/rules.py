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
    any of which a line has to match; named groups may stand in `cause`, `fix` and `settings` as `{group}`; `caller`
    and `callee` have to differ. `also` and `unless`: what another line of the same text must, or must not, match.
    `settings`: pins that mend it. `permanent`: trying the same again cannot help. `source`: where the words and the
    fix come from; `seen`: the date on which it was read. `understated`: lines that begin so count also where they are
    reported as information, which otherwise never tells of a failure, whatever it quotes. `general`: tried where no
    other rule matches, since it quotes whatever was refused, by its first line.
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
    understated: tuple[str, ...] = ()
    general: bool = False


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
    tried = [rule for rule in rules if kind is None or kind in rule.where]
    understated = [_compiled(pattern) for rule in tried for pattern in rule.understated]
    lines = [
        (level if level not in _QUIET else "", line)
        for level, line in _levelled(text)
        if level not in _QUIET or any(pattern.match(line) for pattern in understated)
    ]
    texts = ["\n".join(reading) for reading in _readings(lines)]
    whole = "\n".join(line for _, line in lines)
    for general in (False, True):
        asked = [rule for rule in tried if rule.general is general]
        for joined in texts:
            found = tuple(one for rule in asked if (one := _match(rule, joined, whole, values)) is not None)
            if found:
                return found
    return ()


# Colours, also as they come out of a copied terminal (`ESC[31m`, `^[[31m`, `[1;31m`), and control characters.
_ESCAPES = re.compile(
    r"(?:\x1b|\bESC|\^\[|\\x1b|\\u001b|\\033|#033)\[[0-9;?]*[A-Za-z]|\[[0-9;]{1,8}m|#015$"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
)
# What containers, orchestrators, process managers and loggers write before a line; nothing of it tells of a failure.
_ADORNMENTS = re.compile(
    r"(?:[\w.-]{0,80} {1,40}\| ?"  # Compose, columns of a viewer, and the frame of a group of exceptions
    r"|\[?[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?"
    r"(?:Z|[+-][0-9]{2}:?[0-9]{2})?\]?(?: ?[|:-] | )?"
    r"|[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} \S{1,80} [\w./-]{1,40}(?:\[[0-9]{1,8}\])?: "  # syslog
    r"|(?:stdout|stderr) [FP] "  # the logs of a container runtime
    r"|\S{1,80} [\w./-]{1,40}\[[0-9]{1,8}\]: |\[pod/[\w./-]{1,200}\] |##\[\w{1,20}\]"  # the journal, kubectl, a CI
    r"|[A-Z]{3,5} \[[0-9]{1,8}\] (?=[A-Z]{3,8}:)"  # PostgreSQL: the zone and the process
    r"|\((?:\w[\w.-]{0,60} ?)?(?:rank=[0-9]{1,4} )?pid=[0-9]{1,8}[^)\n]{0,60}\) ?"  # an engine's processes, Ray
    r"|\[rank[0-9]{1,4}\]: ?|\[[0-9]{1,4},[0-9]{1,4}\]<std(?:out|err)>: ?|> )"
)
_LEVEL = re.compile(
    r"(?:[0-9]{2}:[0-9]{2}:[0-9]{2} - LiteLLM[\w ]{0,20}:)?"
    r"(?P<level>TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b"
    r"(?::(?=\s)|(?= [0-9]{2}-[0-9]{2} )|(?= \[)|(?= -)|(?=:))"
    r"(?P<rest>(?: [0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})? ?\[?[\w./-]{1,60}:[0-9]{1,6}\] ?)?"
)
# The loggers of Kubernetes and of NVIDIA's parts of it: `E0506 17:45:45.421954       1 factory.go:112] text`.
_KLOG = re.compile(
    r"(?P<level>[IWEF])[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{1,9} +[0-9]{1,9} [\w./-]{1,60}:[0-9]{1,6}\] "
)
_KLOG_LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}
_LOUD = frozenset({"ERROR", "CRITICAL", "FATAL"})
_QUIET = frozenset({"TRACE", "DEBUG", "INFO"})


def clean_lines(text: str) -> list[str]:
    """Split a log into lines without colours, control characters and what a logger puts before each.

    Each is cut to what a message may need.
    """
    return [line for _, line in _levelled(text)]


def failure_lines(text: str) -> list[str]:
    """Return the lines that may tell of a failure; those of another level are empty, so that the numbers stay."""
    return ["" if level in _QUIET or level.startswith("WARN") else line for level, line in _levelled(text)]


def error_lines(text: str) -> list[str]:
    """Return the lines that a logger calls errors."""
    return [line for level, line in _levelled(text) if level in _LOUD]


def _levelled(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line with its level, empty where none is named; the words before a message are left out."""
    for raw in text.split("\n"):
        line = _ESCAPES.sub("", raw)[:LONGEST_LINE]
        at = 0
        while found := _ADORNMENTS.match(line, at):
            at = found.end()
        if klog := _KLOG.match(line, at):
            yield _KLOG_LEVELS[klog["level"]], line[klog.end() :]
            continue
        level = _LEVEL.match(line, at)
        if level is not None:
            at = level.end() if level["rest"] else at
        yield (level["level"] if level else ""), line[at:]


def _readings(lines: list[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield the lines that rules are tried on, in turn until one matches.

    What tells of a failure first; then with lines joined that a terminal broke; then the warnings before it too.
    """
    loud = [line for level, line in lines if not level.startswith("WARN")]
    yield loud
    if joined := _unbroken(loud):
        yield joined
    if len(loud) < len(lines) and any(level in _LOUD or _FAILURE.search(line) for level, line in lines):
        yield [line for _, line in lines]


_FAILURE = re.compile(r"(?:Error|Exception|Exit)\b|\b(?:error|fatal|panic|failed|denied)\b", re.IGNORECASE)
_NOT_GOING_ON = re.compile(r"\s*(?:$|File \"|Traceback |During handling|The above exception|\S{0,60}Error: )")
_MOST_JOINED = 8


def _unbroken(lines: list[str]) -> list[str]:
    """Return each message that goes on in the next lines as one line: cut inside a word, or between two."""
    joined = []
    for position, line in enumerate(lines):
        if not _FAILURE.search(line):
            continue
        more = []
        for following in lines[position + 1 : position + _MOST_JOINED]:
            if _NOT_GOING_ON.match(following):
                break
            more.append(following)
        if more:
            joined += [
                "".join((line, *more))[:LONGEST_LINE],
                " ".join((line, *(part.strip() for part in more)))[:LONGEST_LINE],
            ]
    return joined


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _match(rule: Rule, text: str, whole: str, values: Mapping[str, str]) -> Diagnosis | None:
    """Try one rule; `whole` has the warnings too."""
    found = next((one for pattern in rule.patterns if (one := _found(rule, pattern, text)) is not None), None)
    if found is None:
        return None
    if rule.also is not None and _compiled(rule.also).search(text) is None:
        return None
    if rule.unless is not None and _compiled(rule.unless).search(whole) is not None:
        return None
    known = {**values, **{name: value.strip() for name, value in found.groupdict().items() if value is not None}}
    known |= _port_words(known)
    return _diagnosis(rule, _line_at(text, _telling(found)), known)


def _telling(found: re.Match[str]) -> int:
    """Return where the words of a match begin that say why: one that begins with a frame has them lines below."""
    groups = found.groupdict()
    return next((found.start(name) for name in ("why", "what") if groups.get(name)), found.start())


def _found(rule: Rule, pattern: str, text: str) -> re.Match[str] | None:
    """Find what a rule quotes: of several lines the last, which tells of the latest start.

    A general rule knows no cause from a consequence: it takes the first, or the last of the chain that it begins.
    """
    found: re.Match[str] | None = None
    for one in _compiled(pattern).finditer(text):  # the last one is wanted
        if (caller := one.groupdict().get("caller")) is not None and caller == one.groupdict().get("callee"):
            continue  # a package that fails at itself tells nothing of another one
        found = one
        if rule.general and _LEADS_ON.match(text, found.end()) is None:
            break
    return found


# What Python writes below an error that another one follows from; the first may have more lines.
_LEADS_ON = re.compile(
    r"[^\n]{0,4000}\n(?:[^\n]{0,400}\n){0,6}?\s{0,4}(?:During handling of the above exception|The above exception was)"
)


def _port_words(known: Mapping[str, str]) -> dict[str, str]:
    """Return how a port that a line names is told, and the setting that has it: whatever the stack knows of it."""
    if (port := known.get("port")) is None:
        return {"taken_port": "a port of this stack"}
    key, _, service = known.get(f":{port}", "").partition(" ")
    return {"taken_port": f"port {port} of {service}", "port_key": key} if key else {"taken_port": f"port {port}"}


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)].strip()[:LONGEST_QUOTE]


def _diagnosis(rule: Rule, line: str, known: Mapping[str, str]) -> Diagnosis:
    pins = {key: fill(template, known) for key, template in rule.settings.items()}
    words = " ".join(f"--set {key}={value}" for key, value in pins.items())
    command = f"configure-gpu {known.get('environment', 'ENV')} {words}".strip()
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
