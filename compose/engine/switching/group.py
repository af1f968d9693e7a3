"""A group of models of which one is loaded at a time: whose turn it is, and the switch from one to the next.

Touches only the engine that it is given (child.py). Standard library alone. Times are seconds of the event loop's
clock.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

ATTEMPTS = 2
"""Failures of a model in a row after which it is refused at once: a load that fails, or an end before its time."""

COOL_OFF_S = 300
"""How long it is then refused before it is tried once more."""


class EngineError(Exception):
    """An engine did not come up, or ended by itself; `status` is its exit status, at least 1."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class RefusedError(Exception):
    """A request cannot be served now; it may be tried again after `retry_s` seconds."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Engine(Protocol):
    """One model in memory, or on the way there."""

    socket: Path

    async def start(self) -> None:
        """Return once it answers; raise EngineError where it does not."""

    async def stop(self) -> None:
        """Return once it and all that it started are gone."""

    async def ended(self) -> int:
        """Wait for its end and return its exit status."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the models take turns.

    A loaded model stays at least `minimum_residence_s`. Requests in flight get `drain_s` to end before it goes.
    `preload` is loaded at the start; `pinned` is loaded again once the others have been idle for the minimum residence.
    """

    models: tuple[str, ...]
    minimum_residence_s: float
    drain_s: float
    preload: str | None
    pinned: str | None


@dataclass(kw_only=True)
class Tally:
    """What became of the loads of one model; `failed` counts the failures since it last stayed."""

    loads: int = 0
    load_s: float = 0.0
    failures: int = 0
    failed: int = 0
    failed_at: float = 0.0

    def refused_until(self) -> float:
        """Return when it may be tried again; 0 where it may be now."""
        return self.failed_at + COOL_OFF_S if self.failed >= ATTEMPTS else 0.0


@dataclass(kw_only=True)
class Group:
    """The models of one seat. `run` loads and switches; `place` is asked by each request.

    `make` returns the engine of a model, not started yet.
    """

    rules: Rules
    make: Callable[[str], Engine]
    say: Callable[[str], None]
    loaded: str | None = None
    tallies: Mapping[str, Tally] = field(init=False)
    _engine: Engine | None = None
    _end: "asyncio.Future[int] | None" = None
    _begun: bool = False
    _open: bool = False
    _busy: int = 0
    _cut_at: float = 0.0
    _since: float = 0.0
    _quiet_since: float = 0.0
    _home: str | None = None
    _waiting: dict["asyncio.Future[Path]", str] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.tallies = {model: Tally() for model in self.rules.models}

    @property
    def healthy(self) -> bool:
        """Say whether requests can be served: the model to preload was there once, and some model may be tried."""
        begun = self._begun or self.rules.preload is None
        return begun and any(tally.refused_until() <= _now() for tally in self.tallies.values())

    @property
    def socket(self) -> Path | None:
        """Return the socket of the loaded engine; None while there is none."""
        return self._engine.socket if self._engine is not None and self.loaded is not None else None

    @property
    def at_work(self) -> int:
        """Return how many requests the loaded engine has; none while another one is loaded."""
        return self._busy if self.loaded is not None else 0

    def waiting(self, model: str) -> int:
        """Return how many requests wait for a model."""
        return sum(other == model for other in self._waiting.values())

    @contextlib.asynccontextmanager
    async def place(self, model: str) -> AsyncIterator[Path]:
        """Give the socket of a model's engine for the time of one request, in the order of arrival.

        Raises:
            RefusedError: the model could not be loaded.
        """
        until = self.tallies[model].refused_until()
        if until > _now():
            raise RefusedError(f"`{model}` could not be loaded {ATTEMPTS} times", until - _now())
        if self._open and self.loaded == model and self._engine is not None:
            self._busy += 1
            socket = self._engine.socket
        else:
            socket = await self._turn(model)
        try:
            yield socket
        finally:
            self._leave()

    async def _turn(self, model: str) -> Path:
        """Wait for the model; whoever ends the wait has counted the request among the busy ones."""
        turn: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = model
        self._changed.set()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave()
            raise
        finally:
            self._waiting.pop(turn, None)
            self._changed.set()

    def _leave(self) -> None:
        self._busy -= 1
        self._quiet_since = _now()
        self._changed.set()

    async def run(self) -> NoReturn:
        """Load and switch until cancelled; nothing is left running then.

        Raises:
            EngineError: the model to preload did not come up; a single engine would have ended, too.
        """
        try:
            if self.rules.preload is not None:
                await self._load(self.rules.preload)
            self._begun = True
            while True:
                self._changed.clear()
                await self._step()
        finally:
            await self._unload()

    async def _step(self) -> None:
        """Do what is due, or wait for a change or for the moment when something will be due."""
        due, now = self.next_switch(), _now()
        if self._end is not None and self._end.done():
            await self._lose(self._end.result())
        elif due is None or due[1] > now:
            self._admit()
            await self._change(None if due is None else due[1])
        elif self._busy and now < (cut_at := self._close(now)):
            await self._change(cut_at)
        else:
            await self._switch(due[0])

    def next_switch(self) -> tuple[str, float] | None:
        """Return the model that is to be loaded next and from when on; None where the present one may stay.

        Who has waited longest decides. Nobody waits for the loaded model while it is open, so the first who waits for
        another one is the first of all.
        """
        asked = next((model for turn, model in self._waiting.items() if model != self.loaded and not turn.done()), None)
        if self.loaded is None:
            model = asked or self._home
            return None if model is None else (model, self.tallies[model].refused_until())
        if asked is not None:
            return asked, self._since + self.rules.minimum_residence_s
        pinned = self.rules.pinned
        if pinned in (None, self.loaded) or self._busy:
            return None
        idle = max(self._since, self._quiet_since) + self.rules.minimum_residence_s
        return str(pinned), max(idle, self.tallies[str(pinned)].refused_until())

    async def _change(self, until: float | None) -> None:
        timeout = None if until is None else until - _now()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    def _close(self, now: float) -> float:
        """Let nobody in any more; return the moment when those inside are cut off."""
        if self._open:
            self._open, self._cut_at = False, now + self.rules.drain_s
        return self._cut_at

    def _admit(self) -> None:
        """Let those in who wait for the loaded model, and whoever comes from now on."""
        if self._engine is None or self._open:
            return
        self._open = True
        for turn in self._turns(str(self.loaded)):
            self._busy += 1
            turn.set_result(self._engine.socket)

    def _turns(self, model: str) -> list["asyncio.Future[Path]"]:
        return [turn for turn, asked in self._waiting.items() if asked == model and not turn.done()]

    async def _switch(self, model: str) -> None:
        """Take the present model away and load another; a failure is told to those who wait for it."""
        if self._busy:
            self.say(f"cancelling {self._busy} requests to {self.loaded} after {self.rules.drain_s:g} s")
        if self.loaded is not None:
            self.tallies[self.loaded].failed = 0
        await self._unload()
        try:
            await self._load(model)
        except EngineError as error:
            self._note_failure(model, str(error))
            self._refuse(model, str(error))

    async def _load(self, model: str) -> None:
        """Load a model and let those in who wait for it.

        Raises:
            EngineError: it did not come up.
        """
        self.say(f"loading {model}")
        begun = _now()
        self._engine = self.make(model)
        try:
            await self._engine.start()
        except EngineError:
            await self._unload()
            raise
        self._since = _now()
        tally, took_s = self.tallies[model], self._since - begun
        tally.loads, tally.load_s = tally.loads + 1, tally.load_s + took_s
        self.loaded = self._home = model
        self._end = asyncio.ensure_future(self._engine.ended())
        self._end.add_done_callback(lambda _: self._changed.set())
        self.say(f"{model} is loaded after {took_s:.1f} s")
        self._admit()

    async def _unload(self) -> None:
        model, self.loaded, self._open, self._end = self.loaded, None, False, None
        if self._engine is not None:
            begun = _now()
            await self._engine.stop()
            self._engine = None  # not before: a stop that is interrupted is taken up again when this program ends
            if model is not None:
                self.say(f"{model} is unloaded after {_now() - begun:.1f} s")

    async def _lose(self, status: int) -> None:
        """Take note that the loaded engine has ended by itself.

        Who waits for it waits on, unless that came too often.
        """
        model = str(self.loaded)
        if _now() - self._since >= self.rules.minimum_residence_s:
            self.tallies[model].failed = 0
        await self._unload()
        why = f"its engine ended with status {status}"
        self._note_failure(model, why)
        if self.tallies[model].failed >= ATTEMPTS:
            self._refuse(model, why)

    def _note_failure(self, model: str, why: str) -> None:
        tally = self.tallies[model]
        tally.failures, tally.failed, tally.failed_at = tally.failures + 1, tally.failed + 1, _now()
        self.say(f"{model} failed: {why}")

    def _refuse(self, model: str, why: str) -> None:
        """Tell those who wait for a model that it did not come; the former one is loaded first, and stays a while."""
        failed = self.tallies[model].failed
        retry_s = COOL_OFF_S if failed >= ATTEMPTS else max(self.rules.minimum_residence_s, 1.0)
        for turn in self._turns(model):
            turn.set_exception(RefusedError(f"`{model}` could not be loaded: {why}", retry_s))


def _now() -> float:
    return asyncio.get_running_loop().time()
