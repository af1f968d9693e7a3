"""Reads the log files of the processes runtime: their ends, what is young enough, and what is written meanwhile.

Touches the files of one folder, read-only, and the clock. supervisord renames a full file and begins another.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from stackwright.runtime import LogLine, LogRequest

POLL_S = 0.2
CLOCK = timedelta(minutes=1)
"""By so much a line may be ahead of the clock that it is compared with, which was read before it."""

# How the programs of a stack begin a line, or their record in it: supervisord and Python's logging write ISO dates,
# An engine `INFO 11-29 17:35:01 [`, LiteLLM 1.108 `17:35:01 - LiteLLM`, Redis 7 `29 Nov 2026 17:35:01.123`.
_TIMES = (
    (re.compile(r"\b([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})(?![0-9])"), "%Y-%m-%d %H:%M:%S"),
    (re.compile(r"\b([0-9]{2} [A-Z][a-z]{2} [0-9]{4}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(?![0-9])"), "%d %b %Y %H:%M:%S"),
    (re.compile(r"\b([0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(?![0-9])"), "%m-%d %H:%M:%S"),
    (re.compile(r"^()([0-9]{2}:[0-9]{2}:[0-9]{2}) - "), " %H:%M:%S"),
)


def read_log_files(folder: Path, request: LogRequest) -> Iterator[LogLine]:
    """Yield lines: of each service what is asked for, then of all what comes, until the caller ends it.

    When a line was written is what stands in it, or in the one before that has a time.
    """
    lines = _read(folder, request)
    if not request.times:
        yield from lines
        return
    last: dict[str, str] = {}
    for line in lines:
        moment = moment_of(line.text, datetime.now().astimezone())
        if moment is not None:
            last[line.service] = f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        yield line._replace(at=last.get(line.service))


def _read(folder: Path, request: LogRequest) -> Iterator[LogLine]:
    since = None if request.since_s is None else datetime.now().astimezone() - timedelta(seconds=request.since_s)
    tails = [_Tail(name, folder / f"{name}.log") for name in request.services]
    try:
        for tail in tails:
            lines = tail.read(ended=not request.follow)
            lines = lines if since is None else young_lines(lines, since)
            for line in lines if request.tail is None else lines[max(len(lines) - request.tail, 0) :]:
                yield LogLine(tail.name, line)
        while request.follow:
            time.sleep(POLL_S)
            for tail in tails:
                for line in tail.read():
                    yield LogLine(tail.name, line)
    finally:
        for tail in tails:
            tail.close()


def young_lines(lines: list[str], since: datetime, now: datetime | None = None) -> list[str]:
    """Return the lines from the first one on that was written after a moment, by the times that stand in them.

    A line without a time is as old as the one before it; where none has a time, all are returned.
    """
    now = now or datetime.now().astimezone()
    moments = [moment_of(line, now) for line in lines]
    if not any(moments):
        return lines
    first = next((number for number, moment in enumerate(moments) if moment and moment >= since), len(lines))
    return lines[first:]


def moment_of(line: str, now: datetime) -> datetime | None:
    """Return the time that stands in a line; a year or day that it lacks are the last ones before `now`."""
    for pattern, form in _TIMES:
        found = pattern.search(line[:200])
        if found is None:
            continue
        with suppress(ValueError):
            if "%Y" in form:
                return datetime.strptime(f"{found[1]} {found[2]}", form).astimezone()
            lacks_day = "%m" not in form
            day = f"{now:%m-%d}" if lacks_day else found[1]
            moment = datetime.strptime(f"{now.year}-{day} {found[2]}", "%Y-%m-%d %H:%M:%S").astimezone()
            if moment <= now + CLOCK:
                return moment
            return moment - timedelta(days=1) if lacks_day else moment.replace(year=now.year - 1)
    return None


class _Tail:
    """One file, read on from where the last read ended."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self._path = name, path
        self._file: BinaryIO | None = None
        self._begun = b""

    def read(self, *, ended: bool = False) -> list[str]:
        """Return the lines that have been finished since; the last one too where the file has `ended`."""
        parts = []
        if self._file is None:
            self._open()
        if self._file is not None:
            parts.append(self._file.read())
            if self._is_renamed():
                self._file.close()
                self._open()
                parts.append(self._file.read())
        *whole, self._begun = (self._begun + b"".join(parts)).split(b"\n")
        if ended and self._begun:
            whole.append(self._begun)
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        with suppress(OSError):
            self._file = self._path.open("rb")

    def _is_renamed(self) -> bool:
        try:
            now = self._path.stat()
        except OSError:  # between the two names
            return False
        return self._file is not None and now.st_ino != os.fstat(self._file.fileno()).st_ino
