"""What a search for better settings sends: the words of its command line, or what it began with."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from stackwright.commands.bench import context_of, own_model
from stackwright.commands.chat import choose_model
from stackwright.domain.load import Workload
from stackwright.domain.plan import ServedModel
from stackwright.domain.tuning import Aim, Goal, TuneLoad, TuneState
from stackwright.errors import UsageError
from stackwright.load.prompts import FILE_OUTPUT_TOKENS, PRESETS, read_prompts, shape_for, usual_requests
from stackwright.load.search import SETTLE_S
from stackwright.planning.tuning import choose_at_once
from stackwright.runtime import Stack
from stackwright.watching.history import past_steps


class AskedSearch(Struct, frozen=True, kw_only=True):
    """What a command line says of a search. None: what the search under way has, else what is usual."""

    goal: Goal | None = None
    first_token_ms: float | None = None
    minutes: int | None = None
    preset: str | None = None
    file: Path | None = None
    concurrency: int | None = None
    requests: int | None = None
    model: str | None = None


def load_of(asked: AskedSearch, stack: Stack, aim: Aim, before: TuneState | None) -> tuple[TuneLoad, Workload]:
    """Return what is sent, and its lengths. Raises UsageError for an unknown model or file."""
    name = choose_model(stack.plan, before.ground.load.model if before else asked.model)
    model = own_model(stack.plan, name)
    preset = (before.ground.load.preset if before else asked.preset) or "chat"
    file = Path(before.ground.load.file) if before and before.ground.load.file else asked.file and asked.file.absolute()
    if file is not None:
        prompts = read_prompts(file).name
        workload = Workload(file=prompts, output_tokens=FILE_OUTPUT_TOKENS)
    else:
        shape, prompts = shape_for(PRESETS[preset], context_of(stack, model)), None
        workload = Workload(preset=preset, input_tokens=shape.input_tokens, output_tokens=shape.output_tokens)
    if before is not None:
        if before.ground.load.prompts != prompts:
            hint = f"begin anew: `stackwright tune {stack.plan.environment} --restart`"
            raise UsageError(f"{file}: other prompts than the search began with", hint=hint)
        return before.ground.load, workload
    at_once = asked.concurrency or choose_at_once(model, aim.goal, workload)
    requests = asked.requests or usual_requests((at_once, None))
    load = TuneLoad(
        model=name,
        preset=preset,
        file=None if file is None else str(file),
        prompts=prompts,
        at_once=at_once,
        requests=requests,
    )
    return load, workload


def usual_start(stack: Stack, model: ServedModel) -> float | None:
    """Return how long the engine's last starts took here, and what comes around them; None where nobody knows."""
    steps = past_steps(stack.state, stack.plan, model.replicas[0])
    return sum(steps.values()) + SETTLE_S if steps else None
