"""Sample the services of a start: their states, what is new in their logs, what has arrived of their model."""

from __future__ import annotations

from pathlib import Path

from stackwright.domain.service import ServicePhase, ServiceState, Step
from stackwright.models.cache import find_cache
from stackwright.runtime import Runtime, Stack
from stackwright.units import format_bytes
from stackwright.watching.course import Sample
from stackwright.watching.history import past_steps
from stackwright.watching.limits import Limits
from stackwright.watching.steps import distinct_lines, engine_step, start_line
from stackwright.watching.weights import Download, Weights, find_weights

LOG_LINES = 200
# A line for people, not a speedometer: a log of twelve hours of download stays readable.
DOWNLOAD_REPORTED_EVERY_S = 10.0

_COMING_UP = frozenset({ServicePhase.STARTING, ServicePhase.UNHEALTHY})


class Observer:
    """Samples one stack again and again."""

    def __init__(self, runtime: Runtime, stack: Stack) -> None:
        """Find out what is known of the models before they are loaded."""
        self._runtime = runtime
        self._start_log = stack.engine.start_log
        self._weights: dict[str, Weights] = {}
        self.limits: dict[str, Limits] = {}
        self._models = {replica.name: stack.values(replica)[stack.engine.keys.model] for replica in stack.plan.engines}
        cache = find_cache({}, Path(stack.env["HF_HOME"]))
        folders = {model: cache.folder(model) for model in self._models.values()}
        for replica in stack.plan.engines:
            model = self._models[replica.name]
            weights = find_weights(model, folders[model], replica)
            past = past_steps(stack.state, stack.plan, replica)
            self._weights[replica.name] = weights
            self.limits[replica.name] = Limits(largest_file_bytes=weights.largest_file_bytes, past_s=past)
        self._downloads = {
            model: _Arrival(None if model.startswith("/") else folder) for model, folder in folders.items()
        }

    def sample(self, states: tuple[ServiceState, ...], now_s: float) -> tuple[Sample, ...]:
        """Turn what the runtime tells into samples. `now_s` is the time from any zero, for the rate of a download."""
        on_their_way = {state.name for state in states if state.phase in _COMING_UP}
        for model in {self._models[name] for name in on_their_way & self._models.keys()}:
            self._downloads[model].sample(now_s)
        return tuple(self._sample(state, on_their_way) for state in states)

    def download_words(self, service: str) -> str:
        """Return how far the download of a service's model has come."""
        total = self._weights[service].total_bytes if service in self._weights else None
        return self._downloads[self._models[service]].words(total) if service in self._models else ""

    def _sample(self, state: ServiceState, on_their_way: set[str]) -> Sample:
        if state.phase not in _COMING_UP:
            held = state.phase is ServicePhase.WAITING and bool(on_their_way - {state.name})
            return Sample(state=state, held=held)
        log = self._runtime.logs(state.name, LOG_LINES)
        if state.name not in self._models:
            return Sample(state=state, lines=distinct_lines(log))
        download = self._downloads[self._models[state.name]]
        return Sample(
            state=state,
            step=Step.DOWNLOADING if download.arriving else engine_step(log, self._start_log),
            start=start_line(log),
            lines=distinct_lines(log),
            arrived_bytes=download.arrived_bytes,
        )


class _Arrival:
    """What arrives of one model: bytes that are there, whether more come, and how fast."""

    def __init__(self, folder: Path | None) -> None:
        self._download = Download(folder)
        self.arrived_bytes, self.arriving = 0, False
        self._words = ""
        self._reported_at: tuple[float, int] | None = None

    def sample(self, now_s: float) -> None:
        """Sample once; write anew how much has arrived and how fast, every few seconds."""
        self.arrived_bytes, self.arriving = self._download.sample()
        if not self.arriving:
            return
        if self._reported_at is not None and now_s - self._reported_at[0] < DOWNLOAD_REPORTED_EVERY_S:
            return
        rate = ""
        if self._reported_at is not None:
            since_s, before_bytes = self._reported_at
            rate = f" at {format_bytes(int((self.arrived_bytes - before_bytes) / (now_s - since_s)))}/s,"
        self._words = f"downloading weights,{rate} {format_bytes(self.arrived_bytes)}"
        self._reported_at = (now_s, self.arrived_bytes)

    def words(self, total: int | None) -> str:
        """Return how far it has come of `total` bytes."""
        # An earlier version of the model may lie beside the one that comes.
        known = total is not None and self._reported_at is not None and self._reported_at[1] <= total
        return f"{self._words}{f' of {format_bytes(total)}' if known else ''}"
