"""Which release a rule came with: the boundaries read in the releases' own sources, one row each."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.engines.vllm.memory.defaults import complete
from stackwright.engines.vllm.memory.graphs import capture_sizes, graphs, overhead
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.runner import second_runner
from stackwright.engines.vllm.memory.weights import stage_weights
from stackwright.units import GIB

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
    shape, batch = shape_of("qwen3-8b"), complete(shape_of("qwen3-8b"), EngineSettings(), L40S, Release("0.32.0"))
    few = replace(batch, max_num_seqs=256)
    pieces = len(capture_sizes(few, L40S, Release("0.10.2")))
    old = graphs(shape, few, L40S, Release("0.10.2")).bytes
    new = graphs(shape, few, L40S, Release("0.32.0")).bytes
    # 51 pieces and 35 whole steps, of which each takes as much as one of the 67 pieces did.
    assert new * pieces == pytest.approx(old * (51 + 35))


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
