"""What CUDA graphs, their trial and everything outside PyTorch take. Pure.

Sizes to capture: vLLM 0.32.0 config/vllm.py, _set_cudagraph_sizes. Their bytes are not in the source: see the
constants.
"""

from __future__ import annotations

from functools import lru_cache

from stackwright.domain.forecast import EngineSettings, GpuMemory, Term
from stackwright.domain.shape import Mixer, Shape
from stackwright.engines.vllm.memory.defaults import CompleteSettings
from stackwright.engines.vllm.memory.kv_cache import cache_format_of
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.runner import second_runner
from stackwright.units import GIB, MIB

_LARGEST_GRAPH, _LARGEST_GRAPH_BLACKWELL = 512, 1024
_ATTENDING = frozenset((Mixer.FULL, Mixer.SLIDING, Mixer.CHUNKED))
_FLASHINFER_FIRST_MAJOR, _FP8_ATTENTION_MAJOR = 10, 9
# Measured on logs of 0.11 and later that print layers, graphs and bytes. One graph of one layer takes 20 (Ministral 3
# 14B), 28 (Qwen3 0.6B), 127 (gpt-oss-20b), 149 (Gemma 3 4B), 186 (Llama 3 70B), 189 (Gemma 4 E4B), 198 (Qwen2.5 0.5B),
# 224 KiB (gpt-oss-120b); where the engine's own estimate is taken 142, 189, 209, 225, 233, 262 and 285. Many experts or
# states take 386 to 560 (Qwen3-Next, GLM-5.2, Qwen3-235B). The second runner's estimates are 140 and 152.
_LAYER_GRAPH_BYTES, _SECOND_LAYER_GRAPH_BYTES = 210 * 1024, 150 * 1024
_GRAPH_ERROR, _GRAPH_FLOOR = 0.8, GIB // 8
# One graph takes the driver 1 MiB at least (v1/worker/gpu_model_runner.py, profile_cudagraph_memory).
_LEAST_GRAPH_BYTES = MIB
# FlashInfer's buffer (envs.py, VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE), and its bytes for each number of a step's
# queries where that is more (v1/attention/backends/flashinfer.py, FLASHINFER_PREFILL_WORKSPACE_BYTES_PER_ELEM, 0.26.0).
_FLASHINFER_BYTES, _FLASHINFER_NUMBER_BYTES = 394 * MIB, 16
# vLLM's own estimate extrapolates the second graph to all others, though they share their pool: on data-centre
# Blackwell, with twice the sizes, it took 25 GiB too much of a GB300 in one log and two thirds of a B200's cache in
# another (vllm#45178).
_MANY_SIZES, _ESTIMATE_ERROR = 60, 0.12
# CUDA context's growth, kernels and handles after the first snapshot: 0.01 to 0.16 GiB on one GPU in the cases. NCCL's
# and the custom all-reduce's buffers: 0.20 to 0.55 GiB with two to eight over PCIe; behind an NVSwitch 0.95 to 1.63
# GiB, with the symmetric memory that Hopper and Blackwell use there.
_ALONE, _ALONE_ERROR = 100 * MIB, 80 * MIB
# Where all that is gone counts, so do segments that are not full: 0.13 and 0.17 GiB without the sampler's entries.
_ALONE_CONSUMED, _ALONE_CONSUMED_ERROR = 150 * MIB, 130 * MIB
_TOGETHER, _TOGETHER_ERROR = 340 * MIB, 200 * MIB
_SWITCHED, _SWITCHED_ERROR, _SWITCHED_MAJORS = 1200 * MIB, 700 * MIB, (9, 10)
_MANY_RANKS, _MANY_RANKS_ERROR = GIB, GIB
# A table of all requests' tokens lies in the processor's memory, which is the GPU's where both are one: numbers of 4
# bytes, and a flag in the first runner (v1/worker/gpu_input_batch.py, token_ids_cpu and is_token_ids;
# v1/worker/gpu/states.py, all_token_ids).
_TOKEN_BYTES, _TOKEN_FLAG_BYTES = 4, 1


def capture_sizes(settings: CompleteSettings, gpu: GpuMemory, release: Release) -> tuple[int, ...]:
    """Return the batch sizes, in tokens, that graphs are captured for; none with `--enforce-eager`."""
    if settings.enforce_eager:
        return ()
    if settings.capture_sizes is not None:
        return tuple(size for size in settings.capture_sizes if size <= settings.max_num_batched_tokens)
    blackwell = gpu.compute_capability is not None and gpu.compute_capability[0] == 10 and release.huge_gpus_apart
    ceiling = _LARGEST_GRAPH_BLACKWELL if blackwell else _LARGEST_GRAPH
    requests = settings.max_num_seqs * (1 + settings.speculative_tokens)
    wanted = requests * 2 if release.captures_by_requests or release.first_engine else ceiling
    largest = min(settings.max_capture_size or min(wanted, ceiling), settings.max_num_batched_tokens)
    step = 16 if release.sparser_graphs else 8
    return _sizes_up_to(largest, step)


@lru_cache(maxsize=256)
def _sizes_up_to(largest: int, step: int) -> tuple[int, ...]:
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, step)]
    return tuple(size for size in sizes if size <= largest)


def graphs(shape: Shape, settings: CompleteSettings, gpu: GpuMemory, release: Release) -> Term:
    """Return the bytes of the captured graphs on one rank; where they count, the engine's own estimate of them.

    The first graph brings the attention backend's buffer with it.
    """
    sizes = capture_sizes(settings, gpu, release)
    if not sizes:
        return Term(bytes=0)
    decoded = settings.max_num_seqs * (1 + settings.speculative_tokens)
    whole = sum(size <= decoded for size in sizes) if release.whole_graphs or shape.has_state else 0
    # Each with and without an adapter.
    cases = 2 if settings.lora and release.adapts_experts else 1
    layers = -(-len(shape.layers) // settings.pp)
    second = second_runner(shape, release)
    each = max(layers * (_SECOND_LAYER_GRAPH_BYTES if second else _LAYER_GRAPH_BYTES), _LEAST_GRAPH_BYTES)
    size = cases * (len(sizes) + whole) * each
    error = max(int(size * _GRAPH_ERROR), _GRAPH_FLOOR)
    if counts_graphs(shape, release) and not second and len(sizes) > _MANY_SIZES:
        error = max(error, int(gpu.total_bytes * _ESTIMATE_ERROR))
    return Term(bytes=size + attention_buffer(shape, settings, gpu, release), error=error)


def counts_graphs(shape: Shape, release: Release) -> bool:
    """Return whether the budget holds an estimate of the graphs: each runner learnt it in another release."""
    return release.second_runner_profiles_graphs if second_runner(shape, release) else release.counts_graphs


def trial_blocks(shape: Shape, settings: CompleteSettings, gpu: GpuMemory, release: Release) -> int:
    """Return the blocks of the cache that the engine allocates to capture its first graphs, 0 where it does not."""
    sizes = capture_sizes(settings, gpu, release)
    second = second_runner(shape, release)
    if not sizes or not (release.second_runner_profiles_graphs if second else release.profiles_graphs):
        return 0
    return min(settings.max_num_seqs, sizes[-1]) if release.profiles_graphs_by_requests else sizes[-1]


def attention_buffer(shape: Shape, settings: CompleteSettings, gpu: GpuMemory, release: Release) -> int:
    """Return the bytes of the attention backend's own buffer: FlashInfer's, 0 for the others.

    FlashInfer is first on data-centre Blackwell, and next where FlashAttention does not take the cache's format: that
    takes FP8 on Hopper alone. Layers whose heads differ go to Triton (platforms/cuda.py; models/config.py, Gemma 4).
    """
    heads = {(layer.head_dim, layer.heads) for layer in shape.kinds if layer.mixer in _ATTENDING}
    capability = gpu.compute_capability
    if not release.ranks_attention or capability is None or len({dim for dim, _ in heads}) != 1:
        return 0
    kept = cache_format_of(shape, settings.kv_cache_dtype, release)
    major, own = capability[0], kept in ("auto", "bfloat16", "float16")
    if major != _FLASHINFER_FIRST_MAJOR and (own or major == _FP8_ATTENTION_MAJOR):
        return 0
    numbers = max(dim * count for dim, count in heads) // settings.tp
    grown = settings.max_num_batched_tokens * numbers * _FLASHINFER_NUMBER_BYTES
    return max(_FLASHINFER_BYTES, grown) if release.grows_attention_buffer else _FLASHINFER_BYTES


def sampler_entries(shape: Shape, settings: CompleteSettings, release: Release) -> int:
    """Return what the second runner keeps for each request's penalties (v1/worker/gpu/sample/penalties.py).

    A count of 4 bytes and a bit for each entry of the vocabulary.
    """
    if not second_runner(shape, release):
        return 0
    return settings.max_num_seqs * (shape.vocab * 4 + -(-shape.vocab // 32) * 4)


def token_table(shape: Shape, settings: CompleteSettings, gpu: GpuMemory, release: Release) -> int:
    """Return what the table of all requests' tokens takes of memory that processor and GPU share; 0 without such."""
    if not gpu.unified or release.first_engine:
        return 0
    each = _TOKEN_BYTES if second_runner(shape, release) else _TOKEN_BYTES + _TOKEN_FLAG_BYTES
    return settings.max_num_seqs * settings.max_model_len * each


def overhead(settings: EngineSettings, gpu: GpuMemory, release: Release) -> Term:
    """Return what lies outside PyTorch: kernels, handles, communication buffers."""
    ranks = settings.ranks
    if ranks == 1 and release.counts_consumed:
        return Term(bytes=_ALONE_CONSUMED, error=_ALONE_CONSUMED_ERROR)
    if ranks == 1:
        return Term(bytes=_ALONE, error=_ALONE_ERROR)
    major = gpu.compute_capability[0] if gpu.compute_capability else 0
    if settings.tp > 1 and major in _SWITCHED_MAJORS:
        return Term(bytes=_SWITCHED, error=_SWITCHED_ERROR)
    if ranks <= 8:
        return Term(bytes=_TOGETHER, error=_TOGETHER_ERROR)
    return Term(bytes=_MANY_RANKS, error=_MANY_RANKS_ERROR)
