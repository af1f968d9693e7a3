"""Choose how the model lies on the GPUs: the first placement on which it fits, with the best settings there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import (
    COMFORTABLE_TOKENS,
    EngineSettings,
    Forecast,
    GpuMemory,
    RememberedStart,
    Solution,
    Verdict,
)
from stackwright.domain.host import Gpu, Host
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.shape import Shape
from stackwright.engines.memory.gpu import memory_on, with_seen
from stackwright.engines.protocol import Engine
from stackwright.errors import NoPlanError

# What is asked of an engine whose memory nobody can forecast: few requests at once, and its own search for the length.
CAUTIOUS_SEQS = 16
# Published sizes and what a forecast makes of them differ by less than this (benchmarks/results/forecast.json).
FAR_MORE = 1.1
# Of a GPU's memory whose accounting is not to be trusted (WSL, unified memory), advice and defaults take no more than
# this.
DOUBTFUL_SHARE = 0.8


class LayoutOption(Struct, frozen=True, kw_only=True):
    """A placement, what its settings must keep of the environment's wishes and the person's pins, and its least memory.

    What `settings` leaves open (None) is free to choose. `gpu`: the one with the least free; None where none is known.
    """

    placement: Placement
    settings: EngineSettings
    gpu: GpuMemory | None


class Unfit(Struct, frozen=True, kw_only=True):
    """Why a placement holds nothing, in words. `refused`: the engine takes the settings with no memory at all."""

    words: tuple[str, ...]
    refused: bool = False


class Layout(Struct, frozen=True, kw_only=True):
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

    @property
    def sure(self) -> bool:
        """Return whether it fits whatever the forecast may miss."""
        return self.forecast.verdict is Verdict.FITS


def choose_layout(
    engine: Engine, options: Iterable[LayoutOption], facts: ModelFacts, objective: Objective | None
) -> Layout | Unfit:
    """Return the first placement that is enough for the objective, else the best of them; Unfit where nothing fits.

    Unfit is the forecast of the roomiest one. A last resort is tried only where no other placement holds long
    requests; for `context`, requests as long as the model's own.
    """
    shape = facts.config.shape
    best: Layout | None = None
    unfit = Unfit(words=())
    most_ranks = 0
    hopeless: LayoutOption | None = None
    for option in options:
        if is_hopeless(option, facts):
            hopeless = option if hopeless is None or option.settings.ranks >= hopeless.settings.ranks else hopeless
            continue
        whole = option.settings.max_model_len or shape.default_length or COMFORTABLE_TOKENS
        if best is not None and option.placement.last_resort and best.sure and _is_long(best, whole, objective):
            break
        found = _try(engine, option, facts, objective)
        if isinstance(found, Unfit):
            if option.settings.ranks >= most_ranks:
                unfit, most_ranks = found, option.settings.ranks
            continue
        if _is_enough(found, shape, whole, objective):
            return found
        if best is None or _worth(found, whole, objective) > _worth(best, whole, objective):
            best = found
    if best is None and hopeless is not None and hopeless.settings.ranks >= most_ranks:
        return _try(engine, hopeless, facts, objective)
    return best or unfit


def is_hopeless(option: LayoutOption, facts: ModelFacts) -> bool:
    """Return whether the published weights alone are far more than the GPUs hold: no forecast is needed to say so."""
    settings = option.settings
    changed = settings.quantization is not None or settings.offload_bytes or settings.language_only
    if option.gpu is None or facts.weight_bytes is None or facts.tensors is not None or changed:
        return False
    return facts.weight_bytes > FAR_MORE * settings.ranks * option.gpu.total_bytes


def serves(
    engine: Engine, settings: EngineSettings, gpu: GpuMemory, facts: ModelFacts, objective: Objective | None
) -> int | None:
    """Return quickly how long a request, in tokens, GPUs like this one serve: 0 where none of use fits.

    None where nobody can know.

    For `context` that is the longest that any settings hold, else what a modest service has room for.
    """
    if facts.weight_bytes is None:
        return None
    if facts.weight_bytes > settings.ranks * gpu.total_bytes * (settings.gpu_memory_utilization or 1):
        return 0
    if facts.computed:
        return None
    shape = facts.config.shape
    useful = settings.max_model_len or min(COMFORTABLE_TOKENS, shape.default_length or COMFORTABLE_TOKENS)
    if objective is Objective.CONTEXT:
        longest = engine.longest_request(shape, settings, gpu, facts.weights)
        return longest if longest >= useful else 0
    answer = engine.forecast(shape, _modest(settings, useful, shape), gpu, facts.weights)
    if answer.verdict is Verdict.UNCERTAIN:
        return None
    return answer.surely if answer.verdict is Verdict.FITS else 0


@lru_cache(maxsize=256)
def smallest_memory(
    gpus: tuple[Gpu, ...], host: Host, catalog: Catalog, seen: tuple[RememberedStart, ...] = ()
) -> GpuMemory | None:
    """Return the memory of the GPU with the least of it free, as CUDA sees it; None where none is known.

    `seen`: the model's earlier starts on this host, of which those on such a GPU count.
    """
    known = [memory for gpu in gpus if (memory := memory_on(host, gpu, catalog.find_gpu(gpu.name))) is not None]
    least = min(known, key=lambda memory: memory.total_bytes - memory.used_bytes, default=None)
    return least and with_seen(least, seen)


def memory_unknown(gpu: Gpu) -> NoPlanError:
    """Make the refusal for a GPU whose memory nobody knows: nothing can be forecast there."""
    return NoPlanError(
        f"the memory of GPU {gpu.index} ({gpu.name or 'unknown model'}) is unknown: the driver does not tell it",
        hint="check `nvidia-smi`, and detect again; until then `configure-gpu cpu`",
    )


def as_if_sure(memory: GpuMemory, settings: EngineSettings) -> tuple[GpuMemory, EngineSettings]:
    """Return memory that nobody can forecast surely as one that is so, with room to be wrong; other memory as it is."""
    if not (memory.wsl or memory.unified):
        return memory, settings
    share = (settings.gpu_memory_utilization or 1) * DOUBTFUL_SHARE
    return replace(memory, wsl=False, unified=False), replace(settings, gpu_memory_utilization=share)


def _try(engine: Engine, option: LayoutOption, facts: ModelFacts, objective: Objective | None) -> Layout | Unfit:
    if option.gpu is None:
        return Unfit(words=("the memory of these GPUs is unknown",))
    shape, asked = facts.config.shape, option.settings
    solution = engine.solve(shape, asked, option.gpu, facts.weights, objective or Objective.THROUGHPUT)
    if solution is None:
        return _cautious(engine, option.placement, asked, option.gpu, facts)
    warnings = (*solution.forecast.warnings, *_warn_of_cache(engine, asked, solution))
    if shape.is_encoder and _may_search(engine, asked):
        # The engine takes less than the configuration says where the files beside it do (0.32.0 config/model.py,
        # _get_and_verify_max_len, encoder_config), and does not start with more.
        solution = _searching(solution)
    return Layout(placement=option.placement, solution=solution, warnings=warnings)


def _warn_of_cache(engine: Engine, asked: EngineSettings, solution: Solution) -> Iterable[str]:
    """Yield what a cache costs that is smaller than the model's own, where nobody asked for it.

    The engine says so itself when it starts (0.32.0 config/cache.py:364; read 2026-11-30).
    """
    chosen = solution.settings.kv_cache_dtype
    if chosen not in (asked.kv_cache_dtype, asked.cache_formats[0]):
        yield (
            f"the KV cache is kept in {chosen}, so that longer requests fit: without scales in the checkpoint answers "
            f"may be worse, most on long inputs; `--set {engine.keys.cache_format}=auto` keeps the model's own format"
        )


def _may_search(engine: Engine, asked: EngineSettings) -> bool:
    """Return whether the engine may find the longest context itself: no length is asked for, and its release can."""
    return asked.max_model_len is None and engine.finds_context(asked.version or "")


def _searching(solution: Solution) -> Solution:
    return replace(solution, settings=replace(solution.settings, max_model_len=None))


def _modest(asked: EngineSettings, length: int, shape: Shape) -> EngineSettings:
    """Return settings that ask for little, where the person left them open; a step takes one whole picture."""
    own = asked.kv_cache_dtype
    return replace(
        asked,
        max_model_len=length,
        kv_cache_dtype=asked.cache_formats[0] if own == "auto" else own,
        max_num_seqs=asked.max_num_seqs or CAUTIOUS_SEQS,
        max_num_batched_tokens=asked.max_num_batched_tokens or max(2048, shape.least_step_tokens),
    )


def _cautious(
    engine: Engine, placement: Placement, asked: EngineSettings, gpu: GpuMemory, facts: ModelFacts
) -> Layout | Unfit:
    """Where no forecast can be sure, take modest settings and say so; where it is sure that nothing fits, refuse."""
    shape = facts.config.shape
    length = asked.max_model_len or min(COMFORTABLE_TOKENS, shape.default_length or COMFORTABLE_TOKENS)
    modest = _modest(asked, length, shape)
    answer = engine.forecast(shape, modest, gpu, facts.weights)
    # The middle of what may be is less than nothing: nobody would call that a service.
    hopeless = answer.memory.kv_cache_bytes < 0 or not (shape.is_encoder or answer.longest)
    if answer.verdict is Verdict.DOES_NOT_FIT or hopeless:
        return Unfit(words=answer.refused or answer.reasons, refused=bool(answer.refused))
    sentence, solution = "this may not fit", Solution(settings=modest, forecast=answer)
    if _may_search(engine, asked):
        sentence += "; the engine searches for the longest context at start"
        solution = _searching(solution)
    return Layout(placement=placement, solution=solution, warnings=(sentence, *answer.warnings))


def _is_enough(layout: Layout, shape: Shape, whole: int, objective: Objective | None) -> bool:
    """Return whether no other group is tried: requests are long, and unless one answer is to come soon there is room.

    The cache has room where it is at least as large as the weights: where it is smaller, a copy of them less would more
    than pay for it. Nothing reaches across islands for that.
    """
    memory = layout.forecast.memory
    roomy = shape.is_encoder or memory.kv_cache_bytes >= memory.weights_bytes
    needless = objective is Objective.LATENCY or layout.placement.last_resort
    return layout.sure and _is_long(layout, whole, objective) and (roomy or needless)


def _worth(layout: Layout, whole: int, objective: Objective | None) -> tuple[bool, bool, int, int]:
    """Return what is compared where no layout is enough.

    What is sure comes before what is not; then long requests, how long where that counts, all caches together.
    """
    by_length = objective in (Objective.CONTEXT, Objective.LATENCY)
    tokens = len(layout.placement.groups) * layout.forecast.memory.kv_cache_tokens
    length = layout.forecast.max_model_len if by_length else 0
    return layout.sure, _is_long(layout, whole, objective), length, tokens


def _is_long(layout: Layout, whole: int, objective: Objective | None) -> bool:
    """Return whether requests are as long as is asked for; for `context` as long as the model allows."""
    least = whole if objective is Objective.CONTEXT else min(COMFORTABLE_TOKENS, whole)
    return layout.forecast.max_model_len >= least
