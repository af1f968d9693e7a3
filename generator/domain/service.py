"""What runs: one service of a started stack, as its runtime reports it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ServicePhase(StrEnum):
    """Where a service stands between nothing and answering."""

    ABSENT = "absent"
    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    EXITED = "exited"


@dataclass(frozen=True, kw_only=True)
class ServiceState:
    """One service. `exit_code` is set only for `exited`; `restarts` counts the runtime's own restarts."""

    name: str
    phase: ServicePhase
    exit_code: int | None = None
    restarts: int = 0
    detail: str | None = None
