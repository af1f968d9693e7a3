"""How many requests a model works on at once, who waits, and who is refused.

LiteLLM's own limits do not queue: `max_parallel_requests` counts in each worker alone and refuses the next request at
once, and the scheduler queues only while no deployment is healthy and orders equal priorities by a random number
(LiteLLM 1.105.3, router_utils/client_initalization_utils.py, router.py `schedule_acompletion`). Standard library only.
"""

import asyncio
import contextlib
import fcntl
import heapq
import itertools
import math
import time
from collections.abc import AsyncIterator

from admission import RefusedError, bad_request

LOOK_AGAIN_S = 0.02
"""How often a worker looks whether another worker has freed a slot, only while somebody waits here."""

LONGEST_RETRY_S = 60


class Slots:
    """A number of slots that all workers of one gateway share: bytes of one file, each locked while it is taken.

    The kernel frees the slots of a worker that dies. A process never conflicts with its own locks, so it remembers
    which it has.
    """

    def __init__(self, file: int, first: int, count: int) -> None:
        self._file, self._count = file, count
        self._free = list(range(first, first + count))

    @property
    def taken(self) -> int:
        """How many this worker has taken."""
        return self._count - len(self._free)

    def take(self, count: int = 1) -> list[int] | None:
        """Take so many slots; None, and none taken, where fewer are free."""
        taken: list[int] = []
        for position in range(len(self._free) - 1, -1, -1):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._free[position])
            except OSError:
                continue
            taken.append(self._free.pop(position))
            if len(taken) == count:
                return taken
        self.give(taken)
        return None

    def give(self, slots: list[int]) -> None:
        """Give slots back."""
        for slot in slots:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
            self._free.append(slot)


class Queue:
    """The requests of one model: those in `slots` work, those in `seats` wait, by priority, then in order of arrival.

    A request takes a slot for each text that it asks for, and one seat.
    """

    def __init__(self, file: int, first: int, slots: int, seats: int) -> None:
        self.slots, self.seats = slots, seats
        self._slots, self._seats = Slots(file, first, slots), Slots(file, first + slots, seats)
        self._waiting: list[tuple[int, int, int, asyncio.Future[list[int]]]] = []
        self._numbers = itertools.count()
        self._freed = asyncio.Event()
        self._server: asyncio.Task[None] | None = None
        self.mean_s = 0.0

    @property
    def waiting(self) -> int:
        """How many requests of this worker wait for their turn."""
        return sum(not turn.done() for *_, turn in self._waiting)

    @property
    def working(self) -> int:
        """How many slots requests of this worker hold."""
        return self._slots.taken

    async def enter(self, priority: int, timeout_s: float, sequences: int = 1) -> list[int]:
        """Return as many slots as texts are asked for, as soon as it is this request's turn.

        Raises:
            RefusedError: 429 where all seats are taken or the wait was too long, 400 where it could never be its turn.
        """
        if sequences > self.slots:
            raise bad_request(f"the request asks for {sequences} texts; the model works on {self.slots} at once")
        if not self._waiting and (slots := self._slots.take(sequences)) is not None:
            return slots
        seat = self._seats.take()
        if seat is None:
            raise self._refusal(f"all {self.slots} slots are in use and {self.seats} requests are queued")
        turn: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._numbers), sequences, turn))
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        try:
            async with asyncio.timeout(timeout_s):
                return await turn
        except TimeoutError:
            self._forget(turn)
            raise self._refusal(f"waited {timeout_s:.0f} s in the queue") from None
        except BaseException:
            self._forget(turn)
            raise
        finally:
            self._seats.give(seat)

    def leave(self, slots: list[int], entered_s: float) -> None:
        """Give slots back; `entered_s`: the moment at which they were taken, of the monotonic clock."""
        took_s = time.monotonic() - entered_s
        self.mean_s = took_s if self.mean_s == 0 else 0.9 * self.mean_s + 0.1 * took_s
        self._give(slots)

    def _give(self, slots: list[int]) -> None:
        self._slots.give(slots)
        self._freed.set()

    def _forget(self, turn: "asyncio.Future[list[int]]") -> None:
        """Wait no longer; slots that came at the last moment go back."""
        if turn.done() and not turn.cancelled():
            self._give(turn.result())
        else:
            turn.cancel()

    async def _serve(self) -> None:
        """Hand the slots that become free to those who wait, until nobody does."""
        while self._waiting:
            _, _, sequences, turn = self._waiting[0]
            if turn.done():
                heapq.heappop(self._waiting)
            elif (slots := self._slots.take(sequences)) is not None:
                heapq.heappop(self._waiting)
                turn.set_result(slots)
            else:
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), LOOK_AGAIN_S)

    def _refusal(self, why: str) -> RefusedError:
        wait_s = min(max(math.ceil(self.mean_s * max(self.seats, 1) / self.slots), 1), LONGEST_RETRY_S)
        return RefusedError(429, "rate_limit_error", f"the model is busy: {why}", wait_s)


@contextlib.asynccontextmanager
async def turn(queue: Queue | None, priority: int, timeout_s: float, sequences: int) -> AsyncIterator[None]:
    """Hold a request's slots for as long as it works; without a queue it is its turn at once. Raises RefusedError."""
    if queue is None:
        yield
        return
    slots = await queue.enter(priority, timeout_s, sequences)
    entered_s = time.monotonic()
    try:
        yield
    finally:
        queue.leave(slots, entered_s)
