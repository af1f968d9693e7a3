"""Every failure that a user can act on, with its exit code. Touches nothing.

    StackError              1  unexpected
    ├── UsageError          2  a command line or a settings file is wrong
    ├── HostError           3  the host, or a snapshot of it, cannot be read
    ├── NoPlanError         4  no plan fits this host
    ├── ValidationError     5  the rendered files do not pass
    ├── RuntimeRefusedError 6  the daemon or the supervisor refused
    └── NotHealthyError     7  started, but does not answer
        (interrupted: 130, raised by Python as KeyboardInterrupt)

Raise below; only `stackwright.__main__` exits.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import ClassVar

EXIT_DONE = 0
EXIT_INTERRUPTED = 130


class StackError(Exception):
    """A failure in one sentence, with the next step.

    Args:
        message: what failed, where, what was found and what is allowed; one line, no final period.
        hint: the next command or edit, or None where there is none.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(StackError):
    """The command line, an environment variable or a settings file is wrong."""

    exit_code = 2


class HostError(StackError):
    """The host cannot be read, or its snapshot is damaged or newer than this release."""

    exit_code = 3


class NoPlanError(StackError):
    """No plan fits the host: the message names what was found and what would be needed."""

    exit_code = 4


class ValidationError(StackError):
    """The rendered files, or the machine they are for, do not pass the checks."""

    exit_code = 5


class RuntimeRefusedError(StackError):
    """The container engine or the process supervisor refused or cannot be reached."""

    exit_code = 6


class NotHealthyError(StackError):
    """The stack was started but does not answer."""

    exit_code = 7


def unwritable(where: object, failure: OSError) -> UsageError:
    """Return the error of a file that cannot be written, be it for want of room or of a right.

    It names `where`, or the file that the failure itself names.
    """
    full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
    step = "make room on its disk" if full else "make the folder writable"
    return UsageError(
        f"{failure.filename or where}: cannot be written: {failure.strerror}",
        hint=f"{step}, or choose another with --out DIR",
    )


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word closest to `word`, or None where none is close."""
    # Only a failure asks for it.
    import difflib

    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint naming the closest known word, or None where none is close."""
    match = closest(word, known)
    return f"did you mean `{match}`?" if match else None
