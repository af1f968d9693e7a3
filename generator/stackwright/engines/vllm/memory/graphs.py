"""What CUDA graphs and everything outside PyTorch take. Pure.

Sizes to capture: vLLM 0.32.0 config/vllm.py, _set_cudagraph_sizes. Their bytes are not in the source: see the
constants.
"""

from __future__ import annotations

from stackwright.domain.forecast import EngineSettings, GpuMemory, Term
from stackwright.domain.shape import Shape
from stackwright.engines.vllm.memory.defaults import CompleteSettings
from stackwright.engines.vllm.memory.releases import Release
from stackwright.units import GIB, MIB

_LARGEST_GRAPH, _LARGEST_GRAPH_BLACKWELL = 512, 1024
# Measured on logs of 0.11 and later that print layers, graphs and bytes. One graph of one layer takes 20 (Ministral 3
# 14B), 28 (Qwen3 0.6B), 127 (gpt-oss-20b), 149 (Gemma 3 4B), 186 (Llama 3 70B), 189 (Gemma 4 E4B), 224 KiB
# (gpt-oss-120b); where the engine's own estimate is taken 142, 189, 209 and 264. Many experts or states take 386 to 560
# (Qwen3-Next, GLM-5.2, Qwen3-235B).
_LAYER_GRAPH_BYTES = 186 * 1024
_GRAPH_ERROR, _GRAPH_FLOOR = 0.8, GIB // 4
# vLLM's own estimate extrapolates the second graph to all others, though they share their pool: on data-centre
# Blackwell, with twice the sizes, it took 25 GiB too much of a GB300 in one log and two thirds of a B200's cache in
# another (vllm#45178).
_MANY_SIZES, _ESTIMATE_ERROR = 60, 0.12
# CUDA context's growth, kernels and handles after the first snapshot: 0.01 to 0.16 GiB on one GPU in the cases; where
# all that is gone counts, 0.26 and 0.30 GiB. NCCL's and the custom all-reduce's buffers: 0.20 to 0.55 GiB with two to
# eight over PCIe; behind an NVSwitch 0.95 to 1.63 GiB, with the symmetric memory that Hopper and Blackwell use there.
_ALONE, _ALONE_ERROR = 100 * MIB, 80 * MIB
_ALONE_CONSUMED, _ALONE_CONSUMED_ERROR = 280 * MIB, 150 * MIB
_TOGETHER, _TOGETHER_ERROR = 340 * MIB, 200 * MIB
_SWITCHED, _SWITCHED_ERROR, _SWITCHED_MAJORS = 1200 * MIB, 700 * MIB, (9, 10)
_MANY_RANKS, _MANY_RANKS_ERROR = GIB, GIB


def capture_sizes(settings: CompleteSettings, gpu: GpuMemory, release: Release) -> tuple[int, ...]:
    """Return the batch sizes, in tokens, that graphs are captured for; none with `--enforce-eager`."""
    if settings.enforce_eager:
        return ()
    blackwell = gpu.compute_capability is not None and gpu.compute_capability[0] == 10 and release.huge_gpus_apart
    ceiling = _LARGEST_GRAPH_BLACKWELL if blackwell else _LARGEST_GRAPH
    largest = min(
        settings.max_num_seqs * (1 + settings.speculative_tokens) * 2, ceiling, settings.max_num_batched_tokens
    )
    step = 16 if release.sparser_graphs else 8
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, step)]
    return tuple(size for size in sizes if size <= largest)


def graphs(shape: Shape, settings: CompleteSettings, gpu: GpuMemory, release: Release) -> Term:
    """Return the bytes of the captured graphs on one rank; where they count, the engine's own estimate of them."""
    sizes = capture_sizes(settings, gpu, release)
    if not sizes:
        return Term(bytes=0)
    decoded = settings.max_num_seqs * (1 + settings.speculative_tokens)
    whole = sum(size <= decoded for size in sizes) if release.whole_graphs or shape.has_state else 0
    layers = -(-len(shape.layers) // settings.pp)
    size = (len(sizes) + whole) * layers * _LAYER_GRAPH_BYTES
    error = max(int(size * _GRAPH_ERROR), _GRAPH_FLOOR)
    if release.counts_graphs and len(sizes) > _MANY_SIZES:
        error = max(error, int(gpu.total_bytes * _ESTIMATE_ERROR))
    return Term(bytes=size, error=error)


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
