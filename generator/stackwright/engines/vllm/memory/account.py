"""The account of one start: what each pipeline stage has, takes and keeps for the cache. Pure.

The budget rule is vLLM 0.32.0 v1/worker/utils.py, request_memory, and v1/worker/gpu_worker.py,
determine_available_memory.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from math import ceil, isqrt

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.forecast import EngineSettings, GpuMemory, Term
from stackwright.domain.shape import Shape
from stackwright.engines.vllm.memory.activation import stage_peaks
from stackwright.engines.vllm.memory.defaults import CompleteSettings, complete
from stackwright.engines.vllm.memory.graphs import (
    attention_buffer,
    counts_graphs,
    graphs,
    overhead,
    sampler_entries,
    token_table,
    trial_blocks,
)
from stackwright.engines.vllm.memory.kv_cache import KvCacheLayout, format_of, lay_out
from stackwright.engines.vllm.memory.releases import Release, release_of
from stackwright.engines.vllm.memory.seen import ROUNDING_BYTES, Seen, find_seen
from stackwright.units import MIB

# CUDA's own context is there before the engine looks at what is free: 0.3 to 0.5 GiB on one GPU.
CONTEXT_BYTES = 400 * MIB
# The real capture may take more than its estimate: vLLM issue #57475 lacked 136 MiB at 0.98 of 22.36 GiB.
_CAPTURE_SLACK = 150 * MIB
# What the pool still differs by where every term is known, as a share of the GPU's memory: 9 of 10 cases are within it.
_RESIDUAL = 0.01


class Stage(Struct, frozen=True, kw_only=True):
    """The terms of one rank of one pipeline stage.

    `first_activation`: the peak of a start that has to compile, `activation` of the later ones. `counted`: the engine
    takes the graphs from its budget. `outside`: what it allocates beside its budget. `trial_bytes`: the small cache
    that it captures its first graphs with. `residual`: what no term explains, in bytes.
    """

    weights: Term
    activation: Term
    first_activation: Term
    graphs: Term
    overhead: Term
    counted: bool
    outside: Term
    trial_bytes: int
    residual: int

    def taken_bytes(self, *, later: bool = False) -> int:
        """Add up what the cache cannot have on a first start, or on a later one."""
        peak = self.activation if later else self.first_activation
        graphs_bytes = self.graphs.bytes if self.counted else 0
        return self.weights.bytes + peak.bytes + self.overhead.bytes + graphs_bytes

    @property
    def error_bytes(self) -> int:
        """Return the half-width of the sum: the terms' errors are independent, so they add as squares."""
        errors = [self.weights.error, self.first_activation.error, self.overhead.error, self.residual]
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

    def rooms(self, sign: int = 0, *, later: bool = False) -> tuple[int, ...]:
        """Return what each stage has left for the cache; with `sign` less (-1) or more (1) the error.

        A first start has the least; `later` ones find compiled what it left. A cache whose size is given takes no heed
        of the budget (0.33.0 v1/worker/gpu_worker.py, kv_cache_memory_bytes): it is there whole, or the GPU lacks what
        it needs.
        """
        given = self.settings.kv_cache_bytes
        taken = [(warm if later else first) - sign * error for first, warm, error in self._sums]
        if given is not None:
            left = [self.free_bytes - each - given for each in taken]
            return tuple(given if each >= 0 else each for each in left)
        budget = self.budget_bytes
        return tuple(budget - each for each in taken)

    @cached_property
    def _sums(self) -> list[tuple[int, int, int]]:
        return [(stage.taken_bytes(), stage.taken_bytes(later=True), stage.error_bytes) for stage in self.stages]

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
    def outside_room_bytes(self) -> int:
        """Return what the budget leaves of a GPU; with a cache of a given size, what is left beside it."""
        given = self.settings.kv_cache_bytes
        taken = self.budget_bytes if given is None else given + self.stages[self.fullest].taken_bytes()
        return self.free_bytes - taken

    def outside_fits(self, sign: int) -> bool:
        """Return whether what the budget does not count finds room; with `sign` more (1) or less (-1) the error."""
        outside = self.stages[self.fullest].outside
        return outside.bytes + sign * outside.error <= max(self.outside_room_bytes, 0)

    def trial_fits(self, sign: int) -> bool:
        """Return whether the first graphs can be captured, before the cache is allocated."""
        there = self.gpu.total_bytes - self.gpu.used_bytes - CONTEXT_BYTES
        return all(
            stage.weights.bytes + stage.overhead.bytes + stage.trial_bytes + sign * stage.error_bytes <= there
            for stage in self.stages
            if stage.trial_bytes
        )


@lru_cache(maxsize=64)  # what a search finds is asked of once more
def account(shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: tuple[Term, ...]) -> Account:
    """Add up every term for one release's rules. `weights`: of each pipeline stage."""
    release = release_of(settings, gpu)
    filled = complete(shape, settings, gpu, release)
    layout = lay_out(shape, format_of(shape, settings, gpu, release), release, filled.max_num_batched_tokens)
    stages = _stages(shape, filled, gpu, release, layout, weights)
    seen = find_seen(shape, filled, gpu)
    return Account(
        shape=shape,
        settings=filled,
        gpu=gpu,
        release=release,
        layout=layout,
        stages=tuple(stages if seen is None else (_corrected(stage, seen) for stage in stages)),
        seen=seen,
    )


def _stages(
    shape: Shape,
    filled: CompleteSettings,
    gpu: GpuMemory,
    release: Release,
    layout: KvCacheLayout,
    weights: tuple[Term, ...],
) -> list[Stage]:
    captured, counted = graphs(shape, filled, gpu, release), counts_graphs(shape, release)
    entries = sampler_entries(shape, filled, release)
    consumed = entries if release.counts_consumed else 0
    beside = overhead(filled, gpu, release)
    beside = replace(beside, bytes=beside.bytes + consumed + token_table(shape, filled, gpu, release))
    blocks = trial_blocks(shape, filled, gpu, release)
    outside = Term(bytes=entries - consumed, error=_CAPTURE_SLACK) if counted else captured
    if not counted:
        outside = replace(outside, bytes=outside.bytes + entries - consumed)
    if filled.enforce_eager:
        outside = Term(bytes=entries - consumed + attention_buffer(shape, filled, gpu, release))
    stages = []
    # Neither decides on a peak, and many GPUs and lengths are weighed with the same one.
    plain = replace(filled, gpu_memory_utilization=0.0, max_model_len=0)
    for position, term in enumerate(weights):
        first, peak = stage_peaks(shape, plain, release, first=position == 0, last=position == len(weights) - 1)
        stages.append(
            Stage(
                weights=term,
                activation=peak,
                first_activation=first,
                graphs=captured,
                overhead=beside,
                counted=counted,
                outside=outside,
                trial_bytes=blocks * layout.block_bytes[position] if blocks else 0,
                residual=int(gpu.total_bytes * _RESIDUAL),
            )
        )
    return stages


def _corrected(stage: Stage, seen: Seen) -> Stage:
    """Return a stage with what was measured in the place of what was forecast.

    Where only the pool is printed, activations take what no other term explains. What compiling takes is forecast on a
    start that had not to.
    """
    printed = seen.measured
    if printed.weights_bytes is not None:
        stage = replace(stage, weights=Term(bytes=printed.weights_bytes, error=ROUNDING_BYTES))
    if seen.taken_bytes is None:
        return stage
    charged = printed.graph_estimate_bytes if stage.counted else printed.cuda_graph_bytes
    graphs = stage.graphs if charged is None else Term(bytes=charged, error=ROUNDING_BYTES)
    rest = max(0, seen.taken_bytes - stage.weights.bytes - (graphs.bytes if stage.counted else 0))
    overhead_bytes = min(stage.overhead.bytes if printed.overhead_bytes is None else printed.overhead_bytes, rest)
    compiling = stage.first_activation.bytes - stage.activation.bytes
    peak, warm = rest - overhead_bytes, seen.cold is False
    first = Term(bytes=peak + compiling, error=stage.first_activation.error) if warm else Term(bytes=peak)
    outside = stage.outside
    if not stage.counted:
        outside = Term(bytes=outside.bytes - stage.graphs.bytes + graphs.bytes, error=graphs.error)
    return replace(
        stage,
        weights=replace(stage.weights, error=0),
        activation=Term(bytes=max(0, first.bytes - compiling)),
        first_activation=first,
        graphs=replace(graphs, error=0) if stage.counted else graphs,
        overhead=Term(bytes=overhead_bytes),
        outside=outside,
        residual=stage.residual if warm else 2 * ROUNDING_BYTES,
    )
