"""A signal at a chosen moment: for tests that no interruption, whenever it comes, leaves something half done."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Protocol


class Block(Protocol):
    """What is interrupted."""

    def __call__(self) -> object:
        """Do it."""


def interrupted_at(moment: int, number: signal.Signals, block: Block, modules: tuple[str, ...] = ()) -> bool:
    """Run a block and send this process a signal at one moment of it; say whether the block had that many.

    A moment is where Python heeds signals: as a function begins, and after one that is written in C has returned
    (CPython 3.11 to 3.14, `eval_breaker`). `modules`: only those in these files' code count; all do where none is
    named.
    """
    passed = 0

    def heed(frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG001  # what Python calls it with
        nonlocal passed
        if event in ("call", "c_return") and (not modules or Path(frame.f_code.co_filename).name in modules):
            passed += 1
            if passed == moment:
                signal.raise_signal(number)

    before = signal.signal(number, signal.default_int_handler)
    sys.setprofile(heed)
    try:
        block()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
        assert signal.getsignal(number) is signal.default_int_handler, "somebody else's handler was left"
        signal.signal(number, before)
    return passed >= moment
