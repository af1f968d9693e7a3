"""What a command that was killed leaves at work: clients of the container engine, an installation. Reads /proc, signals.

Each is started with a variable that names the command that it works for; where that one is gone, it works for nobody,
and would go on starting services, or installing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from stackwright.runtime.groups import programs_having, started

OWNER = "STACKWRIGHT_OWNER"
ENDS_WITHIN_S = 10.0


def owned() -> dict[str, str]:
    """Return the variable, with this command as the owner."""
    return {OWNER: f"{os.getpid()}:{started(os.getpid())}"}


def end_orphans() -> None:
    """End what works for a command that is gone: asked politely, then killed. Returns when it has gone too."""
    asked: set[int] = set()
    deadline = time.monotonic() + ENDS_WITHIN_S
    while left := [pid for pid, owner in programs_having(OWNER) if not _lives(owner)]:
        late = time.monotonic() >= deadline
        for pid in left:
            if late or pid not in asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(pid)
        time.sleep(0.1)


def _lives(owner: str) -> bool:
    """Say whether an owner is still the process that it was; what is no owner's name is left alone."""
    pid, _, since = owner.partition(":")
    return not pid.isdecimal() or str(started(int(pid))) == since
