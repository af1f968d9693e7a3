"""Will these settings fit: the sum of all terms on the fullest rank, the verdict, and its reasons. Pure.

The budget rule is vLLM 0.32.0 v1/worker/utils.py, request_memory, and v1/worker/gpu_worker.py, determine_available_memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, isqrt

from generator.domain.forecast import EngineSettings, Forecast, GpuMemory, Term, Verdict
from generator.domain.plan import Memory
from generator.domain.shape import Shape
from generator.domain.tensors import TensorHeader
from generator.planning.memory.activation import activation
from generator.planning.memory.defaults import Batch, resolve
from generator.planning.memory.graphs import graphs, overhead
from generator.planning.memory.kv_cache import Layout, lay_out
from generator.planning.memory.releases import Release
from generator.planning.memory.weights import stage_weights
from generator.units import GIB, format_bytes

# CUDA's own context is there before the engine looks at what is free: 0.3 to 0.5 GiB on one GPU.
_CONTEXT_BYTES = 400 * 2**20
# What the figures of a release that nobody names may differ by: the defaults of batches, graphs and samplers.
_UNKNOWN_RELEASE_ERROR = GIB // 2


@dataclass(frozen=True, kw_only=True)
class _Sum:
    """The terms of one rank of one stage."""

    weights: Term
    activation: Term
    graphs: Term
    overhead: Term
    counted_graphs: int

    @property
    def taken(self) -> int:
        return self.weights.bytes + self.activation.bytes + self.overhead.bytes + self.counted_graphs

    @property
    def error(self) -> int:
        """Half-width: the terms' errors are independent, so they add as squares."""
        errors = [self.weights.error, self.activation.error, self.overhead.error]
        errors += [self.graphs.error] if self.counted_graphs else []
        return isqrt(sum(error * error for error in errors))


def forecast(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    *,
    tensors: tuple[TensorHeader, ...] | None = None,
    weight_bytes: int | None = None,
) -> Forecast:
    """Forecast the memory of the fullest rank, and whether one request of the asked length fits.

    Args:
        shape: the model.
        settings: the engine's settings; None among them is the engine's own default.
        gpu: the smallest GPU of the group.
        tensors: the checkpoint's safetensors headers, where they are at hand.
        weight_bytes: the checkpoint's published size, used without headers.
    """
    release = Release(settings.version, legacy_engine=settings.legacy_engine)
    batch = resolve(shape, settings, gpu, release)
    layout = lay_out(shape, settings, release, batch.max_num_batched_tokens)
    budget = ceil(gpu.total_bytes * batch.gpu_memory_utilization)
    sums = _sums(shape, settings, gpu, batch, release, tensors, weight_bytes)
    rooms = tuple(budget - each.taken for each in sums)
    errors = tuple(each.error + (0 if release.known else _UNKNOWN_RELEASE_ERROR) for each in sums)
    stage = min(range(len(rooms)), key=lambda index: rooms[index] / max(layout.block_bytes[index], 1))
    blocks = layout.pool_blocks(rooms)
    judged = _judge(shape, layout, batch, rooms, errors)
    reasons, warnings = _why(shape, settings, gpu, batch, release, sums[stage], layout, rooms[stage], errors[stage], judged)
    verdict = _unknowable(shape, gpu, settings, judged)
    if gpu.used_bytes and gpu.total_bytes - gpu.used_bytes - _CONTEXT_BYTES < budget:
        verdict = Verdict.DOES_NOT_FIT
    per_request = layout.blocks_for(batch.max_model_len)
    chosen = sums[stage]
    return Forecast(
        verdict=verdict,
        memory=Memory(
            total_bytes=gpu.total_bytes,
            budget_bytes=budget,
            weights_bytes=chosen.weights.bytes,
            activation_bytes=chosen.activation.bytes,
            cuda_graph_bytes=chosen.graphs.bytes,
            overhead_bytes=chosen.overhead.bytes,
            kv_cache_bytes=rooms[stage],
            kv_bytes_per_token=bytes_per_token(layout, stage, batch.max_model_len),
            kv_cache_tokens=int(blocks / per_request * batch.max_model_len) if per_request else 0,
            max_concurrency=round(blocks / per_request, 2) if per_request else 0.0,
            uncertainty_bytes=errors[stage],
            verdict=verdict.value,
        ),
        reasons=reasons,
        warnings=warnings,
        max_model_len=batch.max_model_len,
        needed_kv_bytes=max(layout.needed_bytes(batch.max_model_len), default=0),
        kv_blocks=blocks,
        longest=layout.longest(blocks, shape.max_positions or batch.max_model_len),
    )


def bytes_per_token(layout: Layout, stage: int, max_model_len: int) -> float:
    """Return what one token takes of the pool on one stage: one request's blocks, spread over its tokens.

    For layers of one kind this is their bytes per token; for mixed ones it depends on the length.
    """
    if not layout.groups:
        return 0.0
    if len(layout.groups) == 1 and not layout.groups[0].spec.window:
        return layout.block_bytes[stage] / layout.groups[0].spec.block_tokens
    return layout.block_bytes[stage] * layout.blocks_for(max_model_len) / max_model_len


def _sums(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    batch: Batch,
    release: Release,
    tensors: tuple[TensorHeader, ...] | None,
    weight_bytes: int | None,
) -> tuple[_Sum, ...]:
    """Add up each stage; only the last one runs the sampler, only the first the encoder."""
    weights = stage_weights(shape, settings, gpu, tensors, weight_bytes)
    captured, outside = graphs(shape, settings, batch, gpu), overhead(settings)
    sums = []
    for stage, term in enumerate(weights):
        here = shape if stage == 0 else replace(shape, vision=None)
        sampling = stage == len(weights) - 1
        peak = activation(here if sampling else replace(here, vocab=0), settings, batch, release)
        counted = captured.bytes if release.counts_graphs else 0
        sums.append(
            _Sum(weights=term, activation=peak, graphs=captured, overhead=outside, counted_graphs=counted)
        )
    return tuple(sums)


def _judge(
    shape: Shape, layout: Layout, batch: Batch, rooms: tuple[int, ...], errors: tuple[int, ...]
) -> Verdict:
    """Compare what is left, less and more the error, with what one request needs; recurrent models need more."""
    needed = layout.needed_bytes(batch.max_model_len)
    least = tuple(room - error for room, error in zip(rooms, errors, strict=True))
    most = tuple(room + error for room, error in zip(rooms, errors, strict=True))
    if shape.attention_free or not layout.groups:
        needed = tuple(1 for _ in rooms)
    if any(room < want for room, want in zip(most, needed, strict=True)) or min(most) <= 0:
        return Verdict.DOES_NOT_FIT
    if layout.state_blocks_limit and layout.pool_blocks(most) < batch.max_num_seqs:
        return Verdict.DOES_NOT_FIT
    enough = all(room >= want for room, want in zip(least, needed, strict=True)) and min(least) > 0
    states = not layout.state_blocks_limit or layout.pool_blocks(least) >= batch.max_num_seqs
    return Verdict.FITS if enough and states else Verdict.UNCERTAIN


def _unknowable(shape: Shape, gpu: GpuMemory, settings: EngineSettings, judged: Verdict) -> Verdict:
    """Turn a `fits` into `uncertain` where the facts say that nobody can know before the start."""
    graphs_outside = (settings.gpu_memory_utilization or 0.0) > 0.96 and not settings.enforce_eager
    doubtful = gpu.unified or gpu.wsl or bool(shape.unknown) or graphs_outside
    return Verdict.UNCERTAIN if doubtful and judged is Verdict.FITS else judged


def _why(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    batch: Batch,
    release: Release,
    chosen: _Sum,
    layout: Layout,
    room: int,
    error: int,
    judged: Verdict,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write the reasons, one sentence each, and the warnings."""
    needed = max(layout.needed_bytes(batch.max_model_len), default=0)
    budget = ceil(gpu.total_bytes * batch.gpu_memory_utilization)
    reasons = [
        f"weights {format_bytes(chosen.weights.bytes)}, activations {format_bytes(chosen.activation.bytes)}, "
        f"outside PyTorch {format_bytes(chosen.overhead.bytes)}"
        + (f", CUDA graphs {format_bytes(chosen.counted_graphs)}" if chosen.counted_graphs else "")
        + f" of a budget of {format_bytes(budget)} ({batch.gpu_memory_utilization:g} of {format_bytes(gpu.total_bytes)})",
    ]
    if room <= 0:
        reasons.append(f"nothing is left for the cache: {format_bytes(-room)} too much, ± {format_bytes(error)}")
    else:
        reasons.append(
            f"{format_bytes(room)} ± {format_bytes(error)} are left for the cache; one request of {batch.max_model_len} "
            f"tokens needs {format_bytes(needed)}"
        )
    free = gpu.total_bytes - gpu.used_bytes - _CONTEXT_BYTES
    if gpu.used_bytes and free < budget:
        reasons.append(f"{format_bytes(free)} are free now, so the engine stops before it loads the model")
    pool = layout.pool_blocks((max(room, 0),) * len(layout.block_bytes))
    if layout.state_blocks_limit and pool < batch.max_num_seqs:
        reasons.append(
            f"the cache has {pool} blocks, fewer than the {batch.max_num_seqs} requests that each need one for their state"
        )
    return tuple(reasons), _warnings(shape, settings, gpu, release, judged)


def _warnings(
    shape: Shape, settings: EngineSettings, gpu: GpuMemory, release: Release, judged: Verdict
) -> tuple[str, ...]:
    found = [f"not known of this model: {what}" for what in shape.unknown]
    if not release.known:
        found.append("the engine's release is not known: the newest one's rules are taken, with a wider margin")
    if gpu.unified:
        found.append("memory shared with the processor: what is free depends on the page cache, so nobody can promise")
    if gpu.wsl:
        found.append("under WSL the driver may move memory to the host, so the engine's own figures cannot be trusted")
    if (settings.gpu_memory_utilization or 0.0) > 0.94 and not release.counts_graphs and not settings.enforce_eager:
        found.append("before vLLM 0.21 CUDA graphs come from outside the budget: above 0.94 a start can fail after loading")
    if judged is Verdict.UNCERTAIN:
        found.append("too close to say: a shorter --max-model-len, fewer --max-num-seqs or a smaller model is safe")
    return tuple(found)
