"""The best settings that fit: length, requests at once, tokens in a step and the cache's number format. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from generator.domain.forecast import EngineSettings, Forecast, GpuMemory, Verdict
from generator.domain.objective import Objective
from generator.domain.shape import Shape
from generator.domain.tensors import TensorHeader
from generator.planning.memory.forecast import forecast
from generator.units import GIB

# Below these a server is of little use: shorter than a page of text with its answer, or one request after the other.
SHORTEST_USEFUL = 2048
_LENGTH_STEP = 256
# Requests at once and tokens in a step that are tried, most first; the profile run's peak grows with both.
_SEQS = (256, 128, 64, 32, 16, 8, 4)
_TOKENS = (8192, 4096, 2048, 1024)
# From here on the engine's own default is 8,192 tokens a step (engine/arg_utils.py, get_batch_defaults).
_LARGE_GPU = 70 * GIB
# FP8 needs a tensor core that knows it, or Ampere's conversion (vLLM 0.32.0 platforms/cuda.py, supports_fp8: 8.9).
_FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Settings that fit, with their forecast, and in words what was given up for it."""

    settings: EngineSettings
    forecast: Forecast
    given_up: tuple[str, ...]


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

    What `settings` gives is kept; only what it leaves open (None) is chosen. The length is the longest that fits, at most
    the model's own; the aim `context` takes it before requests and tokens in a step, the others only as long as
    `SHORTEST_USEFUL` cannot be had with more of those.
    """
    candidates = tuple(_candidates(settings, gpu, aim))
    # Where not even the most frugal settings fit, none of the others need be tried.
    if _longest(shape, candidates[-1], gpu, tensors, weight_bytes) is None:
        return None
    best: Solution | None = None
    for candidate in candidates:
        found = _longest(shape, candidate, gpu, tensors, weight_bytes)
        if found is None:
            continue
        solution = Solution(settings=found[0], forecast=found[1], given_up=_given_up(shape, settings, found[0]))
        if best is None or (aim is Objective.CONTEXT and found[1].max_model_len > best.forecast.max_model_len):
            best = solution
        if aim is not Objective.CONTEXT and found[1].max_model_len >= min(
            SHORTEST_USEFUL, shape.max_positions or SHORTEST_USEFUL
        ):
            return solution
    return best


def _candidates(settings: EngineSettings, gpu: GpuMemory, aim: Objective) -> Iterator[EngineSettings]:
    """Yield settings from the most useful to the most frugal."""
    seqs: tuple[int, ...] = _SEQS if aim is not Objective.LATENCY else _SEQS[2:]
    tokens: tuple[int, ...] = _TOKENS if gpu.total_bytes >= _LARGE_GPU else _TOKENS[2:]
    seqs = (settings.max_num_seqs,) if settings.max_num_seqs else seqs
    tokens = (settings.max_num_batched_tokens,) if settings.max_num_batched_tokens else tokens
    formats = ["auto"] if settings.kv_cache_dtype == "auto" else [settings.kv_cache_dtype]
    if settings.kv_cache_dtype == "auto" and gpu.compute_capability and gpu.compute_capability >= _FP8_CAPABILITY:
        formats.append("fp8")
    for kv_cache_dtype in formats:
        for many in seqs:
            for step in tokens:
                yield replace(settings, max_num_seqs=many, max_num_batched_tokens=step, kv_cache_dtype=kv_cache_dtype)


def _longest(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    tensors: tuple[TensorHeader, ...] | None,
    weight_bytes: int | None,
) -> tuple[EngineSettings, Forecast] | None:
    """Return the settings with the greatest length, in steps of 256 tokens, that surely fits."""

    def ask(length: int) -> Forecast:
        return forecast(shape, replace(settings, max_model_len=length), gpu, tensors=tensors, weight_bytes=weight_bytes)

    limit = settings.max_model_len or shape.default_length or SHORTEST_USEFUL
    whole = ask(limit)
    if whole.verdict is Verdict.FITS or settings.max_model_len is not None:
        return (replace(settings, max_model_len=limit), whole) if whole.verdict is Verdict.FITS else None
    low, high, found = 1, limit // _LENGTH_STEP, None
    while low <= high:
        middle = (low + high) // 2
        answer = ask(middle * _LENGTH_STEP)
        if answer.verdict is Verdict.FITS:
            low, found = middle + 1, answer
        else:
            high = middle - 1
    return None if found is None else (replace(settings, max_model_len=found.max_model_len), found)


def _given_up(shape: Shape, asked: EngineSettings, chosen: EngineSettings) -> tuple[str, ...]:
    found = []
    whole = asked.max_model_len or shape.default_length
    if chosen.max_model_len and whole and chosen.max_model_len < whole:
        found.append(f"requests of {chosen.max_model_len} tokens instead of {whole}")
    if chosen.kv_cache_dtype != asked.kv_cache_dtype:
        found.append(f"a cache in {chosen.kv_cache_dtype} instead of the model's own format")
    return tuple(found)
