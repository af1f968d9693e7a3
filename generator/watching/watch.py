"""Wait until every model of a started stack has answered through the gateway, or it is certain that it will not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generator.domain.service import ServicePhase, ServiceState
from generator.errors import NotHealthyError
from generator.runtime import Runtime, Say, Stack
from generator.units import format_bytes, format_seconds
from generator.watching.health import Verdict, engine_step, judge, telling_line
from generator.watching.probe import Answer, base_url, complete

POLL_S = 0.5
# A healthy gateway that refuses every completion this long will not begin to answer.
ANSWERS_WITHIN_S = 120
LOG_LINES = 200
# Each rank of an engine tells of its own end before the engine does.
FAILED_LOG_LINES = 2000


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Seconds from any zero, and a way to let some pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def watch(
    runtime: Runtime,
    stack: Stack,
    key: str,
    say: Say,
    *,
    limit_s: float | None = None,
    clock: Clock = Clock(),
) -> dict[str, str]:
    """Poll until each model has completed a chat; return its first words by model.

    The services are looked at between two questions too: an engine may say that it is healthy and die of the first.

    Args:
        key: the gateway's key.
        limit_s: give up after this many seconds even where the start still moves; None never does.

    Raises:
        NotHealthyError: a service ended, the limit passed, or the gateway never gave a completion.
    """
    started, limit_s = clock.now(), math.inf if limit_s is None else limit_s
    asked_since: float | None = None
    answers: dict[str, str] = {}
    while True:
        states = runtime.services()
        judgement = judge(states)
        if judgement.verdict is Verdict.FAILED and judgement.culprit is not None:
            raise _ended(runtime, judgement.culprit)
        asking = judgement.verdict is Verdict.ASK
        _tell(runtime, stack, tuple(state for state in states if not (asking and state.name == "gateway")), say)
        if asking:
            asked_since = clock.now() if asked_since is None else asked_since
            refusal = _ask_all(stack, key, say, answers)
            if refusal is None:
                return answers
            if refusal.status in (401, 403) or clock.now() > min(asked_since + ANSWERS_WITHIN_S, started + limit_s):
                raise _refused(refusal)
        elif clock.now() - started > limit_s:
            raise _too_slow(states, limit_s)
        clock.sleep(POLL_S)


def _tell(runtime: Runtime, stack: Stack, states: tuple[ServiceState, ...], say: Say) -> None:
    for state in states:
        starting = state.phase is ServicePhase.STARTING and state.name.startswith("engine")
        step = _downloaded(stack) or engine_step(runtime.logs(state.name, LOG_LINES)) if starting else None
        restarts = f" (restart {state.restarts})" if state.restarts else ""
        say(state.name, f"{step or state.detail or state.phase.value}{restarts}")


def _downloaded(stack: Stack) -> str | None:
    """Say how much of a hub model has arrived, while parts of it are incomplete."""
    model = stack.env["VLLM_MODEL"]
    if model.startswith("/"):
        return None
    blobs = Path(stack.env["HF_HOME"]) / "hub" / f"models--{model.replace('/', '--')}" / "blobs"
    sizes = {file.name: _size(file) for file in blobs.glob("*")} if blobs.is_dir() else {}
    unfinished = any(name.endswith(".incomplete") for name in sizes)
    return f"downloading weights, {format_bytes(sum(sizes.values()))}" if unfinished else None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # renamed from .incomplete to its final name meanwhile
        return 0


def _ask_all(stack: Stack, key: str, say: Say, answers: dict[str, str]) -> Answer | None:
    """Ask each model that is not in `answers` yet and add what it says; return the first refusal, or None."""
    url = base_url(stack.env["GATEWAY_BIND"], int(stack.env["GATEWAY_PORT"]))
    say("gateway", "asking for a completion")
    for model in stack.plan.gateway.models:
        if model not in answers:
            answer = complete(url, key, model)
            if not answer.ok:
                return answer
            answers[model] = answer.text
    say("gateway", "answered")
    return None


def _refused(answer: Answer) -> NotHealthyError:
    return NotHealthyError(f"the gateway gave no completion: {answer.status or 'no reply'}: {answer.text[:200]}")


def _ended(runtime: Runtime, state: ServiceState) -> NotHealthyError:
    line = telling_line(runtime.logs(state.name, FAILED_LOG_LINES))
    code = "" if state.exit_code is None else f" with exit code {state.exit_code}"
    return NotHealthyError(f"{state.name} ended{code} before it answered" + (f": {line}" if line else ""))


def _too_slow(states: tuple[ServiceState, ...], limit_s: float) -> NotHealthyError:
    behind = next((state for state in states if state.phase is not ServicePhase.HEALTHY), states[0])
    return NotHealthyError(
        f"{behind.name} is still {behind.phase.value} after {format_seconds(limit_s)}",
        hint="`--timeout SECONDS` waits longer",
    )
