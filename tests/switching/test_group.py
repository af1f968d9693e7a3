"""Turns in a group of models, with engines that load at once or after a while, and a clock that jumps to what is
due.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from compose.engine.switching.group import ATTEMPTS, COOL_OFF_S, EngineError, Group, RefusedError, Rules


class Jump(selectors.DefaultSelector):
    """Never sleeps: notes how far the clock has to jump in the place of it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self.now += max(timeout, 0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything can be done."""

    def __init__(self) -> None:
        self._jump = Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


@dataclass(kw_only=True)
class Seat:
    """What stands for memory: one engine at a time may be in it. `events` tells what happened, in order."""

    events: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    load_s: float = 10.0
    inside: Stand | None = None


@dataclass(kw_only=True)
class Stand:
    """An engine that is nothing but its place in memory."""

    model: str
    seat: Seat
    socket: Path = Path("engine.sock")
    end: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def start(self) -> None:
        assert self.seat.inside is None
        self.seat.inside = self
        await asyncio.sleep(self.seat.load_s)
        if self.model in self.seat.broken:
            raise EngineError("its engine ended with status 7 while it started", 7)
        self.seat.events.append(f"+{self.model}")

    async def stop(self) -> None:
        await asyncio.sleep(1)
        self.seat.inside = None
        if not self.end.done():
            self.end.set_result(0)

    async def ended(self) -> int:
        return await asyncio.shield(self.end)


def rules(*, drain_s: float = 300, preload: str | None = "a", pinned: str | None = None) -> Rules:
    """Return the rules of three models with half a minute of residence."""
    return Rules(models=("a", "b", "c"), minimum_residence_s=30, drain_s=drain_s, preload=preload, pinned=pinned)


def play(
    scene: Callable[[Group, Seat], Awaitable[None]], chosen: Rules | None = None, seat: Seat | None = None
) -> None:
    """Act out a scene on a group that runs."""

    async def act() -> None:
        here = seat or Seat()
        group = Group(rules=chosen or rules(), make=lambda model: Stand(model=model, seat=here), say=lambda _: None)
        async with running(group):
            await scene(group, here)
        assert here.inside is None

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(act())


@contextlib.asynccontextmanager
async def running(group: Group) -> AsyncIterator[None]:
    """Let a group run beside a block."""
    task = asyncio.create_task(group.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def ask(group: Group, seat: Seat, model: str, work_s: float = 1.0) -> float:
    """Make one request and return when it was let in."""
    async with group.place(model):
        entered = now()
        seat.events.append(model)
        assert seat.inside is not None
        assert seat.inside.model == model
        await asyncio.sleep(work_s)
        return entered


def later(group: Group, seat: Seat, model: str, work_s: float = 1.0) -> asyncio.Task[float]:
    """Make a request beside the scene."""
    return asyncio.create_task(ask(group, seat, model, work_s))


def now() -> float:
    """Return the time of the scene in seconds."""
    return asyncio.get_running_loop().time()


def test_the_loaded_model_answers_at_once_and_the_other_after_the_residence() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        assert await ask(group, seat, "a") == 10
        assert await ask(group, seat, "a") == 11
        assert await ask(group, seat, "b") == 10 + 30 + 1 + 10
        assert seat.events == ["+a", "a", "a", "+b", "b"]

    play(scene)


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        assert group.healthy
        await asyncio.sleep(60)
        assert seat.events == []
        assert await ask(group, seat, "c") == 70

    play(scene, rules(preload=None))


def test_it_is_healthy_once_the_first_model_is_there_and_during_a_switch() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await asyncio.sleep(9)
        assert not group.healthy
        await asyncio.sleep(2)
        assert group.healthy
        request = later(group, seat, "b")
        await asyncio.sleep(35)
        assert group.loaded is None
        assert group.socket is None
        assert group.healthy
        await request

    play(scene)


def test_requests_in_flight_finish_before_their_model_goes() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        slow = later(group, seat, "a", work_s=100)
        assert await ask(group, seat, "b") == 10 + 100 + 1 + 10
        assert slow.done()

    play(scene)


def test_requests_that_never_end_are_cut_off_after_the_drain() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        async with group.place("a"):
            assert await ask(group, seat, "b") == 10 + 30 + 60 + 1 + 10

    play(scene, rules(drain_s=60))


def test_who_waits_longest_decides_and_everybody_gets_a_turn() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await ask(group, seat, "a")
        requests = []
        for model in ("b", "c", "b", "a", "c"):
            requests.append(later(group, seat, model))
            await asyncio.sleep(1)
        await asyncio.gather(*requests)
        # The residence of `a` was not over when the fourth request came, so it was answered meanwhile.
        assert seat.events == ["+a", "a", "a", "+b", "b", "b", "+c", "c", "c"]

    play(scene)


def test_a_steady_stream_for_the_loaded_model_does_not_starve_another() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await ask(group, seat, "a")
        asked = later(group, seat, "b")
        stream = []
        while not asked.done():
            stream.append(later(group, seat, "a", work_s=5))
            await asyncio.sleep(2)
        assert asked.result() <= 10 + 30 + 5 + 1 + 10
        assert all([await request for request in stream])
        assert seat.events.index("b") < seat.events.index("+a", 1)

    play(scene)


def test_who_leaves_while_waiting_is_forgotten() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await ask(group, seat, "a")
        request = later(group, seat, "b")
        await asyncio.sleep(1)
        assert group.waiting("b") == 1
        request.cancel()
        await asyncio.sleep(100)
        assert group.waiting("b") == 0
        assert seat.events == ["+a", "a"]
        before = now()
        assert await ask(group, seat, "a") == before

    play(scene)


def test_the_door_opens_again_where_the_only_one_who_waits_leaves_during_the_drain() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        slow = later(group, seat, "a", work_s=100)
        waits = later(group, seat, "b")
        await asyncio.sleep(50)
        second = later(group, seat, "a")
        await asyncio.sleep(1)
        assert group.waiting("a") == 1
        waits.cancel()
        assert await second == 51
        await slow
        assert seat.events == ["+a", "a", "a"]

    play(scene)


def test_who_leaves_in_the_moment_of_the_turn_frees_the_place() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        request = later(group, seat, "a")
        asyncio.get_running_loop().call_at(10, request.cancel)
        await asyncio.sleep(50)
        assert await ask(group, seat, "b") == 50 + 1 + 10

    play(scene)


def test_the_pinned_model_comes_back_once_the_others_are_idle() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        assert await ask(group, seat, "b", work_s=40) == 51
        await asyncio.sleep(29)
        assert group.loaded == "b"
        await asyncio.sleep(1 + 1 + 10 + 1)
        assert group.loaded == "a"

    play(scene, rules(pinned="a"))


def test_a_failed_load_is_told_and_the_former_model_comes_back() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await ask(group, seat, "a")
        with pytest.raises(RefusedError, match="`b` could not be loaded: its engine ended with status 7") as refused:
            await ask(group, seat, "b")
        assert refused.value.retry_s == 30
        await asyncio.sleep(20)
        assert group.loaded == "a"
        assert group.healthy

    play(scene, seat=Seat(broken={"b"}))


def test_a_model_that_failed_twice_is_refused_at_once_until_it_has_cooled_off() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        for _ in range(ATTEMPTS):
            with pytest.raises(RefusedError):
                await ask(group, seat, "b")
        failed = now()
        with pytest.raises(RefusedError, match="2 times") as refused:
            await ask(group, seat, "b")
        assert now() == failed
        assert refused.value.retry_s == COOL_OFF_S
        assert group.tallies["b"].failures == ATTEMPTS
        seat.broken.clear()
        await asyncio.sleep(COOL_OFF_S)
        await ask(group, seat, "b")
        assert seat.events[-1] == "b"

    play(scene, seat=Seat(broken={"b"}))


def test_it_is_unhealthy_where_no_model_can_be_loaded_and_heals_by_itself() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await ask(group, seat, "a")
        seat.broken |= {"a", "b", "c"}
        for model in ("b", "c", "b", "c"):
            with pytest.raises(RefusedError):
                await ask(group, seat, model)
        assert not group.healthy
        seat.broken.clear()
        await asyncio.sleep(COOL_OFF_S + 20)
        assert group.healthy
        assert group.loaded == "a"

    play(scene)


def test_an_engine_that_dies_is_loaded_again() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await ask(group, seat, "a")
        assert seat.inside is not None
        seat.inside.end.set_result(137)
        await asyncio.sleep(0.5)
        assert await ask(group, seat, "a") == 11 + 1 + 10
        assert group.tallies["a"].failures == 1

    play(scene)


def test_an_engine_that_dies_as_soon_as_it_is_loaded_is_given_a_rest() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await asyncio.sleep(20)
        for _ in range(ATTEMPTS):
            assert seat.inside is not None
            seat.inside.end.set_result(139)
            await asyncio.sleep(15)
        with pytest.raises(RefusedError, match="2 times"):
            await ask(group, seat, "a")
        await ask(group, seat, "b")

    play(scene)


def test_who_waits_for_an_engine_that_died_too_often_is_told_and_holds_nobody_up() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await asyncio.sleep(20)
        group.tallies["a"].failed = ATTEMPTS - 1
        assert seat.inside is not None
        seat.inside.end.set_result(139)
        await asyncio.sleep(0.5)
        refused, served = later(group, seat, "a"), later(group, seat, "b")
        assert await served == 21 + 10
        with pytest.raises(RefusedError, match="its engine ended with status 139"):
            await refused

    play(scene)


def test_an_end_while_a_model_is_taken_away_leaves_nothing() -> None:
    async def scene(group: Group, seat: Seat) -> None:
        await asyncio.sleep(20)
        request = later(group, seat, "b")
        await asyncio.sleep(20.5)
        assert seat.inside is not None
        assert group.loaded is None
        request.cancel()

    play(scene)


def test_a_first_model_that_does_not_come_up_ends_the_program_with_its_status() -> None:
    async def act() -> int:
        seat = Seat(broken={"a"})
        group = Group(rules=rules(), make=lambda model: Stand(model=model, seat=seat), say=lambda _: None)
        with pytest.raises(EngineError) as failure:
            await group.run()
        assert seat.inside is None
        return failure.value.status

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        assert runner.run(act()) == 7
