"""The cache's layout against what real logs print, to the block and to the token.

Each row is an observed start-up of benchmarks/cases/vllm_memory_cases.yaml; the pool's size is the log's, so only the
layout is tested.
"""

from __future__ import annotations

import pytest
from stackwright.catalog.load import load_llms
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.shape import Mixer
from stackwright.engines.memory.stages import stage_layers
from stackwright.engines.vllm.memory.cpu import CpuMemory, forecast_on_cpu
from stackwright.engines.vllm.memory.defaults import complete
from stackwright.engines.vllm.memory.kv_cache import format_of, lay_out
from stackwright.engines.vllm.memory.releases import Release
from stackwright.models.shape import parse_shape
from stackwright.units import GIB

from tests.engines.vllm.memory.models import config_of, shape_of

ROUNDING_GIB = 0.005


@pytest.mark.parametrize(
    ("model", "version", "settings", "batched", "length", "pool_gib", "tokens"),
    [
        ("qwen2.5-14b-instruct", "0.21.0", {}, 2048, 4096, 41.43, 226_240),
        ("llama-3.3-70b", "0.16.0", {"tensor_parallel": 2}, 2048, 8192, 20.16, 132_128),
        ("llama-3.3-70b", "0.16.0", {"kv_cache_dtype": "fp8"}, 8192, 32000, 5.11, 33_504),
        ("kimi-k2-thinking", "0.12.0", {"tensor_parallel": 8}, 8192, 262144, 46.8, 715_072),
        ("glm-5.1-fp8", "0.19.1", {"tensor_parallel": 8}, 8192, 202752, 32.11, 344_192),
        ("gemma-3-1b-it", "0.10.0", {}, 2048, 32768, 1.4, 52_608),
        ("gemma-3-27b-it", "0.11.0", {}, 8192, 4096, 109.86, 205_696),
        ("qwen3.6-27b", "0.20.0", {"kv_cache_dtype": "fp8"}, 2048, 32768, 6.67, 53_312),
        ("qwen3.8-27b", "0.32.0", {"kv_cache_dtype": "fp8", "tensor_parallel": 2}, 8192, 131072, 4.99, 302_921),
        ("qwen3.6-35b-a3b", "0.24.0", {"kv_cache_dtype": "fp8", "prefix_caching": True}, 8192, 131072, 5.98, 567_978),
        ("qwen3-next-80b", "0.10.2", {"tensor_parallel": 2}, 8192, 262144, 44.59, 973_760),
        ("qwen3-next-80b", "0.27.1", {"prefix_caching": True}, 8192, 65536, 5.85, 242_534),
        (
            "qwen3.6-27b",
            "0.32.0",
            {"kv_cache_dtype": "fp8", "tensor_parallel": 2, "speculative_tokens": 3},
            8192,
            262144,
            11.05,
            623_873,
        ),
    ],
)
def test_a_pool_holds_the_tokens_that_the_log_prints(
    model: str, version: str, settings: dict[str, int], batched: int, length: int, pool_gib: float, tokens: int
) -> None:
    release = Release(version)
    layout = lay_out(shape_of(model), EngineSettings(version=version, **settings), release, batched)  # type: ignore[arg-type]
    printed = [
        layout.logged_tokens(layout.pool_blocks((int(gib * GIB),)), length, release)
        for gib in (pool_gib - ROUNDING_GIB, pool_gib + ROUNDING_GIB)
    ]
    # The log rounds the pool to 0.01 GiB, so the figure lies between those of the two ends.
    assert printed[0] <= tokens <= printed[1]


@pytest.mark.parametrize(
    ("model", "version", "gpu_gib", "length", "pool_gib", "tokens"),
    [
        # benchmarks/cases/found.yaml. One step's tokens until 0.25, two steps' from 0.26 on; a large GPU takes 16,384
        # from
        # 0.28 on; and the model that must not cut a video takes 2,496 where 2,048 are usual.
        ("gemma-4-e4b", "0.25.1", 44.42, 16384, 22.01, 1_033_831),
        ("gemma-4-26b-a4b", "0.25.1", 44.42, 32768, 12.75, 321_600),
        ("gemma-4-e2b", "0.28.0", 191.69, 32768, 155.04, 9_026_017),
    ],
)
def test_windows_keep_what_the_release_has_in_flight(
    model: str, version: str, gpu_gib: float, length: int, pool_gib: float, tokens: int
) -> None:
    shape = parse_shape(next(row.config for row in load_llms() if row.name == model))
    settings, release = EngineSettings(version=version, max_model_len=length), Release(version)
    batch = complete(shape, settings, GpuMemory(total_bytes=int(gpu_gib * GIB)), release)
    layout = lay_out(shape, settings, release, batch.max_num_batched_tokens)
    printed = [
        layout.logged_tokens(layout.pool_blocks((int(gib * GIB),)), length, release)
        for gib in (pool_gib - ROUNDING_GIB, pool_gib + ROUNDING_GIB)
    ]
    assert printed[0] <= tokens <= printed[1]


@pytest.mark.parametrize(
    ("version", "asked", "states"),
    [("0.27.1", None, 1), ("0.27.1", True, 2), ("0.28.0", None, 2), ("0.28.0", False, 1)],
)
def test_a_request_holds_a_second_state_only_where_prefixes_are_cached(
    version: str, asked: bool | None, states: int
) -> None:
    settings = EngineSettings(version=version, prefix_caching=asked)
    assert lay_out(shape_of("qwen3-next-80b"), settings, Release(version), 8192).states_per_request == states


@pytest.mark.parametrize(
    ("settings", "block", "length", "concurrency"),
    [
        ({"speculative_tokens": 3, "kv_cache_dtype": "fp8"}, 1600, 262144, 6.68),
        ({"kv_cache_dtype": "fp8"}, 1568, 32768, None),
    ],
)
def test_attention_blocks_grow_until_a_page_holds_a_state(
    settings: dict[str, str], block: int, length: int, concurrency: float | None
) -> None:
    layout = lay_out(shape_of("qwen3.8-27b"), EngineSettings(version="0.28.0", **settings), Release("0.28.0"), 8192)  # type: ignore[arg-type]
    assert {group.spec.block_tokens for group in layout.groups} == {block}
    if concurrency is not None:  # 1,750,067 tokens are concurrency × length, whatever the pool
        assert int(1_750_067 / length * 100) / 100 == pytest.approx(concurrency, abs=0.01)


def test_nvfp4_blocks_are_longer_since_a_token_is_smaller() -> None:
    asked = EngineSettings(version="0.28.1", kv_cache_dtype="nvfp4", speculative_tokens=3)
    layout = lay_out(shape_of("qwen3.8-27b"), asked, Release("0.28.1"), 8192)
    assert layout.groups[0].spec.block_tokens == 2848  # vllm-project/vllm#46329


@pytest.mark.parametrize(
    ("tensor_parallel", "token_bytes"),
    [(1, 131072), (4, 32768), (8, 16384), (16, 16384), (32, 16384)],
)
def test_key_value_heads_are_copied_when_there_are_more_ranks(tensor_parallel: int, token_bytes: int) -> None:
    layout = lay_out(shape_of("llama-3.1-8b"), EngineSettings(tensor_parallel=tensor_parallel), Release("0.32.0"), 8192)
    assert layout.block_bytes == (16 * token_bytes,)


@pytest.mark.parametrize("tensor_parallel", [1, 8])
def test_a_latent_cache_is_whole_on_every_rank(tensor_parallel: int) -> None:
    layout = lay_out(shape_of("deepseek-v3"), EngineSettings(tensor_parallel=tensor_parallel), Release("0.32.0"), 8192)
    assert layout.block_bytes == (16 * 61 * 576 * 2,)


def test_decode_context_parallelism_divides_a_latent_cache() -> None:
    release, shape = Release("0.12.0"), shape_of("kimi-k2")
    whole = lay_out(shape, EngineSettings(tensor_parallel=8), release, 8192)
    shared = lay_out(shape, EngineSettings(tensor_parallel=8, decode_context_parallel=8), release, 8192)
    pool = (int(46.8 * GIB),)
    # 715,072 → 5,721,088 tokens in vLLM's own recipe
    assert shared.pool_blocks(pool) == pytest.approx(8 * whole.pool_blocks(pool), rel=1e-4)


def test_before_mla_deepseek_kept_whole_heads() -> None:
    old = lay_out(shape_of("deepseek-v2-lite"), EngineSettings(version="0.6.3"), Release("0.6.3"), 2048)
    assert old.block_bytes == (16 * 27 * 16 * 2 * 192 * 2,)


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"),
    [(27, 2, [14, 13]), (61, 4, [15, 15, 16, 15]), (62, 4, [15, 16, 16, 15]), (80, 8, [10] * 8), (5, 4, [1, 1, 2, 1])],
)
def test_layers_are_split_as_the_engine_splits_them(layers: int, stages: int, sizes: list[int]) -> None:
    assert [len(part) for part in stage_layers(layers, stages)] == sizes


def test_the_smallest_stage_decides() -> None:
    layout = lay_out(shape_of("deepseek-v2-lite"), EngineSettings(pipeline_parallel=2), Release("0.32.0"), 2048)
    assert layout.block_bytes == (14 * 16 * 1152, 13 * 16 * 1152)
    assert layout.pool_blocks((GIB, GIB)) == GIB // (14 * 16 * 1152)


def test_windows_keep_what_is_in_flight() -> None:
    layout = lay_out(shape_of("gpt-oss-20b"), EngineSettings(), Release("0.32.0"), 2048)
    kinds = {group.spec.mixer for group in layout.groups}
    assert kinds == {Mixer.FULL, Mixer.SLIDING}
    # full: 131,072 / 16; sliding: (127 + 2 × 2,048) / 16, rounded up, and one more
    assert layout.blocks_for(131_072) == 8192 + 264 + 1


def test_the_longest_length_is_the_last_that_fits() -> None:
    layout = lay_out(shape_of("qwen3.6-27b"), EngineSettings(), Release("0.32.0"), 2048)
    longest = layout.longest(40, 262_144)
    assert layout.blocks_for(longest) + 1 <= 40 < layout.blocks_for(longest + 1) + 1


def test_a_pool_too_small_for_one_token_serves_none() -> None:
    assert lay_out(shape_of("qwen3-8b"), EngineSettings(), Release("0.32.0"), 2048).longest(0, 40960) == 0


TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 32768,
}
SLIDING, FULL = "sliding_attention", "full_attention"
WINDOWED = TINY | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 13,
    "head_dim": 32,
    "sliding_window": 512,
    "layer_types": [*[SLIDING] * 5, FULL, *[SLIDING] * 5, FULL, SLIDING],
}
LATENT = TINY | {
    "model_type": "deepseek_v2",
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
RECURRENT = TINY | {
    "model_type": "qwen3_next",
    "num_hidden_layers": 8,
    "head_dim": 64,
    "full_attention_interval": 4,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}


@pytest.mark.parametrize(
    ("config", "tensor_parallel", "length", "tokens", "concurrency"),
    [
        (TINY | {"model_type": "qwen2", "num_hidden_layers": 2}, 1, 2048, 2_097_152, "1024.00"),
        (TINY | {"model_type": "qwen2", "num_hidden_layers": 2}, 2, 2048, 4_194_304, "2048.00"),
        (WINDOWED, 1, 8192, 706_409, "86.23"),
        (LATENT, 1, 8192, 310_688, "37.93"),
        (RECURRENT, 1, 8192, 798_720, "97.50"),
    ],
    ids=["plain", "plain on two ranks", "windowed", "latent", "recurrent"],
)
def test_the_cpu_engine_prints_the_same(
    config: dict[str, object], tensor_parallel: int, length: int, tokens: int, concurrency: str
) -> None:
    """vLLM 0.32.0 on a CPU, started with these configurations, 1 GiB per rank and steps of 2,048 tokens, printed
    this.
    """
    asked = EngineSettings(
        version="0.32.0", tensor_parallel=tensor_parallel, max_model_len=length, max_num_batched_tokens=2048
    )
    memory = forecast_on_cpu(parse_shape(config), asked, GIB, CpuMemory(total_bytes=64 * GIB)).memory
    assert (memory.kv_cache_tokens, f"{memory.max_concurrency:.2f}") == (tokens, concurrency)


def test_an_encoder_keeps_nothing() -> None:
    layout = lay_out(
        parse_shape({**config_of("qwen3-0.6b"), "model_type": "bert"}), EngineSettings(), Release(None), 2048
    )
    assert layout.groups == ()


# Falcon-H1 1.5B's config.json, in part: attention and Mamba 2 side by side in every layer.
SIDE_BY_SIDE = {
    "architectures": ["FalconH1ForCausalLM"],
    "model_type": "falcon_h1",
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_d_ssm": 3072,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "mamba_d_state": 256,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "vocab_size": 65537,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def test_two_mixers_in_a_layer_keep_both_their_caches() -> None:
    """By hand: a state of 48 × 64 × 256 numbers and a window of 3 × 3,584, in blocks of so many tokens of 1 KiB."""
    shape = parse_shape(SIDE_BY_SIDE)
    layout = lay_out(shape, EngineSettings(prefix_caching=False), Release("0.26.0"), 2048)
    state = (48 * 64 * 256 + 3 * (3072 + 2 * 256)) * 2
    block = 16 * -(-state // (16 * 1024))
    assert {group.spec.mixer for group in layout.groups} == {Mixer.FULL, Mixer.STATE}
    assert layout.block_bytes == (24 * block * 1024,)
    assert layout.blocks_for(block * 3) == 3 + 1
    assert (shape.has_state, shape.unknown) == (True, ())


def test_shared_attention_blocks_are_not_known() -> None:
    """Zamba 2: the cache is modelled, the weights of the blocks that layers share are not."""
    words = ["mamba", "hybrid"] * 12
    shape = parse_shape({**SIDE_BY_SIDE, "model_type": "zamba2", "layers_block_type": words, "num_mem_blocks": 2})
    assert [layer.state for layer in shape.layers[:2]] == [False, True]
    assert [layer.mixer for layer in shape.layers[:2]] == [Mixer.STATE, Mixer.FULL]
    assert shape.unknown == ("the weights of attention blocks that layers share",)


@pytest.mark.parametrize(
    ("capability", "version", "cache", "token_bytes"),
    [
        ((9, 0), "0.33.0", "auto", 576 * 2),
        ((9, 0), "0.33.0", "fp8", 656),
        ((10, 0), "0.33.0", "fp8", 576),
        ((10, 0), "0.17.1", "fp8", 656),
        ((12, 0), "0.33.0", "auto", 656),
    ],
)
def test_sparse_attentions_backend_decides_on_the_format(
    capability: tuple[int, int], version: str, cache: str, token_bytes: int
) -> None:
    shape, release = shape_of("glm-5.1-fp8"), Release(version)
    gpu = GpuMemory(total_bytes=80 * GIB, compute_capability=capability)
    settings = format_of(shape, EngineSettings(kv_cache_dtype=cache), gpu, release)
    layout = lay_out(shape, settings, release, 8192)
    assert layout.block_bytes == (len(shape.layers) * 64 * (token_bytes + 132),)


@pytest.mark.parametrize(
    ("keys", "indexers"),
    [
        ({}, 8),
        ({"index_topk_freq": 4}, 3),  # layers 0, 1 and 5: the first that count, then one in four
        ({"index_topk_pattern": "FSSSFSSS"}, 2),
        ({"indexer_types": ["full", "shared"] * 4}, 4),
    ],
)
def test_only_layers_with_an_indexer_keep_its_cache(keys: dict[str, object], indexers: int) -> None:
    shape = shape_of("glm-5.1-fp8", num_hidden_layers=8, **keys)
    layout = lay_out(shape, EngineSettings(), Release("0.33.0"), 8192)
    assert layout.block_bytes == (64 * (8 * 576 * 2 + indexers * 132),)
