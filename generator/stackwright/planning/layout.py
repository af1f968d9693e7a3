"""Choose how the model lies on the GPUs: the first placement on which it fits, with the best settings there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings, Forecast, GpuMemory, Solution, Verdict
from stackwright.domain.host import Gpu, Host
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.shape import Shape
from stackwright.engines.memory.gpu import memory_on
from stackwright.engines.protocol import Engine

# A group is preferred to a larger one only if a request of this length, or the model's own, still fits on it.
COMFORTABLE_TOKENS = 8192
# What is asked of an engine whose memory nobody can forecast: few requests at once, and its own search for the length.
CAUTIOUS_SEQS = 16
# Of a GPU's memory whose accounting is not to be trusted (WSL, unified memory), advice and defaults take no more than
# this.
DOUBTFUL_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the settings must keep: the environment's wishes and the person's pins; None is free to choose."""

    utilization: float
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A placement that holds the model, and the settings that do; `warnings` where the forecast is uncertain.

    `solution.settings.max_model_len` None: the engine is to search for the longest length itself.
    """

    placement: Placement
    solution: Solution
    warnings: tuple[str, ...] = ()

    @property
    def forecast(self) -> Forecast:
        """Return the forecast of the settings."""
        return self.solution.forecast


def choose_layout(
    engine: Engine,
    options: Iterable[tuple[Placement, Wanted]],
    facts: ModelFacts,
    host: Host,
    catalog: Catalog,
    version: str,
    objective: Objective | None,
) -> tuple[Layout | None, tuple[str, ...]]:
    """Return the first placement that is enough for the objective, else the best of them; None where nothing fits.

    With None come the forecast's words on the roomiest one. Beyond an island is looked only where no placement inside
    holds long requests; for `context`, requests as long as the model's own.
    """
    shape = facts.config.shape
    best: Layout | None = None
    words: tuple[str, ...] = ()
    most_ranks = 0
    for placement, wanted in options:
        if best is not None and not placement.inside_island and _is_long(best, shape, wanted, objective):
            break
        found, said = _try(engine, placement, wanted, facts, shape, host, catalog, version, objective)
        ranks = placement.tensor_parallel * placement.pipeline_parallel
        if found is None:
            words, most_ranks = (said, ranks) if ranks >= most_ranks else (words, most_ranks)
            continue
        if _is_enough(found, shape, wanted, objective):
            return found, ()
        if best is None or _worth(found, shape, wanted, objective) > _worth(best, shape, wanted, objective):
            best = found
    return best, words


def fits_somewhere(
    engine: Engine, placement: Placement, facts: ModelFacts, gpu: GpuMemory, version: str, utilization: float
) -> bool | None:
    """Say quickly whether a modest service of the model fits on a placement; None where nobody can know."""
    found = serves(engine, placement, facts, gpu, Wanted(utilization=utilization), version, None)
    return None if found is None else found > 0


def serves(
    engine: Engine,
    placement: Placement,
    facts: ModelFacts,
    gpu: GpuMemory,
    wanted: Wanted,
    version: str,
    objective: Objective | None,
) -> int | None:
    """Say quickly how long a request, in tokens, a placement serves: 0 where none of use fits, None where nobody can
    know.

    For `context` that is the longest that any settings hold, else what a modest service has room for.
    """
    if facts.weight_bytes is None:
        return None
    ranks = placement.tensor_parallel * placement.pipeline_parallel
    if facts.weight_bytes > ranks * gpu.total_bytes * wanted.utilization:
        return 0
    shape = facts.config.shape
    asked = _asked(placement, wanted, version)
    useful = wanted.max_model_len or min(COMFORTABLE_TOKENS, shape.default_length or COMFORTABLE_TOKENS)
    if objective is Objective.CONTEXT:
        longest = engine.longest_request(shape, asked, gpu, facts.weights)
        return longest if longest >= useful else 0
    modest = replace(_modest(asked), max_model_len=useful)
    answer = engine.forecast(shape, modest, gpu, facts.weights)
    if answer.verdict is Verdict.UNCERTAIN:
        return None
    return answer.surely if answer.verdict is Verdict.FITS else 0


def smallest_memory(gpus: tuple[Gpu, ...], host: Host, catalog: Catalog) -> GpuMemory | None:
    """Return the memory of the GPU with the least of it free, as CUDA sees it; None where none is known."""
    known = [seen for gpu in gpus if (seen := memory_on(host, gpu, catalog.find_gpu(gpu.name))) is not None]
    return min(known, key=lambda memory: memory.total_bytes - memory.used_bytes, default=None)


def as_if_sure(memory: GpuMemory, utilization: float) -> tuple[GpuMemory, float]:
    """Return memory that nobody can forecast surely as one that is so, with room to be wrong; other memory as it is."""
    if not (memory.wsl or memory.unified):
        return memory, utilization
    return replace(memory, wsl=False, unified=False), utilization * DOUBTFUL_SHARE


def _try(
    engine: Engine,
    placement: Placement,
    wanted: Wanted,
    facts: ModelFacts,
    shape: Shape,
    host: Host,
    catalog: Catalog,
    version: str,
    objective: Objective | None,
) -> tuple[Layout | None, tuple[str, ...]]:
    gpu = smallest_memory(placement.gpus, host, catalog)
    if gpu is None:
        return None, ("the memory of these GPUs is unknown",)
    asked = _asked(placement, wanted, version)
    solution = engine.solve(shape, asked, gpu, facts.weights, objective or Objective.THROUGHPUT)
    if solution is not None:
        found = Layout(placement=placement, solution=solution, warnings=solution.forecast.warnings)
        if shape.is_encoder and _may_search(engine, asked):
            # The engine takes less than the configuration says where the files beside it do (0.32.0 config/model.py,
            # _get_and_verify_max_len, encoder_config), and does not start with more.
            found = replace(found, solution=_searching(solution))
        return found, ()
    return _cautious(engine, placement, asked, shape, gpu, facts)


def _may_search(engine: Engine, asked: EngineSettings) -> bool:
    """Say whether the engine may find the longest context itself: no length is asked for, and its release can."""
    return asked.max_model_len is None and engine.finds_context(asked.version or "")


def _searching(solution: Solution) -> Solution:
    return replace(solution, settings=replace(solution.settings, max_model_len=None))


def _asked(placement: Placement, wanted: Wanted, version: str) -> EngineSettings:
    return EngineSettings(
        version=version,
        tensor_parallel=placement.tensor_parallel,
        pipeline_parallel=placement.pipeline_parallel,
        gpu_memory_utilization=wanted.utilization,
        max_model_len=wanted.max_model_len,
        max_num_seqs=wanted.max_num_seqs,
        max_num_batched_tokens=wanted.max_num_batched_tokens,
        kv_cache_dtype=wanted.kv_cache_dtype or "auto",
    )


def _modest(asked: EngineSettings) -> EngineSettings:
    """Return settings that ask for little, where the person left them open."""
    return replace(
        asked,
        max_num_seqs=asked.max_num_seqs or CAUTIOUS_SEQS,
        max_num_batched_tokens=asked.max_num_batched_tokens or 2048,
    )


def _cautious(
    engine: Engine,
    placement: Placement,
    asked: EngineSettings,
    shape: Shape,
    gpu: GpuMemory,
    facts: ModelFacts,
) -> tuple[Layout | None, tuple[str, ...]]:
    """Where no forecast can be sure, take modest settings and say so; where it is sure that nothing fits, refuse."""
    length = asked.max_model_len or min(COMFORTABLE_TOKENS, shape.default_length or COMFORTABLE_TOKENS)
    modest = replace(_modest(asked), max_model_len=length)
    answer = engine.forecast(shape, modest, gpu, facts.weights)
    if answer.verdict is Verdict.DOES_NOT_FIT:
        return None, answer.reasons
    sentence, solution = "this may not fit", Solution(settings=modest, forecast=answer)
    if _may_search(engine, asked):
        sentence += "; the engine searches for the longest context at start"
        solution = _searching(solution)
    return Layout(placement=placement, solution=solution, warnings=(sentence, *answer.warnings)), ()


def _is_enough(layout: Layout, shape: Shape, wanted: Wanted, objective: Objective | None) -> bool:
    """Tell whether no other group is looked at: requests are long, and unless one answer is to come soon there is room.

    The cache has room where it is at least as large as the weights: where it is smaller, a copy of them less would more
    than pay for it. Nothing reaches across islands for that.
    """
    memory = layout.forecast.memory
    roomy = shape.is_encoder or memory.kv_cache_bytes >= memory.weights_bytes
    needless = objective is Objective.LATENCY or not layout.placement.inside_island
    return _is_long(layout, shape, wanted, objective) and (roomy or needless)


def _worth(layout: Layout, shape: Shape, wanted: Wanted, objective: Objective | None) -> tuple[bool, int, int]:
    """Return what is compared where no layout is enough.

    Long requests, how long where that counts, all caches together.
    """
    by_length = objective in (Objective.CONTEXT, Objective.LATENCY)
    tokens = len(layout.placement.groups) * layout.forecast.memory.kv_cache_tokens
    return _is_long(layout, shape, wanted, objective), _length(layout) if by_length else 0, tokens


def _is_long(layout: Layout, shape: Shape, wanted: Wanted, objective: Objective | None) -> bool:
    """Tell whether requests are as long as is asked for; for `context` as long as the model allows."""
    whole = wanted.max_model_len or shape.default_length or COMFORTABLE_TOKENS
    return _length(layout) >= (whole if objective is Objective.CONTEXT else min(COMFORTABLE_TOKENS, whole))


def _length(layout: Layout) -> int:
    return layout.forecast.max_model_len
