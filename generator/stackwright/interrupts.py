"""Ctrl-C and its kin: a command ends cleanly at each of them, and is not hurried out of its cleaning up."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Gate:
    """What lets interruptions through: while `shut` is set, one that comes waits for `open`, or for the end of the
    block.

    Setting `shut` is one plain assignment, so that nothing comes between it and the statement before.
    """

    def __init__(self) -> None:
        self.shut = False
        self._waiting = False

    def open(self) -> None:
        """Let interruptions take effect again, one that has waited at once."""
        self.shut = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def meet(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # what Python calls it with
        """Take a signal."""
        if not self.shut:
            raise KeyboardInterrupt
        self._waiting = True


@contextmanager
def clean_end() -> Iterator[Gate]:
    """Let SIGTERM, and a terminal that goes away, end a command as Ctrl-C does: by KeyboardInterrupt.

    Ctrl-C too, which ended the process at once until here (`stackwright.__main__`), and does so again after. The gate,
    open at first, keeps them off what must not be left half done.
    """
    gate = Gate()
    try:
        with _repeated(), _handled(SIGNALS, gate.meet):
            yield gate
    finally:
        gate.open()


@contextmanager
def _repeated() -> Iterator[None]:
    """Send an interruption again that came where Python swallows what is raised: in a finalizer or a weak reference's
    callback, which the import system runs at any moment.
    """
    before = sys.unraisablehook

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            before(unraisable)
            return
        import threading

        main = threading.main_thread().ident
        # From another thread and after a moment: at once, it would be raised in here and be swallowed too. Where it
        # meets the next such callback, this is simply run again.
        timer = threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def shielded(warn: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C or the like only `warn`; the second one ends the block."""
    seen = []

    def hold_back(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # what Python calls it with
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        warn()

    with _handled(SIGNALS, hold_back):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    """Handle these signals for a while; one that is ignored stays so: `nohup` means it."""
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    try:
        _set_handlers(dict.fromkeys(heard, handler))
        yield
    finally:
        _set_handlers(heard)


def _set_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    """Set them all: a signal that comes meanwhile waits, or an interruption would leave some as they were."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
