"""What the engine takes where a setting is not given. Pure.

vLLM 0.32.0 engine/arg_utils.py, get_batch_defaults (API server) and _set_default_max_num_seqs_and_batched_tokens_args;
v0.6 to v0.8's first engine: config.py, SchedulerConfig.
"""

from __future__ import annotations

from msgspec import structs

from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.shape import Shape
from stackwright.engines.vllm.memory.releases import Release, rules_of
from stackwright.units import GIB

_HUGE, _LARGE = 160 * GIB, 70 * GIB
_GB10 = (12, 1)
# The first engine profiles one whole prompt, but chunks where prompts may be longer than 32,768 tokens (config.py,
# SchedulerConfig; engine/arg_utils.py, create_engine_config).
_LEGACY_LEAST, _LEGACY_CHUNK, _LEGACY_WHOLE_PROMPT = 2048, 512, 32768
_LEGACY_SEQS = 256


class CompleteSettings(EngineSettings, frozen=True, kw_only=True):
    """Settings with the engine's own defaults filled in. `samples`: the profile run ends in the sampler."""

    gpu_memory_utilization: float
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    samples: bool = True
    on_gpu: bool = True


def complete(shape: Shape, settings: EngineSettings, gpu: GpuMemory, release: Release) -> CompleteSettings:
    """Fill in the engine's own defaults. A length that nobody gives is the model's own."""
    length = settings.max_model_len or shape.default_length or 2048
    tokens, seqs = batch_defaults(gpu, release)
    if release.first_engine:
        tokens, seqs = max(length, _LEGACY_LEAST), _LEGACY_SEQS
        if release.chunks_long_prompts and length > _LEGACY_WHOLE_PROMPT:
            tokens = _LEGACY_LEAST if release.samples_chunks else _LEGACY_CHUNK
    if release.takes_whole_items:
        tokens = max(tokens, shape.least_step_tokens)
    if shape.is_encoder:
        tokens = max(tokens, length)
    seqs = settings.max_num_seqs or seqs
    if release.caps_steps:
        tokens = min(tokens, seqs * length)
    tokens = settings.max_num_batched_tokens or tokens
    return CompleteSettings(
        **structs.asdict(settings)
        | {
            "gpu_memory_utilization": settings.gpu_memory_utilization or release.default_utilization,
            "max_model_len": length,
            "max_num_seqs": settings.max_num_seqs or min(seqs, tokens),
            "max_num_batched_tokens": tokens,
            "samples": not (release.first_engine and tokens == _LEGACY_CHUNK),
        }
    )


def engines_own(shape: Shape, settings: EngineSettings, gpu: GpuMemory) -> frozenset[str]:
    """Return the names of the settings that the engine takes by itself where they are not given.

    A step that is written out loses the engine's own floor: what one picture, film or text takes at once. None of a
    release that nobody read, nor on a MIG slice, where it hangs on what NVML lets the engine see.
    """
    release = rules_of(settings.version, legacy_engine=settings.legacy_engine)
    if not release.known or release.newer or gpu.sliced:
        return frozenset()
    steps = structs.replace(settings, max_num_batched_tokens=None)
    neither = complete(shape, structs.replace(steps, max_num_seqs=None), gpu, release)
    if (neither.max_num_seqs, neither.max_num_batched_tokens) == _batch(settings):
        return frozenset({"max_num_seqs", "max_num_batched_tokens"})
    same = complete(shape, steps, gpu, release).max_num_batched_tokens == settings.max_num_batched_tokens
    return frozenset({"max_num_batched_tokens"} if same else ())


def _batch(settings: EngineSettings) -> tuple[int | None, int | None]:
    return settings.max_num_seqs, settings.max_num_batched_tokens


def batch_defaults(gpu: GpuMemory, release: Release) -> tuple[int, int]:
    """Return (tokens in a step, requests) where neither is given: large GPUs take more, with exceptions.

    catalog/defaults.yaml has the conditions of each release, and a test holds this against it. A container with a MIG
    slice may not ask NVML for the whole GPU's memory, which vLLM takes for none (vLLM issue #55381).
    """
    if gpu.sliced:
        return 2048, 256
    if gpu.total_bytes >= _HUGE and release.huge_gpus_apart:
        return 16384, 1024
    name = gpu.name.lower()
    large = gpu.total_bytes >= _LARGE if release.sizes_gpus else "h100" in name or "h200" in name
    left_out = (release.leaves_a100_out and "a100" in name) or (
        release.leaves_gb10_out and gpu.compute_capability == _GB10
    )
    if large and not left_out:
        return 8192, 1024
    return 2048, 256 if release.asks_fewer else 1024
