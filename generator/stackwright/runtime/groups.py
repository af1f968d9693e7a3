"""Process groups that were recorded when they started: told from strangers, and ended. Reads /proc, sends signals.

A recorded group is a line `LEADER STARTED`: the process id of its leader, which is the group's number too, and the
leader's start time in clock ticks since boot. The kernel gives a number to nobody else while a group bears it
(pid_namespaces aside), so a group whose leader is gone but whose number is not taken by a process of another start
time is still the recorded one. The environment cannot tell: vLLM's workers overwrite it with their process title.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One recorded process group."""

    leader: int
    started: int


@dataclass(frozen=True, kw_only=True)
class _Process:
    """What /proc/<pid>/stat tells: `started` in clock ticks since boot."""

    pid: int
    dead: bool
    group: int
    started: int


def read_groups(path: Path) -> tuple[Group, ...]:
    """Read a file of recorded groups, oldest first; none where the file is missing. Damaged lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    words = [line.split() for line in lines]
    pairs = [pair for pair in words if len(pair) == 2 and all(word.isdecimal() for word in pair)]
    return tuple(Group(leader=int(leader), started=int(started)) for leader, started in pairs)


def members(group: Group) -> tuple[int, ...]:
    """Return the ids of the living processes of a recorded group; none where its number is someone else's now."""
    # Never a group that a damaged file could make of this process, init, or everyone.
    if group.leader <= 1 or group.leader == os.getpgrp():
        return ()
    leader = _read(group.leader)
    if leader is not None and leader.started != group.started:
        return ()
    found = (_read(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdecimal())
    return tuple(
        process.pid
        for process in found
        if process is not None
        and process.group == group.leader
        and not process.dead
        and process.started >= group.started
    )


def end_groups(groups: Iterable[Group], *, patience_s: float) -> None:
    """End every process of these groups: asked politely, then killed after `patience_s`. Returns when they are gone."""
    groups = [group for group in groups if members(group)]
    for group in groups:
        _send(group, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        groups = [group for group in groups if members(group)]
    for group in groups:
        _send(group, signal.SIGKILL)
    while any(members(group) for group in groups):
        time.sleep(0.05)


def end_programs(argument: str, *, patience_s: float) -> None:
    """End every process with `argument` in its command line, as `end_groups` does; also one that appears meanwhile."""
    asked: set[int] = set()
    deadline = time.monotonic() + patience_s
    while running := programs_with(argument):
        late = time.monotonic() >= deadline
        for pid in running:
            if late or pid not in asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(pid)
        time.sleep(0.1)


def programs_with(argument: str) -> list[int]:
    """Return the processes of this user with `argument` in their command line, this one aside."""
    found = []
    for entry in PROC.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and int(entry.name) != os.getpid() and entry.stat().st_uid == os.getuid():
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found += [int(entry.name)] if os.fsencode(argument) in words else []
    return found


def programs_having(variable: str) -> list[tuple[int, str]]:
    """Return the processes of this user that began with a variable in their environment, with its value."""
    beginning = os.fsencode(variable) + b"="
    found = []
    for entry in PROC.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and entry.stat().st_uid == os.getuid():
                words = (entry / "environ").read_bytes().split(b"\0")
                values = [word[len(beginning) :] for word in words if word.startswith(beginning)]
                found += [(int(entry.name), os.fsdecode(value)) for value in values]
    return found


def started(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None where there is none."""
    process = _read(pid)
    return None if process is None or process.dead else process.started


def _send(group: Group, request: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group.leader, request)


def _read(pid: int) -> _Process | None:
    """Read one process; None where it is gone. The name, in brackets, may hold anything (proc(5))."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return _Process(pid=pid, dead=fields[0] in "ZX", group=int(fields[2]), started=int(fields[19]))
