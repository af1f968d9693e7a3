"""Judge what the runtime reports: still coming up, ready to be asked, or failed for good. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.watching.steps import last_starts, unadorned

# A third start of the same thing has never helped; both runtimes are told to try twice more at most.
MOST_RESTARTS = 2
_NONE: Mapping[str, int] = {}


class HealthVerdict(StrEnum):
    """What to do next."""

    WAIT = "wait"
    ASK = "ask"
    FAILED = "failed"


class Judgement(Struct, frozen=True, kw_only=True):
    """The verdict over all services, and the service to blame where it is FAILED."""

    verdict: HealthVerdict
    culprit: ServiceState | None = None


def judge(states: tuple[ServiceState, ...], before: Mapping[str, int] = _NONE) -> Judgement:
    """Judge all services together: one that ended for good fails the stack, and only a whole one is asked.

    Args:
        before: the restarts of each service that are not this start's: a stack that runs for weeks collects them.
    """
    for state in states:
        fell = state.restarts - before.get(state.name, 0)
        if state.phase is ServicePhase.EXITED or fell > MOST_RESTARTS:
            return Judgement(verdict=HealthVerdict.FAILED, culprit=state)
    if states and all(state.phase is ServicePhase.HEALTHY for state in states):
        return Judgement(verdict=HealthVerdict.ASK)
    return Judgement(verdict=HealthVerdict.WAIT)


_FRAME = re.compile(r"^\s|^(File \"|raise |[\^~]+$)|Traceback \(most recent call last\)")
# A missing library or file, and what ran out, in the words of the system: no exception raised later says it better.
_CAUSE = re.compile(r"cannot open shared object|out of memory|no space left|Insufficient space", re.IGNORECASE)
_EXCEPTION = re.compile(r"^[\w.]*(Error|Exception|Interrupt)\b(: |$)")
_ERROR = re.compile(r"\b(\w*Error|\w*Exception|error|fatal)\b", re.IGNORECASE)
# What an engine raises further out only says that something has been raised further in; the others stand in every log.
_SECOND_HAND = re.compile(
    r"[Ss]ee root cause|[Ss]ee stack trace|failed to start\.$|DeprecationWarning|FutureWarning|Found ulimit of"
)


def telling_line(log: str) -> str | None:
    """Pick the line of a failed service's log that most likely tells why; at most 300 characters, None of an empty log.

    That is the last one in which the system refuses something, else the last exception that does not merely point
    at another, else the last that speaks of an error, else the last of all.
    """
    cleaned = (unadorned(line) for line in last_starts(log, 1).splitlines())
    lines = [line.strip() for line in cleaned if line.strip() and not _FRAME.search(line)]
    own = [line for line in lines if not _SECOND_HAND.search(line)]
    ranks = (
        [line for line in own if _CAUSE.search(line)],
        [line for line in own if _EXCEPTION.search(line)],
        [line for line in own if _ERROR.search(line)],
        lines,
    )
    return next((found[-1][:300] for found in ranks if found), None)
