"""The best settings that fit: length, requests at once, tokens in a step and the cache's number format. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from msgspec.structs import replace

from stackwright.domain.forecast import COMFORTABLE_TOKENS, EngineSettings, Forecast, GpuMemory, Solution, Verdict
from stackwright.domain.objective import Objective
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.vllm.memory.defaults import batch_defaults
from stackwright.engines.vllm.memory.forecast import Prospect, forecast, is_doubtful, prospect
from stackwright.engines.vllm.memory.releases import rules_of
from stackwright.engines.vllm.memory.weights import stage_weights

# Below these a server is of little use: shorter than a page of text with its answer, or one request after the other.
SHORTEST_USEFUL = 2048
_LENGTH_STEP = 256
# Requests at once and tokens in a step are halved from the engine's own default for that GPU, which its makers tuned,
# down to these; the profile run's peak grows with both.
_FEWEST_SEQS, _FEWEST_TOKENS = 4, 1024
# What the engine takes at once on most GPUs. More of them pay only where the cache is large: not where it costs length.
_USUAL_SEQS = 256
# Where each answer is to come soon, more at once only make every one of them wait.
_LATENCY_SEQS = 64

Ask = Callable[[EngineSettings], Prospect]


class _Choice(NamedTuple):
    """What may be chosen beside the length: the cache's format, requests at once, and tokens in a step."""

    cache_format: str
    requests: int
    step_tokens: int


def solve(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    *,
    aim: Objective = Objective.THROUGHPUT,
    tensors: tuple[TensorHeader, ...] | None = None,
    weight_bytes: int | None = None,
) -> Solution | None:
    """Return the best settings that surely fit; None where none do.

    What `settings` gives is kept; only what it leaves open (None) is chosen. The length is the longest that fits, at
    most the model's own; the aim `context` takes it before requests and tokens in a step, the others only before more
    requests than are usual, and as long as `COMFORTABLE_TOKENS` cannot be had with more of those. A smaller format of
    the cache is taken where the model's own leaves less than `SHORTEST_USEFUL`.
    """
    if is_doubtful(shape, gpu) and not gpu.seen:
        return None
    ask, tell = _ask_about(shape, settings, gpu, tensors, weight_bytes)
    chosen = _best(shape, settings, _candidates(shape, settings, gpu, aim), aim, ask)
    if chosen is None:
        return None
    answer = tell(chosen)
    bounded = answer.running is not None and 0 < answer.running < (chosen.max_num_seqs or 0)
    if settings.max_num_seqs is None and bounded:
        chosen = replace(chosen, max_num_seqs=answer.running)
        answer = tell(chosen)
    return Solution(
        settings=chosen,
        forecast=answer,
        given_up=_given_up(shape, settings, chosen),
        fewer_requests=settings.max_num_seqs is None and bounded,
    )


def _best(
    shape: Shape, settings: EngineSettings, candidates: list[_Choice], aim: Objective, ask: Ask
) -> EngineSettings | None:
    """Return the first candidate that is enough, else the one with the longest context; None where none fits."""
    tried: list[EngineSettings] = []
    for candidate in _worth_trying(shape, settings, candidates, aim, ask):
        smaller = bool(tried) and candidate.cache_format != tried[-1].kv_cache_dtype
        if smaller and aim is not Objective.CONTEXT and _length(_longest_of(tried, ask)) >= SHORTEST_USEFUL:
            break
        expected = _expected(shape, settings, candidate, ask)
        if expected is None:
            continue
        tried.append(expected)
        whole = settings.max_model_len or shape.default_length or SHORTEST_USEFUL
        many = settings.max_num_seqs is None and candidate.requests > _USUAL_SEQS
        enough = whole if aim is Objective.CONTEXT or many else min(COMFORTABLE_TOKENS, whole)
        if _length(expected) >= enough and ask(expected).verdict is Verdict.FITS:
            break
    return _longest_of(tried, ask)


def _longest_of(tried: list[EngineSettings], ask: Ask) -> EngineSettings | None:
    """Return the settings with the longest context that surely fits; of equal ones the first."""
    by_length = sorted(tried, key=_length, reverse=True)
    return next((each for each in by_length if ask(each).verdict is Verdict.FITS), None)


def longest_request(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    *,
    tensors: tuple[TensorHeader, ...] | None = None,
    weight_bytes: int | None = None,
) -> int:
    """Return the length, in tokens, that the most frugal settings surely hold; 0 where they hold none.

    `solve` with the aim `context` finds no longer one, and takes several times as long.
    """
    ask, _ = _ask_about(shape, settings, gpu, tensors, weight_bytes)
    frugal = _most_frugal(_candidates(shape, settings, gpu, Objective.CONTEXT))
    return max(_length(_longest(shape, settings, each, ask)) for each in frugal)


def _ask_about(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    tensors: tuple[TensorHeader, ...] | None,
    weight_bytes: int | None,
) -> tuple[Ask, Callable[[EngineSettings], Forecast]]:
    """Return the verdict, and the forecast, for settings that differ from these in length, batches and cache format.

    Weights are counted once.
    """
    release = rules_of(settings.version, legacy_engine=settings.legacy_engine)
    counted = release.known or settings.legacy_engine
    weights = stage_weights(shape, settings, gpu, release, tensors, weight_bytes) if counted else None

    def tell(asked: EngineSettings) -> Forecast:
        return forecast(shape, asked, gpu, tensors=tensors, weight_bytes=weight_bytes, weights=weights)

    @cache
    def ask(asked: EngineSettings) -> Prospect:
        if weights is not None:
            return prospect(shape, asked, gpu, weights)
        told = tell(asked)
        return Prospect(verdict=told.verdict, surely=told.surely)

    return ask, tell


def _worth_trying(
    shape: Shape, settings: EngineSettings, candidates: list[_Choice], aim: Objective, ask: Ask
) -> Iterator[_Choice]:
    """Yield what may be the answer, the most useful first: nothing more where the most frugal settings do not fit.

    Where the whole length cannot be had, the longest context is that of the most frugal settings.
    """
    if aim is not Objective.CONTEXT:
        yield candidates[0]  # on most GPUs it is enough
    frugal = _most_frugal(candidates)
    longest = [_length(found) for each in frugal if (found := _longest(shape, settings, each, ask))]
    if not longest:
        return
    if aim is not Objective.CONTEXT:
        yield from candidates[1:]
    elif max(longest) == (shape.default_length or max(longest)):
        yield from candidates
    else:
        yield from frugal


def _most_frugal(candidates: list[_Choice]) -> list[_Choice]:
    """Return the last candidate of each of the cache's formats: a smaller one has kernels whose memory is less sure."""
    return list({candidate.cache_format: candidate for candidate in candidates}.values())


def _candidates(shape: Shape, settings: EngineSettings, gpu: GpuMemory, aim: Objective) -> list[_Choice]:
    """Return what may be chosen, from the most useful to the most frugal."""
    most_tokens, most_seqs = batch_defaults(gpu, rules_of(settings.version))
    most_seqs = min(most_seqs, _LATENCY_SEQS) if aim is Objective.LATENCY else most_seqs
    seqs = (settings.max_num_seqs,) if settings.max_num_seqs else _halved(most_seqs, _FEWEST_SEQS)
    if settings.max_num_batched_tokens and not settings.max_num_seqs:  # a step has a token for each request at least
        seqs = tuple(dict.fromkeys(min(many, settings.max_num_batched_tokens) for many in seqs))
    # Written out, a step loses the engine's own floor: one picture or film that is seen at once has to fit into it.
    least = max(shape.least_step_tokens, settings.max_num_seqs or 0)
    steps = dict.fromkeys(max(step, least) for step in _halved(most_tokens, _FEWEST_TOKENS))
    tokens = (settings.max_num_batched_tokens,) if settings.max_num_batched_tokens else tuple(steps)
    formats = settings.cache_formats if settings.kv_cache_dtype == "auto" else (settings.kv_cache_dtype,)
    return [_Choice(kv_cache_dtype, many, step) for kv_cache_dtype in formats for many in seqs for step in tokens]


def _halved(most: int, fewest: int) -> tuple[int, ...]:
    """Return `most`, its half, and so on down to `fewest`."""
    return tuple(most >> step for step in range(most.bit_length()) if most >> step >= fewest)


def _longest(shape: Shape, settings: EngineSettings, choice: _Choice, ask: Ask) -> EngineSettings | None:
    """Return the settings of a choice with the greatest length, in steps of 256 tokens, that surely fits."""
    expected = _expected(shape, settings, choice, ask)
    return expected if expected is not None and ask(expected).verdict is Verdict.FITS else None


def _expected(shape: Shape, settings: EngineSettings, choice: _Choice, ask: Ask) -> EngineSettings | None:
    """Return the same settings, of which it is not asked yet whether a length below the whole one fits."""
    limit = settings.max_model_len or shape.default_length or SHORTEST_USEFUL
    whole = replace(
        settings,
        max_model_len=limit,
        max_num_seqs=choice.requests,
        max_num_batched_tokens=choice.step_tokens,
        kv_cache_dtype=choice.cache_format,
    )
    answer = ask(whole)
    if answer.verdict is Verdict.FITS:
        return whole
    # What is left for the cache does not depend on the length, so the greatest one is known from the first answer.
    length = min(answer.surely, limit) // _LENGTH_STEP * _LENGTH_STEP
    return replace(whole, max_model_len=length) if settings.max_model_len is None and length else None


def _length(settings: EngineSettings | None) -> int:
    return (settings and settings.max_model_len) or 0


def _given_up(shape: Shape, asked: EngineSettings, chosen: EngineSettings) -> tuple[str, ...]:
    found = []
    whole = asked.max_model_len or shape.default_length
    if chosen.max_model_len and whole and chosen.max_model_len < whole:
        found.append(f"context of {chosen.max_model_len:,} tokens instead of {whole:,}")
    if chosen.kv_cache_dtype != asked.kv_cache_dtype:
        found.append(f"KV cache in {chosen.kv_cache_dtype} instead of the model's format")
    return tuple(found)
