"""Judge a log that a person has, without the stack that wrote it: what failed, or the first error where no rule knows.

Pure. A log of several services (`docker compose logs`) is told apart by what stands before each line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from stackwright.diagnosis.moments import without_requests
from stackwright.diagnosis.rules import LONGEST_QUOTE, Diagnosis, Rule, diagnose_log, error_lines, failure_lines

# `engine-1  | text`: what Compose writes before a line.
_PREFIX = re.compile(r"^(?P<service>[\w.-]{1,80})\s+\| ")
# `(EngineCore_DP0 pid=7)`: which of an engine's processes wrote a line.
_PROCESS = re.compile(r"\((?P<process>\w[\w.-]{0,60}(?: rank=[0-9]+)? pid=[0-9]+)[^)]{0,60}\)")
_ERROR = re.compile(
    r"(?:^|[\s\]])(?P<error>(?:[A-Za-z_][\w.]*)?(?:Error|Exception|Exit|Interrupt)(?:: \S.*|$))"
    r"|(?P<refusal>(?:docker: )?Error response from daemon: \S.*|^(?:(?i:fatal|panic|error)|[\w.-]+: error): \S.*"
    r"|^nvidia-container-cli: \S.*|^Error: \S.*)"
)
# These only point at another line.
_SECOND_HAND = re.compile(
    r"[Ss]ee root cause above|[Ss]ee stack trace|failed to start\.?$|WorkerProc initialization failed"
    r"|DeprecationWarning|FutureWarning|dependency failed to start|EngineDeadError|Process \S+ exited"
    r"|cannot be preloaded"  # of a library that LD_PRELOAD names: the program runs without it
    # What Ray and Python's helpers raise for an error of a process of theirs, which stands below or above.
    r"|The actor died because of an error|RayTaskError|ActorDiedError|ActorUnavailableError|ProcessRaisedException"
    r"|ChildFailedError|RemoteTraceback|BrokenProcessPool|RuntimeEnvSetupError: Failed to set up runtime environment\.$"
)
# Where no error has a name: a line that speaks of one, or that a logger calls one.
_SPOKEN = re.compile(
    r"^\s*(?:fatal|failed|cannot|could not|unable to|error)\b"
    r"|\b(?:no such file|permission denied|not found|i/o error|exception in)\b",
    re.IGNORECASE,
)
_ONE_LINE = "Traceback (most recent call last):\\n"
_FRAME = re.compile(r"\s|Traceback ")
# The words of Uvicorn (0.38 lifespan/on.py), in the engine and in the gateway, of PostgreSQL, Redis, Prometheus, Qdrant
# (1.15 src/actix/mod.rs) and text-embeddings-inference (1.8 router/src/http/server.rs).
_READY = re.compile(
    r"^.*(?:Application startup complete\.|ready to accept connections|Server is ready to receive web requests"
    r"|Qdrant HTTP listening on|text_embeddings_router::\S+: \S+: Ready$)[^\n]*$",
    re.MULTILINE | re.IGNORECASE,
)
_MOST_OF_CHAIN = 4


class LogJudgement(Struct, frozen=True, kw_only=True):
    """What one service's part of a log says. `rule`, `fix` and `source` are None where no known failure matches.

    `lines`: the line that gave it away; without a rule the first error and those that it led to.
    """

    cause: str
    fix: str | None
    source: str | None
    lines: tuple[str, ...]
    rule: str | None


def judge_log(text: str, rules: Iterable[Rule], values: Mapping[str, str]) -> tuple[LogJudgement, ...]:
    """Return for each service whose lines tell of a failure the best known one, in the order of the rules.

    A service without a known failure is passed over where another one has one: it fell with that one. So is one of
    which only a general rule knows. Where no rule knows any, the first error is shown.
    """
    known = tuple(rules)
    parts = _by_service(_spelled_out(text))
    order = {rule.id: position for position, rule in enumerate(known)}
    for asked in (tuple(rule for rule in known if not rule.general), tuple(rule for rule in known if rule.general)):
        # What a service wrote before its last start that went well is no reason to quote it.
        texts = (_since_ready(part) for part in parts) if asked and asked[0].general else parts
        named = [found[0] for part in texts if (found := _diagnose(part, asked, values))]
        if named:
            named.sort(key=lambda diagnosis: order[diagnosis.rule])
            return tuple({diagnosis.rule: _judged(diagnosis) for diagnosis in named}.values())
    chains = (chain for part in parts if (chain := _first_errors(part)))
    return tuple(
        LogJudgement(
            cause=f"no known failure; the first error is: {chain[0]}", fix=None, source=None, lines=chain, rule=None
        )
        for chain in list(chains)[:1]
    )


def _diagnose(text: str, rules: tuple[Rule, ...], values: Mapping[str, str]) -> tuple[Diagnosis, ...]:
    """Look at what befell the service first; only then at the requests that failed."""
    serious = without_requests(text)
    return diagnose_log(serious, rules, values=values) or (
        diagnose_log(text, rules, values=values) if serious != text else ()
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


def _spelled_out(text: str) -> str:
    """Write the line ends of tracebacks out that stand in one line: of a log in JSON, or of an answer."""
    return "\n".join(
        line.replace("\\n", "\n").replace('\\"', '"') if _ONE_LINE in line else line for line in text.split("\n")
    )


def _since_ready(text: str) -> str:
    """Return what a service wrote after it was ready for the last time; the whole where it never was."""
    ready = _READY.findall(text)
    return text.rpartition(ready[-1])[2] if ready else text


def _first_errors(text: str) -> tuple[str, ...]:
    """Return the errors of the process that failed first, in the order in which one led to the next.

    What a service wrote before its last start that went well did not keep it from it.
    """
    since = _since_ready(text)
    chains: dict[str, list[str]] = {}
    for raw, line in zip(since.split("\n"), failure_lines(since), strict=True):
        if _SECOND_HAND.search(line) or not (found := _ERROR.search(line)):
            continue
        process = _PROCESS.search(raw)
        error = (found["error"] or found["refusal"]).strip()[:LONGEST_QUOTE]
        chain = chains.setdefault(process["process"] if process else "", [])
        if error not in chain:
            chain.append(error)
    if chains:
        return tuple(next(iter(chains.values()))[:_MOST_OF_CHAIN])
    lines = failure_lines(since)
    if since != text:
        return tuple(line.strip()[:LONGEST_QUOTE] for line in itertools.islice(filter(_SPOKEN.search, lines), 1))
    # A log that was cut may hold nothing but what points at lines above it.
    pointing = (line for line in lines if _SECOND_HAND.search(line) and _ERROR.search(line))
    logged = (line for line in error_lines(since) if line.strip() and not _FRAME.match(line))
    first = itertools.islice(itertools.chain(filter(_SPOKEN.search, lines), pointing, logged), 1)
    return tuple(line.strip()[:LONGEST_QUOTE] for line in first)
