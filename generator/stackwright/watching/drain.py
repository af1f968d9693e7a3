"""End what clients ask before all else: it takes no more requests, and those that are open get time to end.

Asks the gateway on this machine how many those are, and its runtime to end it.
"""

from __future__ import annotations

from collections.abc import Callable

from stackwright.domain.service import UP
from stackwright.runtime import Runtime, Stack
from stackwright.watching.probe import count_open_requests, endpoint_of
from stackwright.watching.watch import REAL, Clock

POLL_S = 0.5
# To write an error event to each open stream, and to leave.
LEAVES_WITHIN_S = 10.0


def drain_limit(stack: Stack) -> int:
    """Return how many seconds open requests get; of a stack that was rendered before there was such a setting, none."""
    return int(stack.env.get(stack.access.drains_within_s.key, 0))


def drain(
    runtime: Runtime,
    stack: Stack,
    limit_s: float,
    tell: Callable[[str], None],
    *,
    key: str | None,
    clock: Clock = REAL,
) -> None:
    """End the service that clients ask, and return when it is gone, killed if need be.

    With its `key` it is asked first how many requests are open.

    Raises:
        RuntimeRefusedError: the runtime does not say what runs.
    """
    front = stack.front.name
    if not _runs(runtime, front):
        return
    number = None if key is None else count_open_requests(endpoint_of(stack), key)
    which = "" if number is None else f"{number} request{'' if number == 1 else 's'} open, "
    if number != 0:
        tell(f"draining: {which}up to {limit_s:g} s")
    runtime.end(front)
    if _gone(runtime, front, limit_s, clock):
        return
    tell("draining: time is up, ending what is still open")
    runtime.end(front)
    if not _gone(runtime, front, LEAVES_WITHIN_S, clock):
        runtime.end(front, kill=True)
        _gone(runtime, front, LEAVES_WITHIN_S, clock)


def _gone(runtime: Runtime, name: str, within_s: float, clock: Clock) -> bool:
    deadline = clock.now() + within_s
    while _runs(runtime, name):
        if clock.now() >= deadline:
            return False
        clock.sleep(POLL_S)
    return True


def _runs(runtime: Runtime, name: str) -> bool:
    return any(state.name == name and state.phase in UP for state in runtime.services())
