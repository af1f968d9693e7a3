"""A real start beside the forecast of it, line by line. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.forecast import Forecast, ObservedStart, RememberedStart
from stackwright.domain.plan import Memory


class ComparedLine(Struct, frozen=True, kw_only=True):
    """One figure: what the engine printed and what was forecast, in `unit`; None where the log does not print it."""

    name: str
    unit: str
    measured: float | None
    forecast: float

    @property
    def difference(self) -> float | None:
        """How much more was forecast than measured."""
        return None if self.measured is None else self.forecast - self.measured

    @property
    def percent(self) -> float | None:
        """The difference in per cent of what was measured; None of nothing."""
        return None if self.difference is None or not self.measured else 100 * self.difference / self.measured


def compare(observed: ObservedStart, memory: Memory) -> tuple[ComparedLine, ...]:
    """Return every figure that a forecast has, with what the log says of it; sizes are those of the fullest rank."""
    seen, tokens = observed.measured, _served_tokens(observed)
    # What the engine charges is its estimate where it prints one.
    graphs = seen.graph_estimate_bytes if seen.graph_estimate_bytes is not None else seen.cuda_graph_bytes
    per_token = seen.kv_cache_bytes / tokens if seen.kv_cache_bytes and tokens else None
    # A start that found everything compiled is compared with the forecast of such a one.
    more = (memory.later_kv_cache_bytes or memory.kv_cache_bytes) - memory.kv_cache_bytes
    more = more if observed.cold is False else 0
    rows: tuple[tuple[str, str, float | None, float], ...] = (
        ("weights", "bytes", seen.weights_bytes, memory.weights_bytes),
        ("activations", "bytes", seen.activation_bytes, memory.activation_bytes - more),
        ("CUDA graphs", "bytes", graphs, memory.cuda_graph_bytes),
        ("outside PyTorch", "bytes", seen.overhead_bytes, memory.overhead_bytes),
        ("KV cache", "bytes", seen.kv_cache_bytes, memory.kv_cache_bytes + more),
        ("KV cache tokens", "tokens", tokens, memory.kv_cache_tokens),
        ("KV cache per token", "bytes", per_token, memory.kv_bytes_per_token),
        ("concurrency", "requests", seen.max_concurrency, memory.max_concurrency),
        ("the engine's share", "bytes", seen.budget_bytes, memory.budget_bytes),
        ("total", "bytes", seen.total_bytes, memory.total_bytes),
    )
    return tuple(
        ComparedLine(name=name, unit=unit, measured=measured, forecast=forecast)
        for name, unit, measured, forecast in rows
    )


def _served_tokens(observed: ObservedStart) -> float | None:
    """Return the tokens as a forecast counts them, requests at once × their length: releases print other figures too.

    The printed figure is taken where it is that product, since it is the more exact one.
    """
    printed, at_once = observed.measured.kv_cache_tokens, observed.measured.max_concurrency
    length = observed.settings.max_model_len
    if at_once is None or length is None:
        return printed
    product = round(at_once * length)
    rounding = 0.005 * length + 1
    return printed if printed is not None and abs(printed - product) <= rounding else product


def confirm(answer: Forecast, seen: tuple[RememberedStart, ...], version: str | None, ranks: int) -> Forecast:
    """Return a processor's forecast with the cache that the same settings had on this host; as it is without such.

    The cache's size is given there, so the same size and length make the same start.
    """
    for each in seen:
        start = each.start
        asked = (version, ranks, answer.max_model_len, answer.memory.kv_cache_bytes)
        shown = (start.settings.version, start.settings.ranks, start.settings.max_model_len)
        if not start.on_processor or asked != (*shown, start.measured.kv_cache_bytes):
            continue
        tokens, at_once = start.measured.kv_cache_tokens, start.measured.max_concurrency
        if tokens is not None and at_once is not None:
            memory = replace(answer.memory, kv_cache_tokens=tokens, max_concurrency=at_once)
            basis = f"KV cache measured on this host on {each.date}"
            return replace(answer, memory=memory, basis=basis, reasons=(*answer.reasons, basis))
    return answer
