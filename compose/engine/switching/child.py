"""One engine as a program of its own that listens on a Unix socket: start, readiness, and an end that leaves nobody.

Standard library alone; Linux. `become_subreaper` makes the kernel hand every orphan below to this process, so that
"gone" means each process that the engine started, not only the first: a GPU's memory is free no sooner.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from group import EngineError

STOP_S = 6
"""From SIGTERM to SIGKILL; with ORPHANS_S below the 10 s that Compose gives a service to stop."""

ORPHANS_S = 2
"""How long what the engine leaves behind may take to end by itself: Python's resource tracker frees shared memory
then.
"""

POLL_S = 0.1

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h; Linux 3.4 and later."""


def become_subreaper() -> None:
    """Adopt what a process below leaves behind.

    Raises:
        OSError: the kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


class Child:
    """The engine of one model. `command` gets `--uds SOCKET` as its last words; its output is this program's own."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], socket: Path, start_limit_s: float
    ) -> None:
        self.socket = socket
        self._environment = environment
        self._command = (*command, "--uds", str(socket))
        self._start_limit_s = start_limit_s
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return once it answers `/health`.

        Raises:
            EngineError: it ended before, or took longer than the limit.
        """
        self.socket.unlink(missing_ok=True)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, env=self._environment
            )
        except OSError as error:
            raise EngineError(f"`{self._command[0]}` cannot be started: {error.strerror}") from error
        until = time.monotonic() + self._start_limit_s
        while not await is_healthy(self.socket):
            if self._process.returncode is not None:
                status = _exit_status(self._process.returncode)
                raise EngineError(f"its engine ended with status {status} while it started", max(status, 1))
            if time.monotonic() > until:
                raise EngineError(f"its engine was not ready after {self._start_limit_s:g} s")
            await asyncio.sleep(POLL_S)

    async def ended(self) -> int:
        """Wait for its end; return the exit status, or 128 and the number of the signal that ended it."""
        return _exit_status(await self._process.wait()) if self._process is not None else 1

    async def stop(self) -> None:
        """Return once it and all that it started are gone, killed where need be."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        await _outlive_orphans()
        self.socket.unlink(missing_ok=True)


async def is_healthy(socket: Path) -> bool:
    """Say whether what listens on a socket answers `/health` with 200 within 4 s."""
    try:
        async with asyncio.timeout(4):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
    except (OSError, ValueError):
        return False


async def _outlive_orphans() -> None:
    """Wait until this process has no children left, and end those that take too long."""
    until = time.monotonic() + ORPHANS_S
    while _reap():
        if time.monotonic() > until:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(POLL_S)


def _reap() -> bool:
    """Take note of the children that have ended; say whether others are left."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _, _, rest = entry.read_text(errors="replace").rpartition(")")
            if int(rest.split()[1]) == os.getpid():
                found.append(int(entry.parent.name))
    return found


def _exit_status(code: int) -> int:
    return code if code >= 0 else 128 - code
