"""Ctrl-C and its kin: a command ends cleanly at each of them, and is not hurried out of its cleaning up."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def clean_end() -> Iterator[None]:
    """Let SIGTERM, and a terminal that goes away, end a command as Ctrl-C does: by KeyboardInterrupt.

    Ctrl-C too, which ended the process at once until here (`stackwright.__main__`), and does so again after.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # what Python calls it with
        raise KeyboardInterrupt

    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), interrupt):
        yield


@contextmanager
def shielded(warn: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C or the like only `warn`; the second one ends the block."""
    seen = []

    def hold_back(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # what Python calls it with
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        warn()

    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), hold_back):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    """Handle these signals for a while; one that is ignored stays so: `nohup` means it."""
    before = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number in numbers if before[number] is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, handler)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])
