"""The page of a running stack: what is on it, and that it fits its columns."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.environment import Environment
from stackwright.domain.machine import GpuProcess, GpuReading, GpuState, SliceState
from stackwright.domain.running import (
    Drift,
    GpuUse,
    ModelLoad,
    ProcessorStatus,
    Quantiles,
    ServiceLoad,
    ServiceStatus,
    StackStatus,
    gpu_status,
    use_of,
)
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.rendering.sheet import Sheet
from stackwright.rendering.status_page import format_age, format_latency, status_page
from stackwright.units import GIB

READING = GpuReading(
    name="NVIDIA GeForce RTX 3090",
    memory_bytes=24 * GIB,
    memory_used_bytes=18 * GIB,
    busy_percent=97,
    temperature_c=71,
    power_w=312.4,
    power_limit_w=350.0,
    slowed=("heat",),
)
HOLDERS = (
    GpuProcess(pid=7, name="VLLM", memory_bytes=16 * GIB),
    GpuProcess(pid=8, name="game", memory_bytes=GIB),
)
GPU = GpuState(index=0, uuid="GPU-a", processes=HOLDERS, lanes=4, lanes_up=4, reading=READING)
LOST = GpuState(index=1, uuid="GPU-b", failure="GPU is lost", code=15, reading=GpuReading(name=READING.name))
MODEL = ModelLoad(
    name="qwen3-32b",
    replicas=2,
    running=3,
    waiting=1,
    prompt_tokens_per_s=1204.2,
    generation_tokens_per_s=88.0,
    cache_usage=0.41,
    cache_hit_rate=0.635,
    first_token=Quantiles(p50_s=0.12, p99_s=1.48),
    between_tokens=Quantiles(p50_s=0.0093, p99_s=0.03),
    over_s=2.0,
)
SERVICES = (
    ServiceStatus(state=ServiceState(name="engine", phase=ServicePhase.HEALTHY), since="x", since_s=7512.0),
    ServiceStatus(state=ServiceState(name="redis", phase=ServicePhase.EXITED, exit_code=137, restarts=2)),
    ServiceStatus(state=ServiceState(name="gateway", phase=ServicePhase.UNHEALTHY, detail="paused")),
)
STATUS = StackStatus(
    environment=Environment.PROD,
    runtime="compose",
    url="http://127.0.0.1:4002",
    generation=3,
    generations=("1 good", "2 failed", "3 good"),
    services=SERVICES,
    gpus=(gpu_status(GPU, ("engine",), frozenset({7})), gpu_status(LOST, (), frozenset({7}))),
    processor=None,
    models=(MODEL,),
    drift=(Drift(what="its settings have changed", service="engine"), Drift(what="changed since: A=1 → 2")),
    notes=("redis: no answer in 1 s",),
    from_start=False,
)
PAGE = """\
  prod · compose · http://127.0.0.1:4002 · generation 3
  other generations: 1 good, 2 failed

services
  engine   healthy    since 2 h 05 min
  redis    exited (exit code 137) · restarted 2×
  gateway  unhealthy · paused

GPUs
  0  RTX 3090 · engine · busy 97 % · 71 °C · 312 of 350 W · NVLink 4 of 4 up · slowed by heat
     ████████████████▞▞░░░░░░  ours 16.0 · others 2.0 · free 6.0 of 24.0 GiB
  1  RTX 3090  not used by this stack · does not answer: GPU is lost

models (last 2 s)
  qwen3-32b  2 replicas · 3 running · 1 waiting · cache 41 % · hits 64 %
     in 1,204 tokens/s · out 88 tokens/s · first token p50 120 ms p99 1.5 s
     between tokens p50 9.3 ms p99 30 ms

drift
  engine: its settings have changed
  changed since: A=1 → 2
note: redis: no answer in 1 s"""


def test_a_stack_on_gpus_is_one_page() -> None:
    assert "\n".join(status_page(STATUS, Sheet(width=100))) == PAGE


@pytest.mark.parametrize("width", [100, 80, 60, 40])
@pytest.mark.parametrize("ascii", [False, True])
def test_a_page_keeps_to_its_columns(width: int, ascii: bool) -> None:
    status = replace(STATUS, drift=())
    lines = status_page(status, Sheet(width=width, ascii=ascii))
    assert [line for line in lines if len(line) > width] == []
    assert not ascii or "".join(lines).isascii()


def test_a_stack_on_the_processor_shows_what_it_uses() -> None:
    processor = ProcessorStatus(
        processors=8,
        busy=5.25,
        memory_bytes=32 * GIB,
        memory_used_bytes=12 * GIB,
        services=(ServiceLoad(name="engine", processors=4.5, memory_bytes=6 * GIB),),
    )
    page = status_page(replace(STATUS, gpus=(), processor=processor), Sheet(width=80))
    start = page.index("processor")
    assert page[start + 1 : start + 4] == (
        "  busy 5.2 of 8",
        "  ████▞▞▞▞░░░░░░░░░░░░░░░░  ours 6.0 · others 6.0 · free 20.0 of 32.0 GiB",
        "  engine  busy 4.5 · 6.0 GiB",
    )


def test_nothing_running_is_no_drift() -> None:
    absent = tuple(
        ServiceStatus(state=ServiceState(name=row.state.name, phase=ServicePhase.ABSENT)) for row in SERVICES
    )
    assert status_page(replace(STATUS, services=absent, drift=()), Sheet())[-2] == "  nothing runs"


def test_what_nvml_does_not_tell_is_not_guessed() -> None:
    """Of WSL: who holds the memory. Of unified memory: how much there is."""
    assert use_of(10, 4, None, frozenset({7})) == GpuUse(total_bytes=10, ours_bytes=None, others_bytes=4, free_bytes=6)
    unknown = (GpuProcess(pid=7, name=None, memory_bytes=None),)
    assert use_of(10, 4, unknown, frozenset({7})).ours_bytes is None
    wsl = gpu_status(replace(GPU, processes=None), ("engine",), frozenset())
    unified = gpu_status(replace(GPU, reading=GpuReading(name="NVIDIA GB10")), ("engine",), frozenset())
    page = status_page(replace(STATUS, gpus=(wsl, unified)), Sheet(width=80))
    assert "  used 18.0 · free 6.0 of 24.0 GiB" in page[11]
    assert "     memory unknown" in page


def test_the_memory_of_a_slice_is_its_own_processes() -> None:
    row = SliceState(
        uuid="MIG-a", name="NVIDIA A100 MIG 3g.20gb", gpu_instance=2, memory_bytes=20 * GIB, memory_used_bytes=9 * GIB
    )
    holders = (
        GpuProcess(pid=7, name=None, memory_bytes=8 * GIB, gpu_instance=2),
        GpuProcess(pid=7, name=None, memory_bytes=5 * GIB, gpu_instance=1),
    )
    ((_, use),) = gpu_status(replace(GPU, processes=holders, slices=(row,)), (), frozenset({7})).slice_uses
    assert (use.ours_bytes, use.others_bytes, use.free_bytes) == (8 * GIB, GIB, 11 * GIB)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (3, "3 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (7512, "2 h 05 min"), (273_600, "3 d 4 h")],
)
def test_an_age_has_two_units(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown"), (0.0008, "0.8 ms"), (0.12, "120 ms"), (2.44, "2.4 s")]
)
def test_a_latency_has_one_unit(seconds: float | None, text: str) -> None:
    assert format_latency(seconds) == text
