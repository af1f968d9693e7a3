"""What a `config.json` means: mixers per layer, sizes, number formats."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.shape import StateKind, WeightKind
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.engines.vllm.memory.weights import parameter_bytes
from stackwright.models.shape import parse_shape
from stackwright.units import GIB

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def mixers(config: dict[str, Any]) -> dict[str, int]:
    return dict(Counter(layer.mixer.value for layer in parse_shape(config).layers))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, {"full": 32}),
        ({"sliding_window": 4096}, {"sliding": 32}),
        ({"sliding_window": 4096, "use_sliding_window": False}, {"full": 32}),
        ({"sliding_window": 262144}, {"full": 32}),
        ({"model_type": "gemma2", "sliding_window": 4096}, {"full": 16, "sliding": 16}),
        ({"model_type": "gemma3_text", "sliding_window": 512, "num_hidden_layers": 26}, {"full": 4, "sliding": 22}),
        ({"model_type": "gpt_oss", "sliding_window": 128}, {"full": 16, "sliding": 16}),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, {"full": 8, "chunked": 24}),
        ({"full_attention_interval": 4, "linear_num_value_heads": 8}, {"full": 8, "state": 24}),
        ({"attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16}, {"full": 4, "state": 28}),
        ({"attn_layer_indices": [9, 18, 27], "mamba_d_state": 128}, {"full": 3, "state": 29}),
        ({"num_hidden_layers": 4, "hybrid_override_pattern": "ME*-"}, {"state": 1, "none": 2, "full": 1}),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, {"latent": 32}),
        ({"layer_types": ["full_attention", "linear_attention"] * 16}, {"full": 16, "state": 16}),
        ({"num_kv_shared_layers": 20}, {"full": 12, "shared": 20}),
        ({"model_type": "xlm-roberta"}, {"encoder": 32}),
    ],
)
def test_every_way_to_say_the_layers(extra: dict[str, Any], expected: dict[str, int]) -> None:
    assert mixers({**LLAMA, **extra}) == expected


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA, 8_030_261_248),
        # Parameters as the publishers' safetensors indexes count them.
        (
            {**LLAMA, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4}
            | {"num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144, "tie_word_embeddings": True},
            999_883_000,
        ),
    ],
)
def test_parameters_are_the_published_ones(config: dict[str, Any], parameters: int) -> None:
    assert parameter_bytes(parse_shape(config)) / 2 == pytest.approx(parameters, rel=1e-4)


def test_multimodal_configurations_are_read_by_their_text_part() -> None:
    shape = parse_shape({"architectures": ["A"], "text_config": LLAMA, "vision_config": {"depth": 2, "hidden_size": 8}})
    assert (shape.architecture, len(shape.layers), shape.vision is not None) == ("A", 32, True)


@pytest.mark.parametrize(
    ("quantization", "kind", "group"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, WeightKind.AWQ, 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, WeightKind.GPTQ, 0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, WeightKind.FP8, 128),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, WeightKind.NVFP4, 16),
        ({"quant_method": "mxfp4"}, WeightKind.MXFP4, 32),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, WeightKind.BITSANDBYTES4, 64),
        ({"quant_method": "something-new"}, WeightKind.UNKNOWN, 0),
    ],
)
def test_every_quantization_of_the_facts(quantization: dict[str, Any], kind: WeightKind, group: int) -> None:
    found = parse_shape({**LLAMA, "quantization_config": quantization}).quantization
    assert (found.kind, found.group) == (kind, group)


def test_an_unknown_quantization_is_named_as_unknown() -> None:
    shape = parse_shape({**LLAMA, "quantization_config": {"quant_method": "something-new"}})
    assert shape.unknown == ("the quantization method",)


def test_scaling_lengthens_the_table_of_rotations_and_the_longest_request() -> None:
    linear = parse_shape({**LLAMA, "max_position_embeddings": 16384, "rope_scaling": {"type": "linear", "factor": 4.0}})
    yarn = parse_shape(
        {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}}
    )
    assert (linear.max_positions, linear.rope_rows) == (65536, ((65536, 128),))
    assert (yarn.max_positions, yarn.rope_rows) == (131072, ((131072, 128),))


def test_gated_delta_state_is_read_with_its_own_precision() -> None:
    state = parse_shape(
        {**LLAMA, "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 48}
        | {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32"}
    ).state
    assert state is not None
    assert (state.kind, state.value_heads, state.state_bytes) == (StateKind.GATED_DELTA, 48, 4)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200_000),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(-1, 5), st.text(max_size=4)), max_size=4),
)
KEYS = (
    *LLAMA,
    *"sliding_window layer_types kv_lora_rank num_experts head_dim linear_num_value_heads mamba_d_state".split(),
    *"full_attention_interval rope_scaling text_config vision_config quantization_config".split(),
    *"hybrid_override_pattern moe_layer_freq".split(),
)
NOISE = st.dictionaries(st.sampled_from(KEYS), VALUES)


@settings(max_examples=300, deadline=None)
@given(noise=NOISE, tensor_parallel=st.integers(1, 16), pipeline_parallel=st.integers(1, 8))
def test_no_configuration_makes_the_planner_stumble(
    noise: dict[str, Any], tensor_parallel: int, pipeline_parallel: int
) -> None:
    asked = EngineSettings(version="0.32.0", tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel)
    answer = forecast(parse_shape({**LLAMA, **noise}), asked, GpuMemory(total_bytes=24 * GIB))
    assert answer.memory.budget_bytes <= 24 * GIB
    assert answer.verdict.value == answer.memory.verdict
