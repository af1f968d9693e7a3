"""What CUDA graphs and everything outside PyTorch take. Pure.

Sizes to capture: vLLM 0.32.0 config/vllm.py, _set_cudagraph_sizes. Their bytes are not in the source: see the constants.
"""

from __future__ import annotations

from generator.domain.forecast import EngineSettings, GpuMemory, Term
from generator.domain.shape import Shape
from generator.planning.memory.defaults import Batch
from generator.units import GIB, MIB

_LARGEST_GRAPH, _LARGEST_GRAPH_BLACKWELL = 512, 1024
# Measured on the cases that print both sizes and bytes: 0.10 GiB (28 layers, 67 sizes) to 1.22 GiB (80 layers, 51 sizes
# twice); one graph of one layer takes 60 to 400 KiB.
_LAYER_GRAPH_BYTES = 160 * 1024
_GRAPH_ERROR, _GRAPH_FLOOR = 0.8, GIB // 4
# vLLM's own estimate extrapolates the second graph to all others, though they share their pool: on data-centre Blackwell, with
# twice the sizes, it took 25 GiB too much of a GB300 in one log and two thirds of a B200's cache in another (vllm#45178).
_MANY_SIZES, _ESTIMATE_ERROR = 60, 0.12
# CUDA context's growth, kernels and handles after the first snapshot: 0.01 to 0.16 GiB on one GPU in the cases; NCCL's
# and the custom all-reduce's buffers: 0.20 to 0.55 GiB with two to four, more with more.
_ALONE, _ALONE_ERROR = 100 * MIB, 80 * MIB
_TOGETHER, _TOGETHER_ERROR = 380 * MIB, 200 * MIB
_MANY_RANKS, _MANY_RANKS_ERROR = GIB, GIB


def capture_sizes(settings: EngineSettings, batch: Batch, gpu: GpuMemory) -> tuple[int, ...]:
    """Return the batch sizes, in tokens, that graphs are captured for; none with `--enforce-eager`."""
    if settings.enforce_eager:
        return ()
    blackwell = gpu.compute_capability is not None and gpu.compute_capability[0] == 10
    ceiling = _LARGEST_GRAPH_BLACKWELL if blackwell else _LARGEST_GRAPH
    largest = min(batch.max_num_seqs * (1 + settings.speculative_tokens) * 2, ceiling, batch.max_num_batched_tokens)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    return tuple(size for size in sizes if size <= largest)


def graphs(shape: Shape, settings: EngineSettings, batch: Batch, gpu: GpuMemory, *, counted: bool = False) -> Term:
    """Return the bytes of the captured graphs on one rank; `counted`: the engine estimates them and takes that instead."""
    sizes = capture_sizes(settings, batch, gpu)
    if not sizes:
        return Term(bytes=0)
    layers = -(-len(shape.layers) // settings.pipeline_parallel)
    size = len(sizes) * layers * _LAYER_GRAPH_BYTES
    error = max(int(size * _GRAPH_ERROR), _GRAPH_FLOOR)
    if counted and len(sizes) > _MANY_SIZES:
        error = max(error, int(gpu.total_bytes * _ESTIMATE_ERROR))
    return Term(bytes=size, error=error)


def overhead(settings: EngineSettings) -> Term:
    """Return what lies outside PyTorch: kernels, handles, communication buffers."""
    ranks = settings.tensor_parallel * settings.pipeline_parallel
    if ranks == 1:
        return Term(bytes=_ALONE, error=_ALONE_ERROR)
    if ranks <= 8:
        return Term(bytes=_TOGETHER, error=_TOGETHER_ERROR)
    return Term(bytes=_MANY_RANKS, error=_MANY_RANKS_ERROR)
