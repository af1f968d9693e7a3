"""Weights per rank against what logs print, and what headers, parallelism and kernels change."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.weights import allocated, parameter_bytes, stage_weights
from stackwright.models.shape import parse_shape
from stackwright.units import GIB, MIB

from tests.engines.vllm.memory.models import shape_of

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
FP8 = {"quant_method": "fp8", "ignored_layers": ["lm_head"]}
INT8 = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}}
H100 = GpuMemory(total_bytes=79 * GIB, compute_capability=(9, 0))
A100 = GpuMemory(total_bytes=79 * GIB, compute_capability=(8, 0))


def weights_gib(model: str, gpu: GpuMemory = A100, version: str = "0.16.0", tp: int = 1, **extra: Any) -> float:
    terms = stage_weights(
        shape_of(model, **extra), EngineSettings(version=version, tensor_parallel=tp), gpu, Release(version)
    )
    return terms[0].bytes / GIB


@pytest.mark.parametrize(
    ("model", "extra", "printed_gib", "tolerance"),
    [
        ("qwen3-0.6b", {}, 1.12, 0.005),
        ("qwen3-32b", {}, 61.03, 0.0005),
        # The table of rotations: 131,072 rows of 128 are 0.03 GiB beside 14.96 of weights.
        ("llama-3.1-8b", {}, 14.99, 0.0005),
        # Gemma's linear scaling makes a table of 1,048,576 rows, 0.5 GiB.
        ("gemma-3-4b", {}, 8.58, 0.002),
        # PyTorch's allocator keeps the ends of large blocks.
        ("gemma-3-1b", {}, 1.91, 0.003),
        ("llama-3.3-70b", {"quantization_config": FP8}, 67.70, 0.001),
        ("llama-3.3-70b", {"quantization_config": INT8}, 67.72, 0.001),
    ],
)
def test_weights_are_what_the_log_prints(
    model: str, extra: dict[str, Any], printed_gib: float, tolerance: float
) -> None:
    assert weights_gib(model, **extra) == pytest.approx(printed_gib, rel=tolerance)


def test_awq_is_split_among_two_ranks() -> None:
    assert weights_gib("llama-3.3-70b", tp=2, quantization_config=AWQ) == pytest.approx(18.55, rel=0.002)


@pytest.mark.parametrize(
    ("model", "gpu", "version", "printed_gib"),
    [
        ("gpt-oss-20b", H100, "0.11.0", 13.47),
        ("gpt-oss-20b", A100, "0.19.0", 13.72),
        ("gpt-oss-120b", H100, "0.11.0", 64.38),
        ("gpt-oss-120b", A100, "0.16.0", 65.97),
    ],
)
def test_mxfp4_kernels_pad_experts(model: str, gpu: GpuMemory, version: str, printed_gib: float) -> None:
    assert weights_gib(model, gpu, version) == pytest.approx(printed_gib, rel=0.004)


def test_padding_holds_with_more_ranks_too() -> None:
    alone, split = weights_gib("gpt-oss-120b", H100), weights_gib("gpt-oss-120b", H100, tp=2)
    assert alone / 2 < split < alone / 2 * 1.05


@pytest.mark.parametrize(
    ("size", "counted"),
    [
        (1, 512),
        (9 * MIB + 1, 9 * MIB + 512),
        (int(15.1875 * MIB), 16 * MIB),
        (int(30.375 * MIB), int(30.375 * MIB)),
        (16 * MIB, 16 * MIB),
    ],
)
def test_the_allocator_keeps_small_ends_of_large_blocks(size: int, counted: int) -> None:
    assert allocated(size) == counted


def headers() -> tuple[TensorHeader, ...]:
    """A checkpoint of two layers with the names that Llama's has, a drafting layer and an encoder."""
    rows = {
        "model.embed_tokens.weight": (512, 64),
        "lm_head.weight": (512, 64),
        "model.norm.weight": (64,),
        "visual.blocks.0.attn.qkv.weight": (96, 32),
        **{
            f"model.layers.{layer}.{name}": shape
            for layer in range(3)
            for name, shape in {
                "self_attn.q_proj.weight": (64, 64),
                "self_attn.k_proj.weight": (32, 64),
                "self_attn.v_proj.weight": (32, 64),
                "self_attn.o_proj.weight": (64, 64),
                "mlp.gate_proj.weight": (128, 64),
                "mlp.up_proj.weight": (128, 64),
                "mlp.down_proj.weight": (64, 128),
                "input_layernorm.weight": (64,),
                "post_attention_layernorm.weight": (64,),
            }.items()
        },
    }
    return tuple(TensorHeader(name=name, dtype="BF16", shape=shape) for name, shape in rows.items())


TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
}
LAYER = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3)
ENCODER, NORM = 2 * 96 * 32, 2 * 64


def exact(settings: EngineSettings) -> list[int]:
    """Return what the headers alone say: runtime's own additions are the same with and without them."""
    shape, release = parse_shape(TINY), Release("0.32.0")
    with_headers = stage_weights(shape, settings, A100, release, headers())
    without = stage_weights(shape, settings, A100, release)
    assert all(term.error >= 0 for term in with_headers)
    return [one.bytes - other.bytes for one, other in zip(with_headers, without, strict=True)]


def test_headers_leave_out_drafts_and_split_the_rest() -> None:
    """The formula counts the same tensors but for the last norm, and the encoder, which only the headers know of."""
    assert exact(EngineSettings()) == [ENCODER + NORM]
    assert exact(EngineSettings(tensor_parallel=2)) == [ENCODER // 2 + NORM]
    assert exact(EngineSettings(language_only=True)) == [NORM]


def test_headers_are_split_among_stages() -> None:
    assert exact(EngineSettings(pipeline_parallel=2)) == [ENCODER, NORM]


def test_single_precision_is_run_in_half() -> None:
    shape, release = parse_shape(TINY), Release("0.32.0")
    single = tuple(TensorHeader(name=header.name, dtype="F32", shape=header.shape) for header in headers())
    half, same = (stage_weights(shape, EngineSettings(), A100, release, each)[0] for each in (headers(), single))
    assert same.bytes == half.bytes


def test_drafting_layers_count_when_they_draft() -> None:
    shape, release = parse_shape({**TINY, "num_nextn_predict_layers": 1}), Release("0.32.0")
    idle, drafting = (
        stage_weights(shape, EngineSettings(speculative_tokens=tokens), A100, release, headers())[0]
        for tokens in (0, 1)
    )
    assert drafting.bytes - idle.bytes >= LAYER


def test_a_published_size_scales_the_formula() -> None:
    shape, release = shape_of("qwen3-8b"), Release("0.32.0")
    plain = stage_weights(shape, EngineSettings(), A100, release)[0].bytes
    larger = stage_weights(shape, EngineSettings(), A100, release, None, int(16_381_470_720 * 1.1))[0].bytes
    assert larger - plain == pytest.approx(1_638_147_072, rel=0.01)


def test_an_unknown_format_has_a_wide_margin() -> None:
    shape = shape_of("qwen3-8b", quantization_config={"quant_method": "something-new"})
    term = stage_weights(shape, EngineSettings(), A100, Release("0.32.0"))[0]
    assert term.error > term.bytes // 5


def test_experts_may_have_a_format_of_their_own() -> None:
    """DeepSeek V4: `expert_dtype` says that experts are MXFP4 among layers in FP8, so they weigh about half."""
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    eight = weights_gib("deepseek-r1", quantization_config=fp8, tp=8)
    four = weights_gib("deepseek-r1", quantization_config=fp8, expert_dtype="fp4", tp=8)
    dense = weights_gib("deepseek-r1", quantization_config=fp8, n_routed_experts=1, tp=8)
    assert (four - dense) / (eight - dense) == pytest.approx(17 / 32, rel=0.04)


def mixed(layers: dict[str, str], **extra: Any) -> dict[str, Any]:
    """Return a `quantization_config` of ModelOpt with the algorithm of each module."""
    named = {name: {"quant_algo": algorithm} for name, algorithm in layers.items()}
    return {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": named, **extra}


def of_all_layers(parts: dict[str, str], prefix: str = "model.language_model.layers") -> dict[str, str]:
    """Return the algorithm of each module for all layers of qwen3-8b."""
    return {f"{prefix}.{index}.{part}": algorithm for index in range(36) for part, algorithm in parts.items()}


ATTENTION = {f"self_attn.{part}": "FP8" for part in ("q_proj", "k_proj", "v_proj", "o_proj")}
MLP = {f"mlp.{part}": "NVFP4" for part in ("gate_proj", "up_proj", "down_proj")}


def test_each_module_of_a_mixed_checkpoint_has_its_own_format() -> None:
    plain, eight, four = (
        weights_gib("qwen3-8b", quantization_config=quantization)
        for quantization in (
            None,
            {"quant_method": "modelopt", "quant_algo": "FP8"},
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
        )
    )
    of_mlp = weights_gib("qwen3-8b", quantization_config=mixed(of_all_layers(MLP)))
    both = weights_gib("qwen3-8b", quantization_config=mixed(of_all_layers({**ATTENTION, **MLP})))
    assert four < both < eight
    # 36 layers of 3 × 4096 × 12288 numbers, of which NVFP4 leaves 9/32; attention has 2 × 4096 × (4096 + 1024).
    assert (plain - of_mlp) * GIB == pytest.approx(36 * 3 * 4096 * 12288 * 2 * 23 / 32, rel=0.005)
    assert (of_mlp - both) * GIB == pytest.approx(36 * 2 * 4096 * 5120, rel=0.01)


def test_a_mixed_checkpoint_may_name_the_part_around_modules_and_the_output() -> None:
    around = mixed(of_all_layers({"self_attn": "FP8", "mlp": "NVFP4"}, "model.layers"))
    each = mixed(of_all_layers({**ATTENTION, **MLP}))
    assert weights_gib("qwen3-8b", quantization_config=around) == weights_gib("qwen3-8b", quantization_config=each)
    output = mixed({"lm_head": "NVFP4", "mtp.layers.0.mlp": "NVFP4"})
    plain, less = (weights_gib("qwen3-8b", quantization_config=own) for own in (None, output))
    assert (plain - less) * GIB == pytest.approx(151936 * 4096 * 2 * 23 / 32, rel=0.01)


@pytest.mark.parametrize("layers", [{}, {"model.layers.0.mlp": "IQ4_XS"}])
def test_a_mixed_checkpoint_with_an_unknown_format_is_of_unknown_format(layers: dict[str, str]) -> None:
    assert shape_of("qwen3-8b", quantization_config=mixed(layers)).unknown == ("the quantization method",)


def test_fp8_of_modelopt_may_have_scales_of_blocks() -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}
    assert shape_of("qwen3-8b", quantization_config=quantization).quantization.group == 128


def published(shape: Shape, times: float) -> tuple[float, float]:
    """Return by what the weights grow where a size is published that is so many times the formula's, and the doubt."""
    release = Release("0.32.0")
    plain = stage_weights(shape, EngineSettings(), A100, release)[0]
    size = int(parameter_bytes(shape) * times)
    term = stage_weights(shape, EngineSettings(), A100, release, None, size)[0]
    return 1 + (term.bytes - plain.bytes) / parameter_bytes(shape), term.error / term.bytes


@pytest.mark.parametrize("times", [0.2, 0.4, 2.5, 4.0])
def test_a_published_size_far_from_the_formula_wins_and_the_difference_is_doubt(times: float) -> None:
    grown, doubt = published(shape_of("qwen3-8b"), times)
    assert grown == pytest.approx(times, rel=0.01)
    assert doubt * grown == pytest.approx(abs(times - 1), rel=0.02)


@pytest.mark.parametrize(
    ("times", "grown", "doubt"),
    [
        (1.0, 1.0, 0.012),  # they may not be in it
        (1.02, 1.0, 0.02),  # they may be in it, as far as it is larger
        (1.5, 1.5 - 0.0276, 0.0276),  # they are in it, or more was left as it was
        (0.7, 0.7, 0.012),  # nothing can be larger than all
    ],
)
def test_a_published_size_wins_beside_drafting_layers(times: float, grown: float, doubt: float) -> None:
    shape = replace(shape_of("qwen3-8b"), draft_layers=1)
    scale, share = published(shape, times)
    assert scale == pytest.approx(grown, abs=0.005)
    assert share * scale == pytest.approx(doubt, abs=0.002)


def test_without_the_encoder_the_difference_to_a_published_size_is_doubt() -> None:
    shape, release, settings = shape_of("gemma-3-4b"), Release("0.32.0"), EngineSettings(language_only=True)
    size = parameter_bytes(shape)
    plain, larger = (stage_weights(shape, settings, A100, release, None, int(size * each))[0] for each in (1, 1.3))
    assert larger.bytes == plain.bytes
    assert larger.error == pytest.approx(plain.bytes * 0.3, rel=0.02)


@pytest.mark.parametrize("key", ["ple_layer_ids", "engram_layer_ids"])
def test_tables_of_the_processor_are_no_weights_of_a_gpu(key: str) -> None:
    plain, with_tables = shape_of("qwen3-8b"), shape_of("qwen3-8b", **{key: [2]})
    assert not shape_of("qwen3-8b", **{key: []}).host_tables
    assert with_tables.unknown == ("the size of the tables that the engine keeps in the processor's memory",)
    grown, doubt = published(with_tables, 1.8)
    assert grown == pytest.approx(1.0)
    assert doubt == pytest.approx(0.8, rel=0.02)
    assert published(plain, 1.8)[0] == pytest.approx(1.8, rel=0.01)
    shape, release = parse_shape({**TINY, key: [2]}), Release("0.32.0")
    tables = (
        TensorHeader(
            name="model.layers.1.ple.ple_embedding.ngram_embedding.shard_0.weight", dtype="BF16", shape=(64, 8)
        ),
        TensorHeader(name="model.layers.1.engram.embed_tokens.weight", dtype="BF16", shape=(64, 8)),
    )
    own, more = (
        stage_weights(shape, EngineSettings(), A100, release, each)[0] for each in (headers(), (*headers(), *tables))
    )
    assert own.bytes == more.bytes
