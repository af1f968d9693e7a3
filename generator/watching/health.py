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


# Lines of vLLM 0.32.0's log, in the order in which a start passes them.
_STEPS = (
    (re.compile(r"Starting to load model|Loading (safetensors )?weights|Loading safetensors"), "loading weights"),
    (re.compile(r"torch\.compile|Dynamo bytecode transform|Compiling a graph"), "compiling"),
    (re.compile(r"Available KV cache memory|GPU KV cache size|CPU KV cache size|profiling"), "profiling memory"),
    (re.compile(r"Capturing CUDA graphs|Capturing cudagraphs"), "capturing graphs"),
    (re.compile(r"Starting vLLM API server|Starting vLLM server|Application startup complete"), "opening its port"),
)


def engine_step(log: str) -> str | None:
    """Name the furthest step that an engine's log shows, or None before the first."""
    reached = [name for pattern, name in _STEPS if pattern.search(log)]
    return reached[-1] if reached else None


_NOISE = re.compile(r"^\s*$|^\s*(File |raise |\^)|Traceback \(most recent call last\)|^\s+")
_ERROR = re.compile(r"\b(\w*(Error|Exception)\b|ERROR|error:|fatal|out of memory)", re.IGNORECASE)


def telling_line(log: str) -> str | None:
    """Pick the line of a failed service's log that most likely tells why: the last that names an error."""
    lines = [line.strip() for line in log.splitlines() if not _NOISE.search(line)]
    errors = [line for line in lines if _ERROR.search(line)]
    picked = (errors or lines or [""])[-1]
    return picked[:300] or None
