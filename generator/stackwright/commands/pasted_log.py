"""A log that a person hands to a command: a file, or the standard input. Touches that file alone."""

from __future__ import annotations

import sys
from pathlib import Path

from stackwright.errors import UsageError
from stackwright.reading import read_bytes

# A log of a whole day has some tens of MB; what is longer is cut by whoever has it.
LONGEST_LOG = 256 * 2**20


def read_log(log: str) -> str:
    """Return the text of a file, of the standard input for `-`. Raises UsageError where it cannot be read."""
    try:
        raw = sys.stdin.buffer.read() if log == "-" else read_bytes(Path(log), most=LONGEST_LOG)
    except OSError as failure:
        raise UsageError(f"{log}: cannot be read: {failure.strerror or failure}", hint="name a file, or `-`") from None
    return raw.decode("utf-8", errors="replace")
