"""A signal at a moment of a command: after words that it says, after a time, or once something is there."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.integration.faults.command import Command, Ended
from tests.integration.project import START_S, Project

# A step of a command may be over in a tenth of a second.
LOOK_EVERY_S = 0.01
Moment = str | float | Path


def signal_at(project: Project, moment: Moment, number: signal.Signals, *words: str, **variables: str) -> Ended:
    """Run a command and send it a signal at a moment; return how it ended."""
    with Command(project, *words, **variables) as command:
        reach(command, moment)
        command.signal(number)
        return command.end()


def reach(command: Command, moment: Moment) -> None:
    """Return once a command has said some words, so many seconds have passed, or there is a file.

    Raises:
        AssertionError: it has ended before.
    """
    if isinstance(moment, float):
        time.sleep(moment)
        return
    deadline = time.monotonic() + START_S
    while not (moment.exists() if isinstance(moment, Path) else moment in command.said):
        assert command.process.poll() is None, f"ended before `{moment}`:\n{command.said}"
        assert time.monotonic() < deadline, f"never came to `{moment}`:\n{command.said}"
        time.sleep(LOOK_EVERY_S)
