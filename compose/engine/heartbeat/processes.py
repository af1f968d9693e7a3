"""The processes below this one: what they do, what they used of the processor, and their end.

Touches /proc and sends signals. Standard library alone; Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h; Linux 3.4 and later."""

STACKS_S, ORPHANS_S, POLL_S = 5.0, 2.0, 0.05
"""How long processes may take to write their stacks, and what then is left to end by itself: Python's resource tracker
frees shared memory once the others are gone.
"""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

STATES = {
    "R": "running",
    "S": "asleep",
    "D": "waiting for a disk or a driver",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "Z": "ended",
}
"""proc(5), /proc/pid/stat."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process: its state as STATES has it, its parent, and the seconds of processor time that it has used."""

    pid: int
    parent: int
    name: str
    state: str
    used_s: float


def become_subreaper() -> None:
    """Adopt what a process below leaves behind, so that its end is the end of all; a kernel may refuse."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def below(pid: int, folder: Path = Path("/proc")) -> list[Process]:
    """Return the living processes below one, parents before children."""
    children: dict[int, list[Process]] = {}
    for process in _all(folder):
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], [pid]
    while waiting:
        for process in children.get(waiting.pop(0), []):
            waiting.append(process.pid)
            found += [process] if process.state != "Z" else []
    return found


def _all(folder: Path) -> Iterator[Process]:
    for entry in folder.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            head, _, rest = entry.read_text(errors="replace").rpartition(")")
            pid, _, name = head.partition(" (")
            words = rest.split()
            used_s = (int(words[11]) + int(words[12])) / TICKS_PER_S
            yield Process(pid=int(pid), parent=int(words[1]), name=name, state=words[0], used_s=used_s)


def describe(processes: Iterable[Process], folder: Path = Path("/proc")) -> str:
    """Return what each process does, and in which call of the kernel, as far as the kernel tells."""
    return ", ".join(
        f"{process.name} {process.pid} {STATES.get(process.state, process.state)}{_call(process.pid, folder)}"
        for process in processes
        if not _is_tracker(process.pid, folder)
    )


def _call(pid: int, folder: Path) -> str:
    with contextlib.suppress(OSError):
        name = (folder / str(pid) / "wchan").read_text(errors="replace").strip()
        return f" ({name})" if name not in ("", "0") else ""
    return ""


def _is_tracker(pid: int, folder: Path = Path("/proc")) -> bool:
    with contextlib.suppress(OSError):
        return b"resource_tracker" in (folder / str(pid) / "cmdline").read_bytes()
    return False


def end_with_stacks(pid: int) -> None:
    """End everything below a process; each Python program that has PYTHONFAULTHANDLER set writes its stacks first.

    SIGABRT needs no permission to trace, and reaches a program that hangs inside a library. One that was stopped gets
    it when it goes on.
    """
    for process in below(pid):
        if not _is_tracker(process.pid):
            for number in (signal.SIGABRT, signal.SIGCONT):
                _signal(process.pid, number)
    _outlive([process.pid for process in below(pid) if not _is_tracker(process.pid)], STACKS_S)
    end(pid)


def end(pid: int) -> None:
    """End everything below a process: trackers by themselves, the rest by SIGKILL; return once nobody is left."""
    for process in below(pid):
        if not _is_tracker(process.pid):
            _signal(process.pid, signal.SIGKILL)
    _outlive([process.pid for process in below(pid)], ORPHANS_S)
    until = time.monotonic() + STACKS_S
    while (left := below(pid)) and time.monotonic() < until:
        for process in left:
            _signal(process.pid, signal.SIGKILL)
        _reap()
        time.sleep(POLL_S)
    _reap()


def _outlive(pids: list[int], limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        _reap()
        if not {process.pid for process in below(os.getpid())} & {*pids}:
            return
        time.sleep(POLL_S)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
