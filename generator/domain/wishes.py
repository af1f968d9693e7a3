"""What an environment wishes for, before any host is looked at (envs/<env>.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field

WISHES_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class GatewayWishes:
    """Where the gateway listens on the host."""

    bind: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """One environment's wishes. `settings` pins emitted keys, as `--set` does, which beats it.

    `gpu_memory_utilization` is a fraction of each GPU's memory; `max_model_len` is in tokens, None for the
    longest that fits; `model` is None for the default of the mode.
    """

    schema: int
    model: str | None
    gpu_memory_utilization: float
    max_model_len: int | None
    gateway: GatewayWishes
    settings: dict[str, str] = field(default_factory=dict)
