"""Judge what the runtime reports: still coming up, ready to be asked, or failed for good. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from generator.domain.service import ServicePhase, ServiceState

# A third start of the same thing has never helped; both runtimes are told to try twice more at most.
MOST_RESTARTS = 2


class Verdict(StrEnum):
    """What to do next."""

    WAIT = "wait"
    ASK = "ask"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict over all services, and the service to blame where it is FAILED."""

    verdict: Verdict
    culprit: ServiceState | None = None


def judge(states: tuple[ServiceState, ...]) -> Judgement:
    """Judge all services together: one that ended for good fails the stack, and only a whole one is asked."""
    for state in states:
        if state.phase is ServicePhase.EXITED or state.restarts > MOST_RESTARTS:
            return Judgement(verdict=Verdict.FAILED, culprit=state)
    if states and all(state.phase is ServicePhase.HEALTHY for state in states):
        return Judgement(verdict=Verdict.ASK)
    return Judgement(verdict=Verdict.WAIT)


# Lines of vLLM 0.32.0's log, in the order in which a start passes them. Words of what a step says of itself: the
# configuration that is logged first names torch.compile and CUDA graphs also where neither is used.
_STEPS = (
    (re.compile(r"Starting to load model |Loading \w+ checkpoint shards"), "loading weights"),
    (re.compile(r"Starting torch\.compile|Dynamo bytecode transform time|for the compilation\.\.\."), "compiling"),
    (re.compile(r"Available KV cache memory: |KV cache size: [0-9]|Initial profiling"), "profiling memory"),
    (re.compile(r"Capturing CUDA graphs|Graph capturing finished"), "capturing graphs"),
    (re.compile(r"Starting vLLM server on |Application startup complete"), "opening its port"),
)
# The third line of the banner: what stands before the last one was said by an earlier start of the same service.
_BANNER = re.compile(r"█  version [0-9]")


def engine_step(log: str) -> str | None:
    """Name the furthest step that the last start in an engine's log shows, or None before the first."""
    latest = _last_start(log)
    reached = [name for pattern, name in _STEPS if pattern.search(latest)]
    return reached[-1] if reached else None


def _last_start(log: str) -> str:
    banners = list(_BANNER.finditer(log))
    return log[banners[-1].start() :] if banners else log


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# `(EngineCore pid=208) ERROR 11-21 03:30:18 [core.py:1510] ` of vLLM; `12:30:01 - LiteLLM Proxy:ERROR: proxy.py:1 - `.
_PREFIX = re.compile(r"^(\(\w[\w.-]* pid=\d+\) ?)?([A-Z]+ [0-9-]+ [0-9:.]+ \[\w[\w.]*:\d+\] ?)?")
_FRAME = re.compile(r"^\s|^(File \"|raise |[\^~]+$)|Traceback \(most recent call last\)")
# A missing library or file, and what ran out, in the words of the system: no exception raised later says it better.
_CAUSE = re.compile(r"cannot open shared object|out of memory|no space left|Insufficient space", re.IGNORECASE)
_EXCEPTION = re.compile(r"^[\w.]*(Error|Exception|Interrupt)\b(: |$)")
_ERROR = re.compile(r"\b(\w*Error|\w*Exception|error|fatal)\b", re.IGNORECASE)
# What vLLM raises further out only says that something has been raised further in; the others stand in every log.
_SECOND_HAND = re.compile(
    r"[Ss]ee root cause|[Ss]ee stack trace|failed to start\.$|DeprecationWarning|FutureWarning|Found ulimit of"
)


def telling_line(log: str) -> str | None:
    """Pick the line of a failed service's log that most likely tells why; at most 300 characters, None of an empty log.

    That is the last one in which the system refuses something, else the last exception that does not merely point
    at another, else the last that speaks of an error, else the last of all.
    """
    cleaned = (_PREFIX.sub("", _ESCAPES.sub("", line)) for line in _last_start(log).splitlines())
    lines = [line.strip() for line in cleaned if line.strip() and not _FRAME.search(line)]
    own = [line for line in lines if not _SECOND_HAND.search(line)]
    ranks = (
        [line for line in own if _CAUSE.search(line)],
        [line for line in own if _EXCEPTION.search(line)],
        [line for line in own if _ERROR.search(line)],
        lines,
    )
    return next((found[-1][:300] for found in ranks if found), None)
