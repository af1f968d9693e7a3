"""What a host has shown replaces the forecast: the whole sum where the run is the same, weights where only they are."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_llms
from stackwright.domain.forecast import EngineSettings, GpuMemory, RememberedStart, Verdict
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.engines.vllm.start_report import read_start
from stackwright.models.shape import parse_shape
from stackwright.units import GIB

from tests.engines.vllm.start_logs import NEWEST, TWO_RANKS

SHAPE = parse_shape(next(row.config for row in load_llms() if row.hub_id == "Qwen/Qwen3-8B"))
GPU = GpuMemory(total_bytes=round(23.58 * GIB), name="NVIDIA GeForce RTX 3090", compute_capability=(8, 6))


def remembered(log: str = NEWEST) -> RememberedStart:
    """Return the start of a log as it would be remembered."""
    start = read_start(log)
    assert start is not None
    return RememberedStart(host="here", date="2026-11-28", gpu=GPU.name, start=start)


def settings(**changed: object) -> EngineSettings:
    """Return the settings of the remembered start, some changed."""
    return replace(remembered().start.settings, **changed)


def with_seen(log: str = NEWEST) -> GpuMemory:
    return replace(GPU, seen=(remembered(log),))


def test_the_same_settings_give_what_was_measured() -> None:
    start = remembered().start
    answer = forecast(SHAPE, settings(), with_seen())
    memory = answer.memory
    assert answer.verdict is Verdict.FITS
    assert (memory.weights_bytes, memory.cuda_graph_bytes) == (
        start.measured.weights_bytes,
        start.measured.graph_estimate_bytes,
    )
    assert abs(memory.kv_cache_bytes - (start.measured.kv_cache_bytes or 0)) < 0.02 * GIB
    assert memory.max_concurrency == start.measured.max_concurrency
    assert answer.reasons[-1] == answer.basis == "all figures measured on this host on 2026-11-28"


@pytest.mark.parametrize(
    "changed",
    [{"gpu_memory_utilization": 0.8}, {"max_model_len": 8192}, {"kv_cache_dtype": "fp8"}, {"prefix_caching": False}],
)
def test_what_the_profile_run_does_not_see_changes_the_pool_alone(changed: dict[str, object]) -> None:
    asked = settings(**changed)
    plain, answer = forecast(SHAPE, asked, GPU), forecast(SHAPE, asked, with_seen())
    measured = remembered().start.measured
    budget = round(GPU.total_bytes * (asked.gpu_memory_utilization or 0))
    taken = (measured.budget_bytes or 0) - (measured.kv_cache_bytes or 0)
    assert answer.memory.kv_cache_bytes == pytest.approx(budget - taken, abs=2)
    assert answer.memory.uncertainty_bytes < plain.memory.uncertainty_bytes / 4
    assert answer.basis == "all but the KV cache measured on this host on 2026-11-28"


def test_another_step_keeps_the_weights() -> None:
    asked = settings(max_num_batched_tokens=8192)
    plain, answer = forecast(SHAPE, asked, GPU), forecast(SHAPE, asked, with_seen())
    assert answer.memory.weights_bytes == remembered().start.measured.weights_bytes
    assert answer.memory.activation_bytes == plain.memory.activation_bytes
    assert answer.basis == "weights measured on this host on 2026-11-28"


@pytest.mark.parametrize("changed", [{"version": "0.32.0"}, {"tensor_parallel": 2}, {"pipeline_parallel": 2}])
def test_another_release_or_layout_has_its_own_past(changed: dict[str, object]) -> None:
    asked = settings(**changed)
    assert forecast(SHAPE, asked, with_seen()) == forecast(SHAPE, asked, GPU)


def test_a_verdict_does_not_change_without_a_word() -> None:
    """The forecast alone is not sure; the host has shown the room, and the answer says both."""
    asked = settings(max_model_len=30_720)
    roomy = NEWEST.replace("4.71 GiB", "5.75 GiB").replace("0.45 GiB", "0.05 GiB")
    plain, answer = forecast(SHAPE, asked, GPU), forecast(SHAPE, asked, with_seen(roomy))
    assert (plain.verdict, answer.verdict) == (Verdict.UNCERTAIN, Verdict.FITS)
    assert answer.warnings[-1] == "without what this host showed the forecast would be: uncertain"


def test_a_start_that_failed_is_no_fit() -> None:
    failed = NEWEST.replace("Application startup complete", "ValueError: larger than the available KV cache memory")
    answer = forecast(SHAPE, settings(), with_seen(failed))
    assert answer.verdict is Verdict.DOES_NOT_FIT


def test_a_warm_start_leaves_the_margin() -> None:
    """A first one takes more: the caches of its compiler are empty."""
    warm = NEWEST.replace(
        "Compiling a graph for compile range", "Directly load the compiled graph(s) for compile range"
    )
    asked = settings(max_model_len=8192)
    cold, answer = forecast(SHAPE, asked, with_seen()), forecast(SHAPE, asked, with_seen(warm))
    both = forecast(SHAPE, asked, replace(GPU, seen=(remembered(warm), remembered())))
    assert answer.memory.uncertainty_bytes > 4 * cold.memory.uncertainty_bytes
    assert both == cold


def test_a_log_of_another_model_or_of_many_ranks_tells_nothing_here() -> None:
    assert forecast(SHAPE, settings(), with_seen(TWO_RANKS)).basis == ""
