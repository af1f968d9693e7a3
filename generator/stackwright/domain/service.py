"""What runs: one service of a started stack, as its runtime reports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class ServicePhase(StrEnum):
    """Where a service stands between nothing and answering."""

    ABSENT = "absent"
    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    EXITED = "exited"


UP = frozenset({ServicePhase.WAITING, ServicePhase.STARTING, ServicePhase.HEALTHY, ServicePhase.UNHEALTHY})
"""The phases of a service that is there and has not ended."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What the processes of a service have done since they began: seconds of processor time, bytes read from disks.

    `read_bytes` is None where the system does not tell.
    """

    cpu_s: float
    read_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What the kernel's messages about a service can be told by: its container's id, or the number of its first process.

    `began_s` is when it began last, on the clock of the kernel's messages; None where that is not known.
    """

    container: str | None = None
    process: int | None = None
    began_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ServiceState:
    """One service. `exit_code` is set only for `exited`.

    `restarts` counts the runtime's own restarts, the one that it is about to make included. `effort` is told of a
    service that runs and does not answer yet, where the runtime can see its processes. `traces` is no part of how a
    service stands, so two states that differ in nothing else are equal.
    """

    name: str
    phase: ServicePhase
    exit_code: int | None = None
    restarts: int = 0
    detail: str | None = None
    effort: Effort | None = None
    traces: Traces = field(default=Traces(), compare=False)


class Step(StrEnum):
    """What a service does before it answers, in the words that a person reads."""

    ABSENT = "absent"
    WAITING = "waiting"
    STARTING = "starting"
    DOWNLOADING = "downloading weights"
    LOADING = "loading weights"
    PROFILING = "profiling memory"
    COMPILING = "compiling"
    CAPTURING = "capturing graphs"
    OPENING = "opening its port"
    READY = "healthy"
    SILENT = "no longer healthy"
