"""Every failure that a user can act on, with its exit code. Touches nothing.

    StackError              1  unexpected
    ├── UsageError          2  a command line or a settings file is wrong
    ├── HostError           3  the host, or a snapshot of it, cannot be read
    ├── NoPlanError         4  no plan fits this host
    ├── ValidationError     5  the rendered files do not pass
    ├── RuntimeRefusedError 6  the daemon or the supervisor refused
    └── NotHealthyError     7  started, but does not answer
        (interrupted: 130, raised by Python as KeyboardInterrupt; nobody reads stdout: 141, report.ReaderGoneError)

Raise below; only `stackwright.__main__` exits.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from typing import ClassVar

EXIT_DONE = 0
EXIT_INTERRUPTED = 130
# What a shell calls the end by SIGPIPE, 128 + 13 (bash's manual, "Exit Status", read on 30 November 2026).
EXIT_UNREAD = 141


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
    """Return the known word that a slip of the hand may have made this of, or None where there is none.

    One of them begins with the other, or has all of its parts (`MAX_LEN` in `MAX_MODEL_LEN`), or a third of its letters
    differ at most. A beginning that all of them share makes no two of them close.
    """
    near = ((distance, name) for name in known if (distance := _distance(word.lower(), name.lower())) is not None)
    return min(near, default=(0, None))[1]


_PARTS = re.compile(r"[^-_./ ]+")


def _distance(word: str, name: str) -> float | None:
    """Return how far two words are apart, in letters or parts; None where nobody would mean the one by the other."""
    parts, of_name = _PARTS.findall(word), _PARTS.findall(name)
    if len(parts) > 1 and set(parts) <= set(of_name):
        return len(of_name) - len(parts)
    if min(len(word), len(name)) >= 3 and (name.startswith(word) or word.startswith(name)):
        return abs(len(word) - len(name))
    same = next((number for number, pair in enumerate(zip(parts, of_name, strict=False)) if pair[0] != pair[1]), 0)
    one, other = "_".join(parts[same:]), "_".join(of_name[same:])
    most = max(1, max(len(one), len(other)) // 3)
    # A word of thousands of letters is apart by its length: nothing is to be counted letter by letter.
    if abs(len(one) - len(other)) > most:
        return None
    letters = _letters_apart(one, other)
    # Of three letters another one makes another word: `gpu` is no `cpu`, `9b` no `4b`. At the end of a name another one
    # behind the same number may be a slip.
    is_short = len(one) == len(other) <= 3 and sorted(one) != sorted(other)
    if is_short and not (same and _numbers(one) == _numbers(other) != []):
        return None
    return letters if letters <= most else None


def _numbers(text: str) -> list[str]:
    return re.findall(r"[0-9]+", text)


def _letters_apart(one: str, other: str) -> int:
    """Count letters that are more, missing, wrong or exchanged with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        last, before, row = before, row, [i]
        for j, beside in enumerate(other, start=1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != beside))
            if last and j > 1 and letter == other[j - 2] and one[i - 2] == beside:
                least = min(least, last[j - 2] + 1)
            row.append(least)
    return row[-1]


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint naming the closest known word, or None where none is close."""
    match = closest(word, known)
    return f"did you mean `{match}`?" if match else None
