"""Will these settings fit: the memory of the fullest rank, the verdict, and its reasons. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.forecast import CAME_UP, EngineSettings, Forecast, GpuMemory, Term, Verdict
from stackwright.domain.plan import Memory
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.vllm.memory.account import Account, account
from stackwright.engines.vllm.memory.kv_cache import KvCacheLayout
from stackwright.engines.vllm.memory.reasons import reasons, refusals, warnings
from stackwright.engines.vllm.memory.releases import release_of, rules_of
from stackwright.engines.vllm.memory.weights import stage_weights

# One release of each set of rules, for an engine whose release nobody names.
_REPRESENTATIVE = ("0.11.0", "0.19.0", "0.25.0", "0.33.0")


def forecast(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    *,
    tensors: tuple[TensorHeader, ...] | None = None,
    weight_bytes: int | None = None,
    weights: tuple[Term, ...] | None = None,
) -> Forecast:
    """Forecast the memory of the fullest rank, and whether one request of the asked length fits.

    Args:
        shape: the model.
        settings: the engine's settings; None among them is the engine's own default. Without a release, the rules of
            several are compared.
        gpu: the smallest GPU of the group.
        tensors: the checkpoint's safetensors headers, where they are at hand.
        weight_bytes: the checkpoint's published size, used without headers.
        weights: of each stage by the rules of the settings' release, where they are counted already; lengths, batches
            and the cache's format do not change them.
    """
    if rules_of(settings.version).known or settings.legacy_engine:
        weights = weights or stage_weights(shape, settings, gpu, release_of(settings, gpu), tensors, weight_bytes)
        answer = _answer(account(shape, settings, gpu, weights))
        if not answer.basis:
            return answer
        alone = _answer(account(shape, settings, replace(gpu, seen=()), weights)).verdict
        said = f"without what this host showed the forecast would be: {alone.replace('-', ' ')}"
        return answer if alone is answer.verdict else replace(answer, warnings=(*answer.warnings, said))
    guesses = [replace(settings, version=version) for version in _REPRESENTATIVE]
    counted = (stage_weights(shape, guess, gpu, release_of(guess, gpu), tensors, weight_bytes) for guess in guesses)
    return _merged([_answer(account(shape, guess, gpu, terms)) for guess, terms in zip(guesses, counted, strict=True)])


class Prospect(Struct, frozen=True, kw_only=True):
    """What a search for settings asks of a forecast. `surely`: as there; 0 of what fits, where nobody asks."""

    verdict: Verdict
    surely: int


def prospect(shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: tuple[Term, ...]) -> Prospect:
    """Return the verdict alone of `forecast` for a known release: a search asks dozens of times for one plan."""
    made = account(shape, settings, gpu, weights)
    verdict = _verdict(made, _refused(made))
    return Prospect(verdict=verdict, surely=0 if verdict is Verdict.FITS else _surely(made))


def is_doubtful(shape: Shape, gpu: GpuMemory) -> bool:
    """Return whether no forecast can be sure, whatever the settings."""
    return gpu.unified or gpu.wsl or bool(shape.unknown)


def bytes_per_token(layout: KvCacheLayout, stage: int, max_model_len: int) -> float:
    """Return what one token takes of the pool on one stage: one request's blocks, spread over its tokens.

    For layers of one kind this is their bytes per token; for mixed ones it depends on the length.
    """
    if not layout.groups:
        return 0.0
    if len(layout.groups) == 1 and not layout.groups[0].spec.window:
        return layout.block_bytes[stage] / layout.groups[0].spec.block_tokens
    return layout.block_bytes[stage] * layout.blocks_for(max_model_len) / max_model_len


def _answer(made: Account) -> Forecast:
    stage, room = made.stages[made.fullest], made.rooms()[made.fullest]
    blocks, length = made.layout.pool_blocks(made.rooms()), made.settings.max_model_len
    per_request = made.layout.blocks_for(length)
    at_once = blocks / per_request if per_request else 0.0
    if made.seen is not None and made.seen.exact and made.seen.measured.max_concurrency is not None:
        at_once = made.seen.measured.max_concurrency
    refused = _refused(made)
    verdict = _verdict(made, refused)
    return Forecast(
        verdict=verdict,
        memory=Memory(
            total_bytes=made.gpu.total_bytes,
            budget_bytes=made.budget_bytes,
            weights_bytes=stage.weights.bytes,
            activation_bytes=stage.first_activation.bytes,
            cuda_graph_bytes=stage.graphs.bytes,
            overhead_bytes=stage.overhead.bytes,
            kv_cache_bytes=room if made.layout.groups else 0,
            later_kv_cache_bytes=_later(made),
            kv_bytes_per_token=bytes_per_token(made.layout, made.fullest, length),
            kv_cache_tokens=int(at_once * length),
            max_concurrency=round(at_once, 2),
            uncertainty_bytes=stage.error_bytes,
            verdict=verdict.value,
        ),
        reasons=(*refused, *reasons(made)),
        warnings=warnings(made, verdict),
        max_model_len=length,
        longest=made.layout.longest(blocks, made.shape.max_positions or length),
        surely=_surely(made),
        basis=made.seen.words if made.seen else "",
        refused=refused,
        running=made.layout.running(made.layout.pool_blocks(made.rooms(-1))) if made.layout.keeps_states else None,
    )


def _surely(made: Account) -> int:
    limit = made.shape.max_positions or made.settings.max_model_len
    return made.layout.longest(made.layout.pool_blocks(made.rooms(-1)), limit)


def _later(made: Account) -> int | None:
    """Return the cache of a start that finds everything compiled; None where the first start has as much."""
    stage = made.stages[made.fullest]
    same = stage.first_activation.bytes == stage.activation.bytes
    return None if same or not made.layout.groups else made.rooms(later=True)[made.fullest]


def _refused(made: Account) -> tuple[str, ...]:
    return refusals(made.shape, made.settings, made.settings.max_model_len, made.gpu.compute_capability)


def _verdict(made: Account, refused: tuple[str, ...]) -> Verdict:
    """Return the verdict; a `fits` turns `uncertain` where the facts say that nobody can know before the start."""
    if refused or not made.enough_is_free:
        return Verdict.DOES_NOT_FIT
    if made.seen is not None and made.seen.exact:
        return Verdict.FITS if made.seen.outcome == CAME_UP else Verdict.DOES_NOT_FIT
    needed = made.needed_bytes
    if not _suffices(made, made.rooms(1), needed) or not made.outside_fits(-1) or not made.trial_fits(-1):
        return Verdict.DOES_NOT_FIT
    doubtful = is_doubtful(made.shape, made.gpu) or not made.outside_fits(1) or not made.trial_fits(1)
    # The first engine profiled an image for every sequence that it could take: 37 GiB for an 11B model in one log.
    doubtful = doubtful or (made.release.first_engine and made.shape.vision is not None)
    return Verdict.FITS if not doubtful and _suffices(made, made.rooms(-1), needed) else Verdict.UNCERTAIN


def _suffices(made: Account, rooms: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Compare what is left with what one request needs; models with a state need a block for each of all requests."""
    if min(rooms) <= 0 or any(room < least for room, least in zip(rooms, needed, strict=True)):
        return False
    return not made.layout.keeps_states or made.layout.pool_blocks(rooms) >= made.settings.max_num_seqs


def _merged(guesses: list[Forecast]) -> Forecast:
    """Answer for a release that is not known: firm only where every set of rules says the same."""
    ordered = sorted(guesses, key=lambda guess: guess.memory.kv_cache_bytes)
    middle, least, most = ordered[len(ordered) // 2], ordered[0].memory, ordered[-1].memory
    verdicts = {guess.verdict for guess in guesses}
    verdict = verdicts.pop() if len(verdicts) == 1 else Verdict.UNCERTAIN
    error = max(
        most.kv_cache_bytes + most.uncertainty_bytes - middle.memory.kv_cache_bytes,
        middle.memory.kv_cache_bytes - least.kv_cache_bytes + least.uncertainty_bytes,
    )
    return replace(
        middle,
        verdict=verdict,
        longest=min(guess.longest for guess in guesses),
        surely=min(guess.surely for guess in guesses),
        memory=replace(middle.memory, uncertainty_bytes=error, verdict=verdict.value),
        warnings=("the engine's release is unknown: several releases are compared", *middle.warnings),
    )
