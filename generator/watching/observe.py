"""Look at the services of a start: their states, what is new in their logs, what has arrived of their model."""

from __future__ import annotations

from generator.domain.service import ServicePhase, ServiceState
from generator.runtime import Runtime, Stack
from generator.units import format_bytes
from generator.watching.course import Look
from generator.watching.history import past_steps
from generator.watching.limits import Limits
from generator.watching.steps import Step, engine_step, start_line, told
from generator.watching.weights import Download, Weights, find_weights, hub_folder

LOG_LINES = 200
# A line for people, not a speedometer: a log of twelve hours of download stays readable.
DOWNLOAD_TOLD_EVERY_S = 10.0

_COMING_UP = frozenset({ServicePhase.STARTING, ServicePhase.UNHEALTHY})


class Observer:
    """Looks at one stack again and again."""

    def __init__(self, runtime: Runtime, stack: Stack) -> None:
        """Find out what is known of the models before they are loaded."""
        self._runtime = runtime
        self._model = stack.env["VLLM_MODEL"]
        self._weights: dict[str, Weights] = {}
        self.limits: dict[str, Limits] = {}
        folder = hub_folder(stack.env["HF_HOME"], self._model)
        for replica in stack.plan.replicas:
            weights = find_weights(self._model, folder, replica)
            past = past_steps(stack.state, stack.plan, replica)
            self._weights[replica.name] = weights
            self.limits[replica.name] = Limits(largest_file_bytes=weights.largest_file_bytes, past_s=past)
        self._download = Download(None if self._model.startswith("/") else folder)
        self._download_words = ""
        self._told_at: tuple[float, int] | None = None

    def look(self, states: tuple[ServiceState, ...], now_s: float) -> tuple[Look, ...]:
        """Turn what the runtime tells into looks. `now_s` is the time from any zero, for the rate of a download."""
        on_their_way = {state.name for state in states if state.phase in _COMING_UP}
        arrived, arriving = self._download.look() if on_their_way & self._weights.keys() else (0, False)
        if arriving:
            self._measure(arrived, now_s)
        return tuple(self._look(state, on_their_way, arrived, arriving) for state in states)

    def download_words(self, service: str) -> str:
        """Say how far the download of a service's model has come."""
        total = self._weights[service].total_bytes if service in self._weights else None
        # An earlier version of the model may lie beside the one that comes.
        known = total is not None and self._told_at is not None and self._told_at[1] <= total
        return f"{self._download_words}{f' of {format_bytes(total)}' if known else ''}"

    def _look(self, state: ServiceState, on_their_way: set[str], arrived: int, arriving: bool) -> Look:
        if state.phase not in _COMING_UP:
            held = state.phase is ServicePhase.WAITING and bool(on_their_way - {state.name})
            return Look(state=state, held=held)
        log = self._runtime.logs(state.name, LOG_LINES)
        if state.name not in self._weights:
            return Look(state=state, lines=told(log))
        return Look(
            state=state,
            step=Step.DOWNLOADING if arriving else engine_step(log),
            start=start_line(log),
            lines=told(log),
            arrived_bytes=arrived,
        )

    def _measure(self, arrived: int, now_s: float) -> None:
        """Write anew how much has arrived and how fast, every few seconds."""
        if self._told_at is not None and now_s - self._told_at[0] < DOWNLOAD_TOLD_EVERY_S:
            return
        rate = ""
        if self._told_at is not None:
            rate = f" at {format_bytes(int((arrived - self._told_at[1]) / (now_s - self._told_at[0])))}/s,"
        self._download_words = f"downloading weights,{rate} {format_bytes(arrived)}"
        self._told_at = (now_s, arrived)
