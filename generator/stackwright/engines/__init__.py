"""The engines: one folder each, one row here.

What all of them share stands in `memory/` and in `stackwright.models`.
"""

from __future__ import annotations

from stackwright.engines.protocol import Engine
from stackwright.engines.vllm.engine import VLLM
from stackwright.errors import UsageError, did_you_mean

ENGINES: dict[str, Engine] = {VLLM.name: VLLM}
"""By the name that `--engine` takes; the first is the one that is chosen where nobody names one."""


def default_engine() -> Engine:
    """Return the engine that serves where nobody names one."""
    return next(iter(ENGINES.values()))


def engine_named(name: str) -> Engine:
    """Return the engine of this name. Raises UsageError, which lists those that are registered."""
    if name not in ENGINES:
        raise UsageError(
            f"--engine: unknown engine `{name[:60]}`, allowed: {', '.join(ENGINES)}", hint=did_you_mean(name, ENGINES)
        )
    return ENGINES[name]
