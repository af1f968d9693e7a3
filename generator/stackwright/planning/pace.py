"""How many GPUs of an island share one replica: as many as the objective makes worth while. Pure.

One token comes no sooner than its weights are read, and tensor parallelism divides that time; each layer then waits for
two all-reduces (Megatron-LM, arXiv 1909.08053, section 3: one after attention, one after the MLP), however small the
model. What is estimated here orders groups of GPUs against each other and promises no speed.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Mode
from stackwright.domain.shape import Shape
from stackwright.engines.memory.parts import embedding_matrix
from stackwright.planning.request import ModelRequest
from stackwright.units import format_bytes

# Few kilobytes among 2, 4 or 8 H100: 8.5 to 10.1 µs by the quickest kernel, launch counted, hardly more with more ranks
# (sgl-project/sglang#2904, 2025-01-15).
ALL_REDUCE_S = 10e-6
ALL_REDUCES_PER_LAYER = 2
# What differs by less than a twentieth counts as equally quick: the figure above is no better, and fewer GPUs then do.
NO_QUICKER = 0.95
# Without an objective, ranks are added as long as all of them do more than half of what as many replicas would.
LEAST_SHARE_OF_WORK = 0.5


class Pace(Struct, frozen=True, kw_only=True):
    """What one token takes: `read_bytes` of weights at `bandwidth` bytes a second and GPU, through `layers`."""

    read_bytes: int
    bandwidth: float
    layers: int

    def token_s(self, ranks: int) -> float:
        """Return the least time of one token, in seconds, on so many ranks."""
        waiting = self.layers * ALL_REDUCES_PER_LAYER * ALL_REDUCE_S if ranks > 1 else 0.0
        return self.read_bytes / self.bandwidth / ranks + waiting

    def share_of_work(self, ranks: int) -> float:
        """Return which part of the work of as many single GPUs a group does; 1 for one GPU."""
        return self.token_s(1) / (ranks * self.token_s(ranks))


def estimate_pace(request: ModelRequest, placement: Placement, catalog: Catalog) -> Pace | None:
    """Return the pace of the request's model on the placement's GPUs; None where a figure is missing."""
    model = catalog.find_gpu(placement.gpus[0].name) if placement.gpus else None
    shape = request.facts.config.shape
    if model is None or model.bandwidth_gb_per_s is None or not shape.layers or not shape.hidden:
        return None
    read = request.engine.parameter_bytes(_as_read(shape))
    read -= 0 if shape.tied else embedding_matrix(shape, 1).elements * shape.element_bytes
    return Pace(read_bytes=read, bandwidth=model.bandwidth_gb_per_s * 1e9, layers=len(shape.layers))


@lru_cache(maxsize=1024)
def _as_read(shape: Shape) -> Shape:
    """Return what of a model is read for one token."""
    experts = replace(shape.experts, count=shape.experts.per_token) if shape.experts else None
    # Of the input embedding one row is read, and an encoder runs once for each image.
    return replace(shape, experts=experts, vision=None, extra_embeddings=0, learned_positions=0)


def arrange(options: tuple[Placement, ...], request: ModelRequest, catalog: Catalog) -> tuple[Placement, ...]:
    """Return the placements in the order of the request's objective, each with what was traded for what.

    `throughput` keeps the smallest group first, `latency` prefers the quickest token, of nearly equal ones
    the fewest GPUs. Without an objective, and for
    `context` among groups that hold equally long requests, the most ranks come first that still do more than half of
    the work of as many replicas, then the larger groups, which hold more. A person who asked for `multi` gets the whole
    island. What reaches across islands, or needs whole experts on each rank, stays behind.
    """
    inside = [option for option in options if not option.last_resort]
    objective = request.objective
    pace = estimate_pace(request, options[0], catalog) if len(inside) > 1 else None
    if pace is None or objective is Objective.THROUGHPUT or (objective is None and request.mode is Mode.MULTI):
        ordered = inside
    elif objective is Objective.LATENCY:
        ordered = _quickest_first(inside, pace)
    else:
        ordered = _as_far_as_it_pays(inside, pace)
    trade = _trade(request, pace, ordered) if len(inside) > 1 else ""
    return (
        *(replace(option, trade=trade) for option in ordered),
        *(option for option in options if option.last_resort),
    )


def _quickest_first(inside: list[Placement], pace: Pace) -> list[Placement]:
    """Order groups by the time of a token; first the smallest that no other beats by a twentieth."""
    sizes = sorted(inside, key=lambda option: pace.token_s(option.tensor_parallel))
    least = pace.token_s(sizes[0].tensor_parallel)
    equals = [option for option in sizes if pace.token_s(option.tensor_parallel) * NO_QUICKER <= least]
    first = min(equals, key=lambda option: option.tensor_parallel)
    return [first, *(option for option in sizes if option is not first)]


def _as_far_as_it_pays(inside: list[Placement], pace: Pace) -> list[Placement]:
    """Order groups: the largest that pays, then the larger ones, then the smaller ones, each nearest first."""
    sizes = sorted(inside, key=lambda option: option.tensor_parallel)
    paying = [pace.share_of_work(option.tensor_parallel) > LEAST_SHARE_OF_WORK for option in sizes]
    best = max(position for position, pays in enumerate(paying) if pays or position == 0)
    return [*sizes[best:], *reversed(sizes[:best])]


def _trade(request: ModelRequest, pace: Pace | None, ordered: list[Placement]) -> str:
    """Return what the objective, or its absence, prefers, and the times that were weighed."""
    others = "`--objective` throughput: fewest GPUs per replica; latency: fastest tokens; context: longest request"
    if request.objective is Objective.THROUGHPUT:
        return "; for throughput: the fewest GPUs whose KV cache is at least as large as the weights"
    if pace is None or (request.objective is None and request.mode is Mode.MULTI):
        return f"; the most GPUs that can share a layer; {others}"
    sizes = sorted({option.tensor_parallel for option in ordered})
    times = ", ".join(f"{pace.token_s(ranks) * 1000:.2g} ms on {ranks}" for ranks in sizes)
    estimate = f"about {times} per token, for {format_bytes(pace.read_bytes)} of weights and the all-reduces"
    if request.objective is Objective.LATENCY:
        return f"; for latency: the fastest group that holds the model: {estimate}"
    if request.objective is Objective.CONTEXT:
        return f"; for context: the group with the longest request: {estimate}"
    return (
        "; without an objective: as many GPUs as add at least half a replica's speed each, more for a KV cache as "
        f"large as the weights: {estimate}; {others}"
    )
