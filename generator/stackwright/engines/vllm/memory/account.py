"""The account of one start: what each pipeline stage has, takes and keeps for the cache. Pure.

The budget rule is vLLM 0.32.0 v1/worker/utils.py, request_memory, and v1/worker/gpu_worker.py,
determine_available_memory.
"""

from __future__ import annotations

from functools import cached_property
from math import ceil, isqrt

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.forecast import EngineSettings, GpuMemory, Term
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.vllm.memory.activation import activation
from stackwright.engines.vllm.memory.defaults import CompleteSettings, complete
from stackwright.engines.vllm.memory.graphs import graphs, overhead
from stackwright.engines.vllm.memory.kv_cache import KvCacheLayout, lay_out
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.seen import ROUNDING_BYTES, Seen, find_seen
from stackwright.engines.vllm.memory.weights import stage_weights
from stackwright.units import MIB

# CUDA's own context is there before the engine looks at what is free: 0.3 to 0.5 GiB on one GPU.
CONTEXT_BYTES = 400 * MIB
# What the pool still differs by where every term is known, as a share of the GPU's memory: 9 of 10 cases are within it.
_RESIDUAL = 0.01


class Stage(Struct, frozen=True, kw_only=True):
    """The terms of one rank of one pipeline stage.

    `counted`: the engine takes the graphs from its budget. `residual`: what no term explains, in bytes.
    """

    weights: Term
    activation: Term
    graphs: Term
    overhead: Term
    counted: bool
    residual: int

    @property
    def taken_bytes(self) -> int:
        """Add up what the cache cannot have."""
        graphs_bytes = self.graphs.bytes if self.counted else 0
        return self.weights.bytes + self.activation.bytes + self.overhead.bytes + graphs_bytes

    @property
    def error_bytes(self) -> int:
        """Return the half-width of the sum: the terms' errors are independent, so they add as squares."""
        errors = [self.weights.error, self.activation.error, self.overhead.error, self.residual]
        errors += [self.graphs.error] if self.counted else []
        return isqrt(sum(error * error for error in errors))


class Account(Struct, frozen=True, kw_only=True, dict=True):
    """Everything that a verdict is made of. `seen`: the earlier start that some terms are taken from."""

    shape: Shape
    settings: CompleteSettings
    gpu: GpuMemory
    release: Release
    layout: KvCacheLayout
    stages: tuple[Stage, ...]
    seen: Seen | None = None

    @property
    def budget_bytes(self) -> int:
        """Return what the engine may take of one GPU."""
        return ceil(self.gpu.total_bytes * self.settings.gpu_memory_utilization)

    @property
    def free_bytes(self) -> int:
        """Return what is free when the engine looks, before it has loaded anything."""
        return self.gpu.total_bytes - self.gpu.used_bytes - CONTEXT_BYTES

    @property
    def enough_is_free(self) -> bool:
        """Return whether the engine gets past its first check."""
        return not self.gpu.used_bytes or self.free_bytes >= self.budget_bytes

    def rooms(self, sign: int = 0) -> tuple[int, ...]:
        """Return what each stage has left for the cache; with `sign` less (-1) or more (1) the error.

        A cache whose size is given takes no heed of the budget (0.33.0 v1/worker/gpu_worker.py, kv_cache_memory_bytes):
        what is left of the GPU beside it counts as the cache's too where it is less than nothing.
        """
        given = self.settings.kv_cache_bytes
        if given is not None:
            free = (self.free_bytes - stage.taken_bytes - given + sign * stage.error_bytes for stage in self.stages)
            return tuple(given + min(0, left) for left in free)
        return tuple(self.budget_bytes - stage.taken_bytes + sign * stage.error_bytes for stage in self.stages)

    @cached_property
    def fullest(self) -> int:
        """Return the stage whose pool is the smallest."""
        rooms, sizes = self.rooms(), self.layout.block_bytes
        return min(range(len(rooms)), key=lambda index: rooms[index] / max(sizes[index], 1))

    @property
    def needed_bytes(self) -> tuple[int, ...]:
        """Return what each stage needs for one request of the asked length; a model without a cache needs none."""
        return self.layout.needed_bytes(self.settings.max_model_len)

    @property
    def graphs_fit_outside(self) -> bool:
        """Return whether graphs that the budget does not count find room beside it."""
        captured = self.stages[self.fullest].graphs.bytes
        return self.release.counts_graphs or self.gpu.total_bytes - self.budget_bytes - CONTEXT_BYTES >= captured


def account(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    tensors: tuple[TensorHeader, ...] | None,
    weight_bytes: int | None,
    weights: tuple[Term, ...] | None = None,
) -> Account:
    """Add up every term for one release's rules; only the last stage runs the sampler, only the first the encoder.

    `weights`: of each stage, where they are counted already.
    """
    release = Release(settings.version, legacy_engine=settings.legacy_engine)
    filled = complete(shape, settings, gpu, release)
    weights = weights or stage_weights(shape, settings, gpu, release, tensors, weight_bytes)
    captured = graphs(shape, filled, gpu, release)
    outside = overhead(settings, gpu, release)
    stages = []
    for position, term in enumerate(weights):
        here = shape if position == 0 else replace(shape, vision=None)
        here = here if position == len(weights) - 1 else replace(here, vocab=0)
        stages.append(
            Stage(
                weights=term,
                activation=activation(here, filled, release),
                graphs=captured,
                overhead=outside,
                counted=release.counts_graphs,
                residual=int(gpu.total_bytes * _RESIDUAL),
            )
        )
    seen = find_seen(shape, filled, gpu)
    return Account(
        shape=shape,
        settings=filled,
        gpu=gpu,
        release=release,
        layout=lay_out(shape, settings, release, filled.max_num_batched_tokens),
        stages=tuple(stages if seen is None else (_corrected(stage, seen) for stage in stages)),
        seen=seen,
    )


def _corrected(stage: Stage, seen: Seen) -> Stage:
    """Return a stage with what was measured in the place of what was forecast.

    Where only the pool is printed, activations take what no other term explains.
    """
    printed = seen.measured
    if printed.weights_bytes is not None:
        stage = replace(stage, weights=Term(bytes=printed.weights_bytes, error=ROUNDING_BYTES))
    if seen.taken_bytes is None:
        return stage
    charged = printed.graph_estimate_bytes if stage.counted else printed.cuda_graph_bytes
    graphs = stage.graphs if charged is None else Term(bytes=charged, error=ROUNDING_BYTES)
    rest = max(0, seen.taken_bytes - stage.weights.bytes - (graphs.bytes if stage.counted else 0))
    outside = min(stage.overhead.bytes if printed.overhead_bytes is None else printed.overhead_bytes, rest)
    # A start that loaded what an earlier one had compiled takes less than a first one, by nobody knows how much.
    warm = seen.cold is False
    return Stage(
        weights=replace(stage.weights, error=0),
        activation=Term(bytes=rest - outside, error=stage.activation.error if warm else 0),
        graphs=replace(graphs, error=0) if stage.counted else graphs,
        overhead=Term(bytes=outside),
        counted=stage.counted,
        residual=stage.residual if warm else 2 * ROUNDING_BYTES,
    )
