"""One command at a time per environment, and what one that was killed had been doing.

A file in the environment's generated folder, held with flock(2): the kernel lets go of it when its owner ends, however
that comes. Its text tells others who holds it. A command that ends takes it away, so one that is found unheld was
left by a command that was killed, and its text says what there is to finish. Touches that folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct
from msgspec.structs import asdict, replace

from stackwright.errors import RuntimeRefusedError, UsageError, unwritable
from stackwright.interrupts import clean_end
from stackwright.reading import convert, read_bytes
from stackwright.units import format_seconds

NAME = ".command.json"
LOOKS_WITHIN_S = 0.2
_LONGEST = 4096
_NO_ROOM_OR_RIGHT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class Work(Struct, frozen=True, kw_only=True):
    """What a command is doing. `since` in seconds since the epoch.

    `starting`: services have been asked for, or are about to be, and have neither answered nor been taken down.
    `ran`: there were some before, and `before` is the number of the generation that they were of, None where nobody
    wrote that down.
    """

    command: str
    pid: int
    since: float
    starting: bool = False
    ran: bool = False
    before: int | None = None
    runtime: str | None = None


class Lock:
    """The hold of one environment by this command. `left` is what a killed command had been doing, or None.

    A command that needs no record goes on where none can be written: `unwritten` is then why, else None.
    """

    def __init__(self, folder: Path, command: str, *, needs_record: bool = True) -> None:
        self._path = folder / NAME
        self._needs_record = needs_record
        self._file: int | None = None
        self.unwritten: OSError | None = None
        self._made: list[Path] = []
        self.work = Work(command=command, pid=os.getpid(), since=time.time())
        self.left: Work | None = None

    def __enter__(self) -> Self:
        """Take hold.

        Raises:
            RuntimeRefusedError: another command holds it.
            UsageError: the folder cannot be written, and a record is needed.
        """
        try:
            self._file = self._open()
        except BlockingIOError:
            raise _refused(self._path) from None
        except OSError as failure:
            self._remove_folders()
            raise unwritable(self._path, failure) from None
        if self._file is not None:
            self.left = _parse(os.pread(self._file, _LONGEST, 0))
        if self.left is not None and self.left.starting:  # until a command has seen to it, it is still to be seen to
            self.work = replace(self.left, command=self.work.command, pid=self.work.pid, since=self.work.since)
        try:
            self._write()
        except OSError as failure:  # the disk is full
            self.__exit__(None, None, None)
            raise unwritable(self._path, failure) from None
        return self

    def note(self, work: Work) -> None:
        """Write down what is being done, for the next command, should this one be killed."""
        self.work = work
        self._write()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let go, and leave nothing behind unless services have been asked for and nobody knows how that ended."""
        if self._file is not None:
            with nullcontext() if self.unwritten is None else suppress(OSError):
                if not self.work.starting:
                    self._path.unlink(missing_ok=True)
            os.close(self._file)
        self._remove_folders()

    def _open(self) -> int | None:
        """Open the file and hold it; one that cannot be written as it stands, where no record is needed, or none."""
        try:
            self._made = _make_folders(self._path.parent)
            return _open_held(self._path, os.O_RDWR | os.O_CREAT)
        except OSError as failure:
            self._do_without(failure)
        try:
            return _open_held(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        if self._file is None or self.unwritten is not None:
            return
        text = (json.dumps(asdict(self.work)) + "\n").encode()
        try:
            # The first line counts, so that there is no moment at which nothing stands there.
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))
        except OSError as failure:
            self._do_without(failure)

    def _do_without(self, failure: OSError) -> None:
        """Go on without a record for want of room or of a right; raise where one is needed, or for anything else."""
        if self._needs_record or failure.errno not in _NO_ROOM_OR_RIGHT:
            raise failure
        self.unwritten = failure

    def _remove_folders(self) -> None:
        with suppress(OSError):
            for folder in reversed(self._made):
                folder.rmdir()


def read_work(folder: Path) -> tuple[Work | None, bool]:
    """Return what stands in the lock of an environment's generated folder, and whether a command holds it now."""
    try:
        file = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return None, False
    try:
        work = _parse(os.pread(file, _LONGEST, 0))
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return work, True
    finally:
        os.close(file)
    return work, False


@contextmanager
def hold(folders: tuple[Path, ...], command: str, *, needs_record: bool = True) -> Iterator[tuple[Lock, ...]]:
    """Hold the environments of these generated folders, while SIGTERM and SIGHUP end the command as Ctrl-C does.

    Raises:
        RuntimeRefusedError: another command holds one of them.
        UsageError: one cannot be written, and a record is needed.
    """
    with clean_end() as gate:
        held = ExitStack()
        gate.shut = True  # no interruption between making a lock's file and being bound to take it away
        try:
            locks = tuple(held.enter_context(Lock(folder, command, needs_record=needs_record)) for folder in folders)
            gate.open()
            yield locks
        finally:
            gate.shut = True
            held.close()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the ones that were missing, the topmost first."""
    missing = [parent for parent in (*reversed(folder.parents), folder) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _open_held(path: Path, flags: int) -> int:
    """Open and lock a file that is still the one of its name: the owner before may just have taken it away.

    Raises:
        BlockingIOError: it is held; by more than one who only looks whether it is.
    """
    deadline = time.monotonic() + LOOKS_WITHIN_S
    while True:
        file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.fstat(file).st_ino == path.stat().st_ino:
                    return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(file)
                raise
            time.sleep(0.02)
        os.close(file)


def _parse(text: bytes) -> Work | None:
    """Read a note; None where there is none, or it makes no sense."""
    try:
        return convert(json.loads(text.partition(b"\n")[0]), Work, where=NAME, error=UsageError)
    except (ValueError, RecursionError, UsageError):
        return None


def _refused(path: Path) -> RuntimeRefusedError:
    try:
        work = _parse(read_bytes(path))
    except OSError:
        work = None
    if work is None:
        return RuntimeRefusedError(f"{path}: another command is running", hint="wait for it to end")
    age = format_seconds(max(time.time() - work.since, 0))
    return RuntimeRefusedError(
        f"{path.parent.name}: `{work.command}` is running, process {work.pid}, since {age}",
        hint=f"wait for it to end, or end it: kill {work.pid}",
    )
