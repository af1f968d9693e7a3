"""The cache of vLLM's CPU engine: a size that is given, not what remains. Pure.

vLLM 0.32.0 platforms/cpu.py, check_and_update_config: `VLLM_CPU_KVCACHE_SPACE` GiB for each rank, blocks of 128 tokens,
of 16 for latent attention, one step at a time, recurrent states in single precision on processors with AVX-512 BF16;
v1/worker/cpu_worker.py, determine_available_memory takes the size as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from generator.domain.forecast import EngineSettings
from generator.domain.shape import Shape
from generator.planning.memory.kv_cache import lay_out
from generator.planning.memory.releases import Release

_BLOCK_TOKENS, _LATENT_BLOCK_TOKENS = 128, 16
# get_batch_defaults of 0.32.0 engine/arg_utils.py for a CPU: 2,048 tokens per rank when serving.
_BATCHED_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class CpuCache:
    """What the engine prints: blocks, tokens, and how many requests of the longest length fit at once."""

    blocks: int
    tokens: int
    max_concurrency: float


def cpu_cache(shape: Shape, settings: EngineSettings, space_bytes: int, max_model_len: int) -> CpuCache:
    """Return the cache that `space_bytes` per rank make for requests of `max_model_len` tokens."""
    release = Release(settings.version)
    block = settings.block_tokens or (_LATENT_BLOCK_TOKENS if shape.latent is not None else _BLOCK_TOKENS)
    batched = settings.max_num_batched_tokens or _BATCHED_TOKENS * settings.tensor_parallel
    if shape.state is not None:
        shape = replace(shape, state=replace(shape.state, state_bytes=4))
    layout = lay_out(shape, replace(settings, block_tokens=block), release, batched, batches=1)
    blocks = layout.pool_blocks(tuple(space_bytes for _ in layout.block_bytes))
    per_request = layout.blocks_for(max_model_len)
    return CpuCache(
        blocks=blocks,
        tokens=layout.logged_tokens(blocks, max_model_len, release),
        max_concurrency=blocks / per_request if per_request else 0.0,
    )
