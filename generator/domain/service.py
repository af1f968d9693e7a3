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
class Effort:
    """What the processes of a service have done since they began: seconds of processor time, bytes read from disks.

    `read_bytes` is None where the system does not tell.
    """

    cpu_s: float
    read_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class ServiceState:
    """One service. `exit_code` is set only for `exited`.

    `restarts` counts the runtime's own restarts, the one that it is about to make included. `effort` is told of a
    service that runs and does not answer yet, where the runtime can see its processes.
    """

    name: str
    phase: ServicePhase
    exit_code: int | None = None
    restarts: int = 0
    detail: str | None = None
    effort: Effort | None = None
