"""The best settings that fit: length, requests at once, tokens in a step and the cache's number format. Pure."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from stackwright.domain.forecast import COMFORTABLE_TOKENS, EngineSettings, Forecast, GpuMemory, Solution, Verdict
from stackwright.domain.objective import Objective
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.vllm.memory.defaults import batch_defaults
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.engines.vllm.memory.releases import Release
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
SMALLER_CACHE = "fp8"
# FP8 needs a tensor core that knows it, or Ampere's conversion (vLLM 0.32.0 platforms/cuda.py, supports_fp8: 8.9).
FP8_CAPABILITY = (8, 9)

Ask = Callable[[EngineSettings], Forecast]


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
    found: Solution | None = None
    ask = _ask_about(shape, settings, gpu, tensors, weight_bytes)
    for candidate in _worth_trying(_candidates(shape, settings, gpu, aim), aim, shape, ask):
        if aim is not Objective.CONTEXT and found is not None and _is_smaller(candidate, found):
            return found
        longest = _longest(shape, candidate, ask)
        if longest is None:
            continue
        chosen, answer = longest
        if found is None or answer.max_model_len > found.forecast.max_model_len:
            found = Solution(settings=chosen, forecast=answer, given_up=_given_up(shape, settings, chosen))
        whole = settings.max_model_len or shape.default_length or SHORTEST_USEFUL
        many = settings.max_num_seqs is None and (candidate.max_num_seqs or 0) > _USUAL_SEQS
        enough = whole if aim is Objective.CONTEXT or many else min(COMFORTABLE_TOKENS, whole)
        if answer.max_model_len >= enough:
            return found
    return found


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
    ask = _ask_about(shape, settings, gpu, tensors, weight_bytes)
    frugal = _most_frugal(_candidates(shape, settings, gpu, Objective.CONTEXT))
    return max((found[1].max_model_len for each in frugal if (found := _longest(shape, each, ask))), default=0)


def _ask_about(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    tensors: tuple[TensorHeader, ...] | None,
    weight_bytes: int | None,
) -> Ask:
    """Return the forecast for settings that differ from these in length, batches and the cache's format.

    Weights are counted once.
    """
    release = Release(settings.version, legacy_engine=settings.legacy_engine)
    counted = release.known or settings.legacy_engine
    weights = stage_weights(shape, settings, gpu, release, tensors, weight_bytes) if counted else None

    def ask(asked: EngineSettings) -> Forecast:
        return forecast(shape, asked, gpu, tensors=tensors, weight_bytes=weight_bytes, weights=weights)

    return ask


def _worth_trying(candidates: list[EngineSettings], aim: Objective, shape: Shape, ask: Ask) -> list[EngineSettings]:
    """Leave out what cannot be the answer: nothing can be where the most frugal settings do not fit.

    Where the whole length cannot be had, the longest context is that of the most frugal settings.
    """
    frugal = _most_frugal(candidates)
    longest = [found[1].max_model_len for each in frugal if (found := _longest(shape, each, ask))]
    if not longest:
        return []
    whole = max(longest) == (shape.default_length or max(longest))
    return frugal if aim is Objective.CONTEXT and not whole else candidates


def _most_frugal(candidates: list[EngineSettings]) -> list[EngineSettings]:
    """Return the last candidate of each of the cache's formats: a smaller one has kernels whose memory is less sure."""
    return list({candidate.kv_cache_dtype: candidate for candidate in candidates}.values())


def _candidates(shape: Shape, settings: EngineSettings, gpu: GpuMemory, aim: Objective) -> list[EngineSettings]:
    """Return settings from the most useful to the most frugal."""
    most_tokens, most_seqs = batch_defaults(gpu, Release(settings.version))
    most_seqs = min(most_seqs, _LATENCY_SEQS) if aim is Objective.LATENCY else most_seqs
    seqs = (settings.max_num_seqs,) if settings.max_num_seqs else _halved(most_seqs, _FEWEST_SEQS)
    # Written out, a step loses the engine's own floor: one picture or film that is seen at once has to fit into it.
    steps = dict.fromkeys(max(step, shape.least_step_tokens) for step in _halved(most_tokens, _FEWEST_TOKENS))
    tokens = (settings.max_num_batched_tokens,) if settings.max_num_batched_tokens else tuple(steps)
    formats = ["auto"] if settings.kv_cache_dtype == "auto" else [settings.kv_cache_dtype]
    able = settings.smaller_cache and gpu.compute_capability and gpu.compute_capability >= FP8_CAPABILITY
    if settings.kv_cache_dtype == "auto" and able:
        formats.append(SMALLER_CACHE)
    return [
        replace(settings, max_num_seqs=many, max_num_batched_tokens=step, kv_cache_dtype=kv_cache_dtype)
        for kv_cache_dtype in formats
        for many in seqs
        for step in tokens
    ]


def _is_smaller(candidate: EngineSettings, found: Solution) -> bool:
    """Return whether a candidate's cache has a smaller format than what is of use without."""
    another = candidate.kv_cache_dtype != found.settings.kv_cache_dtype
    return another and found.forecast.max_model_len >= SHORTEST_USEFUL


def _halved(most: int, fewest: int) -> tuple[int, ...]:
    """Return `most`, its half, and so on down to `fewest`."""
    return tuple(most >> step for step in range(most.bit_length()) if most >> step >= fewest)


def _longest(shape: Shape, settings: EngineSettings, ask: Ask) -> tuple[EngineSettings, Forecast] | None:
    """Return the settings with the greatest length, in steps of 256 tokens, that surely fits."""
    limit = settings.max_model_len or shape.default_length or SHORTEST_USEFUL
    whole = ask(replace(settings, max_model_len=limit))
    if whole.verdict is Verdict.FITS:
        return replace(settings, max_model_len=limit), whole
    # What is left for the cache does not depend on the length, so the greatest one is known from the first answer.
    shorter = min(whole.surely, limit) // _LENGTH_STEP * _LENGTH_STEP
    if settings.max_model_len is not None or not shorter:
        return None
    answer = ask(replace(settings, max_model_len=shorter))
    return (replace(settings, max_model_len=shorter), answer) if answer.verdict is Verdict.FITS else None


def _given_up(shape: Shape, asked: EngineSettings, chosen: EngineSettings) -> tuple[str, ...]:
    found = []
    whole = asked.max_model_len or shape.default_length
    if chosen.max_model_len and whole and chosen.max_model_len < whole:
        found.append(f"context of {chosen.max_model_len} tokens instead of {whole}")
    if chosen.kv_cache_dtype != asked.kv_cache_dtype:
        found.append(f"KV cache in {chosen.kv_cache_dtype} instead of the model's format")
    return tuple(found)
