"""From vLLM's own figures to how a model fares; the text is that of vLLM 0.32.0 on a processor, shortened."""

from __future__ import annotations

import math

import pytest
from stackwright.domain.running import Quantiles
from stackwright.engines import engine_named
from stackwright.engines.protocol import EngineMetrics
from stackwright.watching.metrics import Figures, model_load, quantile, read_figures, read_rows, since

TEXT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smoke"} 3.0
vllm:num_requests_waiting{engine="0",model_name="smoke"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="smoke"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="smoke"} 200.0
vllm:prefix_cache_hits_total{engine="0",model_name="smoke"} 50.0
vllm:prefix_cache_hits_created{engine="0",model_name="smoke"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="smoke"} 400.0
vllm:generation_tokens_total{engine="0",model_name="smoke"} 800.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="smoke"} 50.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.2",model_name="smoke"} 100.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="smoke"} 100.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="smoke"} 100.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="smoke"} 0.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="smoke"} 0.0
"""


def metrics() -> EngineMetrics:
    """Return how vLLM names its figures."""
    found = engine_named("vllm").metrics
    assert found is not None
    return found


def figures(text: str = TEXT) -> Figures:
    """Read the figures of an engine with one model."""
    return read_figures(text, metrics(), ["smoke"])["smoke"]


def test_rates_hits_and_quantiles_are_told() -> None:
    load = model_load("smoke", [(figures(), 10.0)])
    assert (load.running, load.waiting, load.cache_usage, load.cache_hit_rate) == (3, 1, 0.25, 0.25)
    assert (load.prompt_tokens_per_s, load.generation_tokens_per_s) == (40.0, 80.0)
    assert load.first_token.p50_s == pytest.approx(0.1)
    assert load.first_token.p99_s == pytest.approx(0.198)
    assert load.between_tokens == Quantiles()
    assert (load.over_s, load.note) == (10.0, None)


def test_only_what_came_since_the_last_look_counts() -> None:
    later = TEXT.replace("800.0", "850.0").replace(
        'le="0.2",model_name="smoke"} 100.0', 'le="0.2",model_name="smoke"} 110.0'
    )
    later = later.replace('le="+Inf",model_name="smoke"} 100.0', 'le="+Inf",model_name="smoke"} 110.0')
    load = model_load("smoke", [(since(figures(later), figures()), 2.0)])
    assert (load.generation_tokens_per_s, load.prompt_tokens_per_s) == (25.0, 0.0)
    assert load.first_token.p50_s == pytest.approx(0.15)
    assert load.cache_hit_rate is None
    assert load.running == 3


def test_an_engine_that_began_anew_is_told_from_its_start() -> None:
    fresh = TEXT.replace("400.0", "20.0")
    assert since(figures(fresh), figures()) == figures(fresh)


def test_replicas_add_up_and_a_silent_one_is_told() -> None:
    load = model_load("smoke", [(figures(), 10.0), (figures(TEXT.replace("0.25", "0.75")), 5.0), None])
    assert (load.running, load.generation_tokens_per_s, load.cache_usage) == (6, 240.0, 0.75)
    assert (load.replicas, load.note) == (3, "1 of 3 replicas do not tell their figures")
    silent = model_load("smoke", [None])
    assert (silent.running, silent.note) == (None, "the engine does not tell its figures")


def test_engine_cores_of_one_server_add_up() -> None:
    second = "\n".join(line.replace('engine="0"', 'engine="1"') for line in TEXT.splitlines())
    both = figures(f"{TEXT}{second}\n")
    assert (both.running, both.prompt_tokens, both.cache_usage) == (6.0, 800.0, 0.25)
    assert both.first_token[0.1] == 100.0


def test_names_of_older_releases_are_understood() -> None:
    older = TEXT.replace("kv_cache_usage_perc", "gpu_cache_usage_perc").replace(
        "inter_token_latency", "time_per_output_token"
    )
    assert figures(older) == figures()


def test_models_in_turn_are_told_apart() -> None:
    text = TEXT + (
        'stackwright_model_loaded{model="smoke"} 1\nstackwright_model_loaded{model="other"} 0\n'
        'stackwright_model_requests_waiting{model="smoke"} 0\nstackwright_model_requests_waiting{model="other"} 4\n'
    )
    told = read_figures(text, metrics(), ["smoke", "other"])
    assert (told["smoke"].loaded, told["smoke"].running, told["smoke"].waiting) == (True, 3.0, 1.0)
    assert (told["other"].loaded, told["other"].running, told["other"].waiting) == (False, None, 4.0)
    load = model_load("other", [(told["other"], 3.0)])
    assert (load.waiting, load.note) == (4, "not loaded")


@pytest.mark.parametrize("line", ["vllm:num_requests_running", "vllm:num_requests_running{ 1", "x{} NaN", "\x00{}"])
def test_what_cannot_be_read_is_passed_over(line: str) -> None:
    assert read_rows(f"{line}\n", ("vllm:num_requests_running", "x")) == {}


def test_labels_are_read_with_their_escapes() -> None:
    rows = read_rows('x{a="one \\"two\\", three",b="}"} 1.5 1700000000\n', ("x",))
    assert rows == {"x": [({"a": 'one "two", three', "b": "}"}, 1.5)]}


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({}, 0.5, None),
        ({1.0: 0.0, math.inf: 0.0}, 0.5, None),
        ({1.0: 10.0, 2.0: 20.0, math.inf: 20.0}, 0.5, 1.0),
        ({1.0: 10.0, 2.0: 20.0, math.inf: 20.0}, 0.75, 1.5),
        # Beyond the highest bound: no more is known than that.
        ({1.0: 10.0, math.inf: 20.0}, 0.99, 1.0),
    ],
)
def test_quantiles_lie_between_bounds(buckets: dict[float, float], share: float, expected: float | None) -> None:
    assert quantile(buckets, share) == expected
