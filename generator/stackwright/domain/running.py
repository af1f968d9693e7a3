"""What a running stack is like: its models, GPUs and processor at one moment. Sizes are in bytes, unknown is None."""

from __future__ import annotations

from msgspec import Struct

from stackwright.domain.environment import Environment
from stackwright.domain.machine import GpuProcess, GpuState, SliceState
from stackwright.domain.service import ServiceState


class Quantiles(Struct, frozen=True, kw_only=True):
    """Half of the values, and 99 of 100, are at most so many seconds; None where there were none."""

    p50_s: float | None = None
    p99_s: float | None = None


class ModelLoad(Struct, frozen=True, kw_only=True):
    """How one model fares, all its replicas together.

    Rates, the hit rate and the quantiles are those of the last `over_s` seconds. `cache_usage` and `cache_hit_rate` are
    shares of 1; `cache_usage` is the fullest replica's. `note`: why there are no figures, or fewer.
    """

    name: str
    replicas: int
    running: int | None = None
    waiting: int | None = None
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    cache_usage: float | None = None
    cache_hit_rate: float | None = None
    first_token: Quantiles = Quantiles()
    between_tokens: Quantiles = Quantiles()
    over_s: float | None = None
    note: str | None = None


class GpuUse(Struct, frozen=True, kw_only=True):
    """Who has the memory of a GPU or of a slice: the stack's own processes, everybody else, nobody.

    `ours_bytes` is None where NVML does not tell who holds what; `others_bytes` is then all that is used.
    """

    total_bytes: int | None
    ours_bytes: int | None
    others_bytes: int | None
    free_bytes: int | None


class GpuStatus(Struct, frozen=True, kw_only=True):
    """One GPU. `serves`: the services that have it. `slices` go with `slice_uses`."""

    state: GpuState
    use: GpuUse
    serves: tuple[str, ...] = ()
    slice_uses: tuple[tuple[SliceState, GpuUse], ...] = ()


class ServiceLoad(Struct, frozen=True, kw_only=True):
    """What a service's processes use of the machine: processors at work, and bytes that are theirs alone or shared."""

    name: str
    processors: float | None
    memory_bytes: int | None


class ProcessorStatus(Struct, frozen=True, kw_only=True):
    """The machine's processor and memory now. `busy` is of 1 processor each: 2.0 are two at work."""

    processors: int
    busy: float | None
    memory_bytes: int
    memory_used_bytes: int
    services: tuple[ServiceLoad, ...] = ()


class Drift(Struct, frozen=True, kw_only=True):
    """One thing by which what runs differs from what a start would bring up now; `service` None: all."""

    what: str
    service: str | None = None


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """One service. `since`: when it began last, ISO 8601 with the machine's zone; `since_s` so many seconds ago."""

    state: ServiceState
    since: str | None = None
    since_s: float | None = None


class StackStatus(Struct, frozen=True, kw_only=True):
    """One stack at one moment.

    `generations` are told as `3 good`; `generation` is the number of the one that runs. `gpus` is empty and `processor`
    set where the stack uses no GPU. `from_start`: the figures of the models are those since the engines began, not of
    an interval. `notes`: what was too slow to be told, and what could not be read.
    """

    environment: Environment
    runtime: str
    url: str
    generation: int | None
    generations: tuple[str, ...]
    services: tuple[ServiceStatus, ...]
    gpus: tuple[GpuStatus, ...]
    processor: ProcessorStatus | None
    models: tuple[ModelLoad, ...]
    drift: tuple[Drift, ...]
    notes: tuple[str, ...] = ()
    from_start: bool = True


def use_of(
    total: int | None, used: int | None, processes: tuple[GpuProcess, ...] | None, ours: frozenset[int]
) -> GpuUse:
    """Divide a device's memory. `ours`: the process ids of the stack.

    A process of ours whose bytes NVML keeps to itself leaves the division unknown.
    """
    if total is None or used is None:
        return GpuUse(total_bytes=total, ours_bytes=None, others_bytes=None, free_bytes=None)
    free = max(total - used, 0)
    own = [process.memory_bytes for process in processes or () if process.pid in ours]
    known = [held for held in own if held is not None]
    if processes is None or len(known) < len(own):
        return GpuUse(total_bytes=total, ours_bytes=None, others_bytes=used, free_bytes=free)
    held = min(sum(known), used)
    return GpuUse(total_bytes=total, ours_bytes=held, others_bytes=used - held, free_bytes=free)


def gpu_status(state: GpuState, serves: tuple[str, ...], ours: frozenset[int]) -> GpuStatus:
    """Divide the memory of a GPU and of its slices."""
    slices = tuple(
        (
            row,
            use_of(
                row.memory_bytes,
                row.memory_used_bytes,
                None
                if state.processes is None
                else tuple(one for one in state.processes if one.gpu_instance == row.gpu_instance),
                ours,
            ),
        )
        for row in state.slices
    )
    whole = use_of(state.reading.memory_bytes, state.reading.memory_used_bytes, state.processes, ours)
    return GpuStatus(state=state, use=whole, serves=serves, slice_uses=slices)
