"""From the figures that engines tell in Prometheus' text form to how each model fares. Pure.

The form: prometheus.io/docs/instrumenting/exposition_formats (2026-11). Quantiles are those of Prometheus'
`histogram_quantile`: between two bounds of a histogram, values are taken to lie evenly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from stackwright.domain.running import ModelLoad, Quantiles
from stackwright.engines.protocol import EngineMetrics

_ROW = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?[0-9]+)?\s*$")
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')

# compose/engine/switching/switch.py, which loads models in turns, tells which one is loaded and who waits.
LOADED, WAITING_FOR_TURN, TURN_LABEL = "stackwright_model_loaded", "stackwright_model_requests_waiting", "model"

Row = tuple[Mapping[str, str], float]


class Figures(Struct, frozen=True, kw_only=True):
    """What one engine has told of one model. Histograms: how many values were at most so many seconds, by bound.

    `loaded` is None where a model has its engine for itself.
    """

    running: float | None = None
    waiting: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    cache_usage: float | None = None
    cache_queries: float | None = None
    cache_hits: float | None = None
    first_token: dict[float, float] = field(default_factory=dict)
    between_tokens: dict[float, float] = field(default_factory=dict)
    loaded: bool | None = None


def read_rows(text: str, names: Iterable[str]) -> dict[str, list[Row]]:
    """Return the rows of these names; what cannot be read is passed over."""
    wanted = frozenset(names)
    found: dict[str, list[Row]] = {}
    for line in text.splitlines():
        # Most rows are of other names, and the pattern is slow.
        if line.split("{", 1)[0].split(" ", 1)[0] not in wanted:
            continue
        row = _ROW.match(line)
        if row is None:
            continue
        try:
            value = float(row[3])
        except ValueError:
            continue
        if not math.isnan(value):
            labels = {name: _unescaped(text) for name, text in _LABEL.findall(row[2] or "")}
            found.setdefault(row[1], []).append((labels, value))
    return found


def read_figures(text: str, metrics: EngineMetrics, models: Sequence[str]) -> dict[str, Figures]:
    """Return what an engine tells of each of its models; all of its rows are of its only one, whatever they name."""
    histograms = (*metrics.first_token, *metrics.between_tokens)
    plain = [name for names in _names(metrics).values() for name in names if name not in histograms]
    rows = read_rows(text, (*plain, *(f"{name}_bucket" for name in histograms), LOADED, WAITING_FOR_TURN))
    if len(models) == 1:
        return {models[0]: _figures(rows, metrics, None)}
    return {model: _in_turn(rows, model, _figures(rows, metrics, model)) for model in models}


def _names(metrics: EngineMetrics) -> dict[str, tuple[str, ...]]:
    keys = "running waiting prompt_tokens generation_tokens cache_usage cache_queries cache_hits first_token".split()
    return {key: getattr(metrics, key) for key in (*keys, "between_tokens")}


def _figures(rows: Mapping[str, list[Row]], metrics: EngineMetrics, model: str | None) -> Figures:
    def of_model(name: str) -> list[Row]:
        return [row for row in rows.get(name, ()) if model is None or row[0].get(metrics.model_label) == model]

    def total(names: Sequence[str]) -> float | None:
        found = next((kept for kept in map(of_model, names) if kept), [])
        return sum(value for _, value in found) if found else None

    def histogram(names: Sequence[str]) -> dict[float, float]:
        found = next((kept for kept in (of_model(f"{name}_bucket") for name in names) if kept), [])
        return _histogram(found)

    usage = next((kept for kept in map(of_model, metrics.cache_usage) if kept), [])
    return Figures(
        running=total(metrics.running),
        waiting=total(metrics.waiting),
        prompt_tokens=total(metrics.prompt_tokens),
        generation_tokens=total(metrics.generation_tokens),
        cache_usage=max((value for _, value in usage), default=None),
        cache_queries=total(metrics.cache_queries),
        cache_hits=total(metrics.cache_hits),
        first_token=histogram(metrics.first_token),
        between_tokens=histogram(metrics.between_tokens),
    )


def _in_turn(rows: Mapping[str, list[Row]], model: str, figures: Figures) -> Figures:
    """Add what the program tells that loads models in turns."""

    def of(name: str) -> float | None:
        return next((value for labels, value in rows.get(name, ()) if labels.get(TURN_LABEL) == model), None)

    loaded, queued = of(LOADED), of(WAITING_FOR_TURN)
    waiting = None if queued is None and figures.waiting is None else (queued or 0) + (figures.waiting or 0)
    return Figures(
        **{name: getattr(figures, name) for name in Figures.__struct_fields__ if name not in ("waiting", "loaded")},
        waiting=waiting,
        loaded=None if loaded is None else loaded > 0,
    )


def _histogram(rows: Iterable[Row]) -> dict[float, float]:
    """Add up the buckets of several rows (one for each engine core)."""
    added: dict[float, float] = {}
    for labels, value in rows:
        try:
            bound = float(labels["le"])
        except (KeyError, ValueError):
            continue
        added[bound] = added.get(bound, 0.0) + value
    return added


def since(now: Figures, before: Figures | None) -> Figures:
    """Return what has been counted since an earlier look; all of it where the engine has begun anew meanwhile."""
    if before is None or (now.prompt_tokens or 0) < (before.prompt_tokens or 0):
        return now

    def less(one: float | None, other: float | None) -> float | None:
        return None if one is None else one - (other or 0)

    def fewer(one: dict[float, float], other: dict[float, float]) -> dict[float, float]:
        return {bound: count - other.get(bound, 0) for bound, count in one.items()}

    return Figures(
        running=now.running,
        waiting=now.waiting,
        prompt_tokens=less(now.prompt_tokens, before.prompt_tokens),
        generation_tokens=less(now.generation_tokens, before.generation_tokens),
        cache_usage=now.cache_usage,
        cache_queries=less(now.cache_queries, before.cache_queries),
        cache_hits=less(now.cache_hits, before.cache_hits),
        first_token=fewer(now.first_token, before.first_token),
        between_tokens=fewer(now.between_tokens, before.between_tokens),
        loaded=now.loaded,
    )


def model_load(name: str, told: Sequence[tuple[Figures, float] | None]) -> ModelLoad:
    """Join what the replicas of a model have told, each over so many seconds; None of one that did not answer."""
    known = [row for row in told if row is not None]
    silent = len(told) - len(known)
    if not known:
        return ModelLoad(name=name, replicas=len(told), note="the engine does not tell its figures")
    figures = [figure for figure, _ in known]
    queries, hits = _sum(one.cache_queries for one in figures), _sum(one.cache_hits for one in figures)
    waiting, running = _sum(one.waiting for one in figures), _sum(one.running for one in figures)
    note = f"{silent} of {len(told)} replicas do not tell their figures" if silent else None
    if figures[0].loaded is False:
        note = "not loaded"
    return ModelLoad(
        name=name,
        replicas=len(told),
        running=None if running is None else round(running),
        waiting=None if waiting is None else round(waiting),
        prompt_tokens_per_s=_sum(_rate(one.prompt_tokens, over_s) for one, over_s in known),
        generation_tokens_per_s=_sum(_rate(one.generation_tokens, over_s) for one, over_s in known),
        cache_usage=max((one.cache_usage for one in figures if one.cache_usage is not None), default=None),
        cache_hit_rate=hits / queries if queries and hits is not None else None,
        first_token=_quantiles(one.first_token for one in figures),
        between_tokens=_quantiles(one.between_tokens for one in figures),
        over_s=max(over_s for _, over_s in known),
        note=note,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rate(count: float | None, over_s: float) -> float | None:
    return None if count is None or over_s <= 0 else count / over_s


def _quantiles(histograms: Iterable[Mapping[float, float]]) -> Quantiles:
    added: dict[float, float] = {}
    for histogram in histograms:
        for bound, count in histogram.items():
            added[bound] = added.get(bound, 0.0) + count
    return Quantiles(p50_s=quantile(added, 0.5), p99_s=quantile(added, 0.99))


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Return the value that `share` of all values do not exceed, from how many were at most each bound.

    One beyond the highest bound is told as that bound; None where there were no values.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank, below, low = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return low
            inside = buckets[bound] - below
            return low + (bound - low) * ((rank - below) / inside if inside > 0 else 1.0)
        below, low = buckets[bound], bound
    return low


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
