"""Which release a rule came with: the boundaries read in the releases' own sources, one row each."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.engines.vllm.memory.defaults import complete
from stackwright.engines.vllm.memory.graphs import (
    attention_buffer,
    capture_sizes,
    counts_graphs,
    graphs,
    overhead,
    trial_blocks,
)
from stackwright.engines.vllm.memory.releases import Release, release_of
from stackwright.engines.vllm.memory.runner import second_runner
from stackwright.engines.vllm.memory.weights import stage_weights
from stackwright.units import GIB, MIB

from tests.engines.vllm.memory.models import shape_of

H100 = GpuMemory(total_bytes=int(79.18 * GIB), name="NVIDIA H100 80GB HBM3", compute_capability=(9, 0))
B200 = GpuMemory(total_bytes=int(178.36 * GIB), name="NVIDIA B200", compute_capability=(10, 0))
L40S = GpuMemory(total_bytes=int(44.42 * GIB), name="NVIDIA L40S", compute_capability=(8, 9))


@pytest.mark.parametrize(
    ("rule", "before", "since"),
    [
        ("counts_graphs", "0.19.1", "0.20.0"),
        ("tokens_by_concurrency", "0.20.0", "0.20.2"),
        ("overlaps_steps", "0.25.1", "0.26.0"),
        ("hybrid_prefix_caching", "0.27.1", "0.28.0"),
        ("huge_gpus_apart", "0.27.1", "0.28.0"),
        ("reserves_null_block", "0.28.0", "0.29.0"),
        ("takes_whole_items", "0.21.0", "0.22.0"),
        ("counts_consumed", "0.26.0", "0.27.0"),
        ("sparser_graphs", "0.11.0", "0.12.0"),
        ("whole_graphs", "0.10.2", "0.11.0"),
        ("narrow_blackwell_experts", "0.26.0", "0.27.1"),
        ("triton_on_hopper", "0.10.2", "0.11.0"),
        ("captures_by_requests", "0.9.2", "0.10.0"),
        ("caps_steps", "0.11.0", "0.11.1"),
        ("compares_kernels", "0.11.0", "0.11.1"),
        ("profiles_graphs", "0.17.1", "0.18.0"),
        ("profiles_graphs_by_requests", "0.25.1", "0.26.0"),
        ("second_runner_profiles_encoder", "0.26.0", "0.27.0"),
        ("second_runner_profiles_graphs", "0.28.0", "0.29.0"),
        ("second_runner_samples_fully", "0.32.0", "0.33.0"),
    ],
)
def test_a_rule_holds_from_the_release_on_whose_source_has_it(rule: str, before: str, since: str) -> None:
    assert not getattr(Release(before), rule)
    assert getattr(Release(since), rule)


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("qwen3-0.6b", "0.22.1"),
        ("llama-3.1-8b", "0.23.0"),
        ("qwen2.5-7b-instruct", "0.25.1"),
        ("qwen3.6-27b", "0.29.0"),
        ("qwen3-30b", "0.29.0"),
    ],
)
def test_the_second_runner_took_over_model_by_model(model: str, first: str) -> None:
    releases = ("0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.28.0", "0.29.0", "0.32.0")
    used = [version for version in releases if second_runner(shape_of(model), Release(version))]
    assert used == list(releases[releases.index(first) :])


def test_quantized_dense_models_came_to_the_second_runner_two_releases_later() -> None:
    shape = shape_of("llama-3.1-8b", quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128})
    assert not second_runner(shape, Release("0.23.0"))
    assert second_runner(shape, Release("0.24.0"))


@pytest.mark.parametrize(("version", "tokens"), [("0.27.1", 8192), ("0.28.0", 16384)])
def test_a_gpu_of_160_gib_had_an_h100s_defaults(version: str, tokens: int) -> None:
    batch = complete(shape_of("llama-3.1-8b"), EngineSettings(), B200, Release(version))
    assert (batch.max_num_batched_tokens, batch.max_num_seqs) == (tokens, 1024)


@pytest.mark.parametrize(("version", "sizes"), [("0.11.0", 67), ("0.12.0", 51), ("0.32.0", 51)])
def test_as_many_graphs_as_the_logs_count(version: str, sizes: int) -> None:
    """`PIECEWISE` 67/67 in logs of 0.9.2 to 0.11.0, 51/51 in later ones; `FULL` 35 where 256 requests run at once."""
    release, shape = Release(version), shape_of("qwen3-8b")
    batch = complete(shape, EngineSettings(), L40S, release)
    assert len(capture_sizes(batch, L40S, release)) == sizes


def test_whole_steps_add_graphs() -> None:
    shape, batch = shape_of("qwen3-8b"), complete(shape_of("qwen3-8b"), EngineSettings(), L40S, Release("0.24.0"))
    few = replace(batch, max_num_seqs=256)
    pieces = len(capture_sizes(few, L40S, Release("0.10.2")))
    old = graphs(shape, few, L40S, Release("0.10.2")).bytes
    new = graphs(shape, few, L40S, Release("0.21.0")).bytes
    # 51 pieces and 35 whole steps, of which each takes as much as one of the 67 pieces did.
    assert new * pieces == pytest.approx(old * (51 + 35))


@pytest.mark.parametrize(("version", "sizes"), [("0.8.5", 67), ("0.9.2", 67), ("0.10.0", 7), ("0.33.0", 7)])
def test_old_releases_capture_graphs_up_to_512_whatever_the_requests(version: str, sizes: int) -> None:
    release = Release(version)
    batch = complete(shape_of("qwen3-8b"), EngineSettings(max_num_seqs=16), L40S, release)
    assert len(capture_sizes(batch, L40S, release)) == sizes


@pytest.mark.parametrize(("version", "tokens"), [("0.9.2", 2048), ("0.11.0", 2048), ("0.11.1", 1000)])
def test_a_step_was_not_capped_by_what_all_requests_may_have(version: str, tokens: int) -> None:
    settings = EngineSettings(max_num_seqs=1, max_model_len=1000)
    assert complete(shape_of("qwen3-8b"), settings, L40S, Release(version)).max_num_batched_tokens == tokens


@pytest.mark.parametrize(
    ("capability", "cache", "version", "first"),
    [
        ((7, 5), "auto", "0.9.2", True),
        ((7, 5), "auto", "0.10.2", False),
        ((8, 9), "auto", "0.9.2", False),
        ((8, 9), "fp8", "0.9.2", True),
        ((9, 0), "fp8", "0.9.2", False),
    ],
)
def test_old_gpus_and_cache_formats_fall_back_to_the_first_engine(
    capability: tuple[int, int], cache: str, version: str, first: bool
) -> None:
    gpu = replace(L40S, compute_capability=capability)
    assert release_of(EngineSettings(version=version, kv_cache_dtype=cache), gpu).first_engine is first


@pytest.mark.parametrize(
    ("model", "version", "counted"),
    [
        ("qwen2.5-7b-instruct", "0.24.0", True),  # first runner
        ("qwen2.5-7b-instruct", "0.25.1", False),  # second runner, whose estimate is 0
        ("qwen2.5-7b-instruct", "0.28.0", False),
        ("qwen2.5-7b-instruct", "0.29.0", True),
        ("qwen3.6-27b", "0.28.0", True),  # still the first runner
        ("qwen3.6-27b", "0.19.1", False),
    ],
)
def test_each_runner_learnt_to_count_its_graphs_in_another_release(model: str, version: str, counted: bool) -> None:
    assert counts_graphs(shape_of(model), Release(version)) is counted


@pytest.mark.parametrize(("version", "blocks"), [("0.17.1", 0), ("0.19.1", 512), ("0.26.0", 256), ("0.33.0", 256)])
def test_a_hybrids_trial_cache_follows_the_release(version: str, blocks: int) -> None:
    shape, release = shape_of("qwen3.6-27b"), Release(version)
    assert trial_blocks(shape, complete(shape, EngineSettings(), L40S, release), L40S, release) == blocks


@pytest.mark.parametrize(
    ("gpu", "cache", "mib"), [(L40S, "auto", 0), (L40S, "fp8", 394), (H100, "fp8", 0), (B200, "auto", 394)]
)
def test_flashinfer_brings_its_buffer(gpu: GpuMemory, cache: str, mib: int) -> None:
    shape, release = shape_of("llama-3.1-8b"), Release("0.24.0")
    batch = complete(shape, EngineSettings(kv_cache_dtype=cache), gpu, release)
    assert attention_buffer(shape, batch, gpu, release) == mib * MIB


@pytest.mark.parametrize(
    ("gpu", "tensor_parallel", "low", "high"), [(L40S, 2, 0.2, 0.55), (H100, 2, 0.55, 1.65), (H100, 1, 0.01, 0.16)]
)
def test_what_lies_outside_pytorch_is_as_much_as_logs_print(
    gpu: GpuMemory, tensor_parallel: int, low: float, high: float
) -> None:
    outside = overhead(EngineSettings(tensor_parallel=tensor_parallel), gpu, Release("0.10.2")).bytes / GIB
    assert low <= outside <= high


@pytest.mark.parametrize(
    ("gpu", "version", "tensor_parallel", "printed_gib"),
    [
        (H100, "0.10.1", 1, 65.9651),  # vllm-project/vllm#23278: Marlin
        (H100, "0.11.0", 1, 64.38),  # llm-d-benchmark: Triton
        # By hand, per rank: 36 layers × 128 experts × (2 × 512 × 3072 + 3072 × 512) × 17/32 bytes are 10.76 GiB,
        # attention, embedding, output matrix, biases and rotations 0.62 GiB; with 384 inner numbers 8.07 and 0.60 GiB.
        (B200, "0.26.0", 8, 11.38),
        (B200, "0.27.1", 8, 8.67),
    ],
)
def test_experts_in_mxfp4_are_rounded_as_the_kernel_of_the_release_wants(
    gpu: GpuMemory, version: str, tensor_parallel: int, printed_gib: float
) -> None:
    settings = EngineSettings(version=version, tensor_parallel=tensor_parallel)
    shape = shape_of("gpt-oss-120b", quantization_config={"quant_method": "mxfp4"})
    weights = stage_weights(shape, settings, gpu, Release(version))
    assert weights[0].bytes / GIB == pytest.approx(printed_gib, rel=0.005)
