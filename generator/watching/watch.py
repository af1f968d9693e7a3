"""Wait until every model of a started stack has answered through the gateway, or it is certain that it will not."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
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


def watch(runtime: Runtime, stack: Stack, key: str, say: Say, *, limit_s: float) -> dict[str, str]:
    """Poll until each model has completed a chat; return its first words by model.

    Args:
        key: the gateway's key.
        limit_s: give up after this many seconds.

    Raises:
        NotHealthyError: a service ended, the limit passed, or the gateway never gave a completion.
    """
    started = time.monotonic()
    while True:
        states = runtime.services()
        _tell(runtime, stack, states, say)
        judgement = judge(states)
        if judgement.verdict is Verdict.FAILED and judgement.culprit is not None:
            raise _ended(runtime, judgement.culprit)
        if judgement.verdict is Verdict.ASK:
            return _ask_all(stack, key, say)
        if time.monotonic() - started > limit_s:
            raise _too_slow(states, limit_s)
        time.sleep(POLL_S)


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
    partial = any(name.endswith(".incomplete") for name in sizes)
    return f"downloading weights, {format_bytes(sum(sizes.values()))}" if partial else None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # renamed from .incomplete to its final name meanwhile
        return 0


def _ask_all(stack: Stack, key: str, say: Say) -> dict[str, str]:
    plan = stack.plan
    url = base_url(stack.env["GATEWAY_BIND"], int(stack.env["GATEWAY_PORT"]))
    return {model: _ask(partial(complete, url, key, model), say) for model in plan.gateway.models}


def _ask(ask: Callable[[], Answer], say: Say) -> str:
    say("gateway", "asking for a completion")
    started = time.monotonic()
    while True:
        answer = ask()
        if answer.ok:
            say("gateway", "answered")
            return answer.text
        if answer.status in (401, 403) or time.monotonic() - started > ANSWERS_WITHIN_S:
            status = answer.status or "no reply"
            raise NotHealthyError(f"the gateway gave no completion: {status}: {answer.text[:200]}")
        time.sleep(POLL_S)


def _ended(runtime: Runtime, state: ServiceState) -> NotHealthyError:
    line = telling_line(runtime.logs(state.name, LOG_LINES))
    code = "" if state.exit_code is None else f" with exit code {state.exit_code}"
    return NotHealthyError(f"{state.name} ended{code} before it answered" + (f": {line}" if line else ""))


def _too_slow(states: tuple[ServiceState, ...], limit_s: float) -> NotHealthyError:
    behind = next((state for state in states if state.phase is not ServicePhase.HEALTHY), states[0])
    return NotHealthyError(
        f"{behind.name} is still {behind.phase.value} after {format_seconds(limit_s)}",
        hint="`--timeout SECONDS` waits longer",
    )
