"""One look at a running stack, or one after another: services, figures of the engines, work of the processor.

Touches the runtime that it is given, which asks the services; it asks side by side, and waits for none beyond a limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from stackwright.domain.machine import GpuState, Seen
from stackwright.domain.plan import Replica
from stackwright.domain.running import ModelLoad, ProcessorStatus, ServiceLoad, ServiceStatus
from stackwright.domain.service import UP, Effort, ServicePhase, ServiceState
from stackwright.runtime import Glance, Stack, WatchedRuntime
from stackwright.runtime.activity import MachineSample, measure, memory_of, sample_machine
from stackwright.runtime.side_by_side import side_by_side
from stackwright.watching.metrics import Figures, model_load, read_figures, since

LIMIT_S = 1.0
"""Seconds for everything that is asked at once; what answers takes a tenth of it."""

LEAST_INTERVAL_S = 0.1
"""Between two samples of the processor's work, whose clock ticks a hundred times a second (proc(5))."""


class WorkSample(Struct, frozen=True, kw_only=True):
    """What the machine and each service had worked at one moment, `at_s` on the monotonic clock."""

    at_s: float
    machine: MachineSample
    efforts: dict[str, Effort]


class Look(Struct, frozen=True, kw_only=True):
    """What was seen at one moment, `at_s` on the monotonic clock. `figures` by service and model.

    `gpus` is None where they were not asked for, or did not answer in time; `work` where it is not sampled.
    """

    at_s: float
    glances: tuple[Glance, ...]
    figures: dict[str, dict[str, Figures]] = field(default_factory=dict)
    gpus: Seen[tuple[GpuState, ...]] | None = None
    work: WorkSample | None = None
    notes: tuple[str, ...] = ()


ReadGpus = Callable[[], Seen[tuple[GpuState, ...]]]


def take_look(runtime: WatchedRuntime, stack: Stack, read_gpus: ReadGpus | None, limit_s: float = LIMIT_S) -> Look:
    """Ask everything once. `read_gpus` is None for a stack on the processor, whose work is then sampled.

    Raises:
        RuntimeRefusedError: the runtime itself does not answer.
    """
    gpus: Seen[tuple[GpuState, ...]] | None = None
    notes: tuple[str, ...] = ()
    if read_gpus is None:
        look = _look_at_services(runtime, stack, limit_s, samples_work=True)
    else:
        read: ReadGpus = read_gpus
        answers: dict[str, Any] = {}
        asked: dict[str, Callable[[], object]] = {
            "GPUs": lambda: answers.update(gpus=read()),
            "services": lambda: answers.update(look=_look_at_services(runtime, stack, limit_s, samples_work=False)),
        }
        side_by_side(asked, 2 * limit_s)
        gpus, look = answers.get("gpus"), answers.get("look") or Look(at_s=time.monotonic(), glances=())
        notes = () if gpus is not None else (f"GPUs: NVML has not answered in {2 * limit_s:g} s",)
    return replace(look, gpus=gpus, notes=(*look.notes, *notes))


def _look_at_services(runtime: WatchedRuntime, stack: Stack, limit_s: float, *, samples_work: bool) -> Look:
    glances = runtime.glance(limit_s)
    work = sample_work(glances) if samples_work else None
    metrics = stack.engine.metrics
    healthy = {glance.state.name: glance for glance in glances if glance.state.phase is ServicePhase.HEALTHY}
    engines = [replica for replica in stack.plan.engines if replica.name in healthy]
    at_s, figures, silent = time.monotonic(), {}, []
    if metrics is not None:
        within_s = limit_s * 0.8
        asked = {one.name: partial(runtime.fetch, healthy[one.name], metrics.path, within_s) for one in engines}
        texts = side_by_side(asked, limit_s)
        for one in engines:
            text = texts.get(one.name)
            if text is None:
                silent.append(f"{one.name}: no figures in {limit_s:g} s")
            else:
                figures[one.name] = read_figures(text, metrics, [turn.model for turn in stack.plan.turns(one)])
    return Look(at_s=at_s, glances=glances, figures=figures, work=work, notes=tuple(silent))


def sample_work(glances: Iterable[Glance]) -> WorkSample:
    """Read what the machine and the services' processes have worked until now."""
    efforts = {glance.state.name: measure(glance.pids) for glance in glances if glance.pids}
    return WorkSample(
        at_s=time.monotonic(),
        machine=sample_machine(),
        efforts={name: effort for name, effort in efforts.items() if effort is not None},
    )


def services_of_look(look: Look) -> tuple[ServiceStatus, ...]:
    """Return the services with the time since when each runs."""
    now, clock = datetime.now().astimezone(), time.clock_gettime(time.CLOCK_MONOTONIC)
    rows = []
    for glance in look.glances:
        began_s = glance.state.traces.began_s
        if began_s is None or glance.state.phase not in UP:
            rows.append(ServiceStatus(state=glance.state))
            continue
        ago_s = max(clock - began_s, 0.0)
        since = (now - timedelta(seconds=ago_s)).isoformat(timespec="seconds")
        rows.append(ServiceStatus(state=glance.state, since=since, since_s=ago_s))
    return tuple(rows)


def models_of(stack: Stack, look: Look, before: Look | None) -> tuple[ModelLoad, ...]:
    """Return how each model fares: since an earlier look, or else since the engines began."""
    states = {glance.state.name: glance.state for glance in look.glances}
    rows = []
    for model in stack.plan.models:
        load = model_load(model.name, [_figures_of(replica, look, before, states) for replica in model.replicas])
        phases = {states[replica.name].phase for replica in model.replicas if replica.name in states}
        if model.replicas and ServicePhase.HEALTHY not in phases:
            load = replace(load, note=", ".join(sorted(phases)) or None)
        rows += [load] if model.replicas else []
    return tuple(rows)


def _figures_of(
    replica: Replica, look: Look, before: Look | None, states: Mapping[str, ServiceState]
) -> tuple[Figures, float] | None:
    now = look.figures.get(replica.name, {}).get(replica.model)
    if now is None:
        return None
    earlier = None if before is None else before.figures.get(replica.name, {}).get(replica.model)
    if before is not None and earlier is not None:
        return since(now, earlier), look.at_s - before.at_s
    began_s = states[replica.name].traces.began_s if replica.name in states else None
    return now, time.clock_gettime(time.CLOCK_MONOTONIC) - began_s if began_s is not None else 0.0


def processor_of(glances: Iterable[Glance], before: WorkSample, now: WorkSample) -> ProcessorStatus:
    """Return what the processor did between two samples."""
    machine, earlier = now.machine, before.machine
    passed_s, worked_s = now.at_s - before.at_s, machine.busy_s - earlier.busy_s
    whole_s = worked_s + machine.idle_s - earlier.idle_s
    services = []
    for glance in glances:
        name = glance.state.name
        if name not in now.efforts:
            continue
        spent_s = now.efforts[name].cpu_s - before.efforts[name].cpu_s if name in before.efforts else -1.0
        services.append(
            ServiceLoad(
                name=name,
                processors=spent_s / passed_s if passed_s > 0 and spent_s >= 0 else None,
                memory_bytes=memory_of(glance.pids),
            )
        )
    return ProcessorStatus(
        processors=machine.processors,
        busy=machine.processors * max(worked_s, 0.0) / whole_s if whole_s > 0 else None,
        memory_bytes=machine.memory_bytes,
        memory_used_bytes=machine.memory_used_bytes,
        services=tuple(services),
    )
