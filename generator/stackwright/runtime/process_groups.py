"""Processes of this user that stacks and commands have left at work: told from strangers, and ended. Signals them.

**Recorded groups**, of services. One is a line `LEADER STARTED`: the process id of its leader, which is the group's
number too, and the leader's start time in clock ticks since boot. The kernel gives a number to nobody else while a
group bears it (pid_namespaces aside), so a group whose leader is gone but whose number is not taken by a process of
another start time is still the recorded one. The environment cannot tell: an engine's workers overwrite it with their
title.

**Owned programs**: clients of the container engine, installations. Each is started with a variable that names the
command that it works for; where that one is gone, it works for nobody, and would go on starting services, or
installing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from stackwright.errors import RuntimeRefusedError

if TYPE_CHECKING:
    from psutil import Process

T = TypeVar("T")

OWNER = "STACKWRIGHT_OWNER"
ORPHAN_ENDS_WITHIN_S = 10.0
# The kernel takes a killed engine's memory back within seconds; what waits for a disk that is gone never ends.
KILLED_WITHIN_S = 60.0


class ProcessGroup(Struct, frozen=True, kw_only=True):
    """One recorded process group."""

    leader: int
    started: int


def read_groups(path: Path) -> tuple[ProcessGroup, ...]:
    """Read a file of recorded groups, oldest first; none where the file is missing. Damaged lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    words = [line.split() for line in lines]
    pairs = [pair for pair in words if len(pair) == 2 and all(word.isdecimal() for word in pair)]
    return tuple(ProcessGroup(leader=int(leader), started=int(started)) for leader, started in pairs)


def members(group: ProcessGroup) -> tuple[int, ...]:
    """Return the ids of the living processes of a recorded group; none where its number is someone else's now."""
    import psutil

    # Never a group that a damaged file could make of this process, init, or everyone.
    if group.leader <= 1 or group.leader == os.getpgrp():
        return ()
    with contextlib.suppress(psutil.NoSuchProcess):
        if _started(group.leader) != group.started:
            return ()
    return tuple(pid for pid in psutil.pids() if _is_in(pid, group))


def end_groups(groups: Iterable[ProcessGroup], *, patience_s: float) -> None:
    """End every process of these groups: asked politely, then killed after `patience_s`. Returns when they are gone.

    Raises:
        RuntimeRefusedError: one does not end even when it is killed.
    """
    groups = [group for group in groups if members(group)]
    for group in groups:
        _send(group, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        groups = [group for group in groups if members(group)]
    for group in groups:
        _send(group, signal.SIGKILL)
    deadline = time.monotonic() + KILLED_WITHIN_S
    while left := [pid for group in groups for pid in members(group)]:
        _refuse_immortals(left, deadline)
        time.sleep(0.05)


def signal_groups(groups: Iterable[ProcessGroup], request: signal.Signals) -> None:
    """Send every process of these groups a signal, and do not wait."""
    for group in groups:
        if members(group):
            _send(group, request)


def _refuse_immortals(left: list[int], deadline: float) -> None:
    if time.monotonic() > deadline:
        numbers = ", ".join(map(str, left))
        raise RuntimeRefusedError(
            f"killed, and still there after {KILLED_WITHIN_S:g} seconds: process {numbers}",
            hint="it waits inside the kernel, for a disk or a device that does not answer: see `dmesg`, or restart",
        )


def programs_with(argument: str) -> list[int]:
    """Return the processes of this user with `argument` in their command line, this one aside."""
    return [process.pid for process in _with_argument(argument)]


def end_programs(argument: str, *, patience_s: float) -> None:
    """End every process with `argument` in its command line, as `end_groups` does; also one that appears meanwhile."""
    _end_all(lambda: _with_argument(argument), patience_s)


def owned() -> dict[str, str]:
    """Return the variable, with this command as the owner."""

    return {OWNER: f"{os.getpid()}:{_started(os.getpid())}"}


def end_orphans() -> None:
    """End what works for a command that is gone: asked politely, then killed. Returns when it has gone too."""
    _end_all(_orphans, ORPHAN_ENDS_WITHIN_S)


def _end_all(find: Callable[[], list[Process]], patience_s: float) -> None:
    """End what is found until nothing is: each process is asked once, and killed after `patience_s`.

    One that is frozen heeds nothing else, and is killed at once.
    """
    import psutil

    asked: set[Process] = set()
    deadline = time.monotonic() + patience_s
    while running := find():
        late = time.monotonic() >= deadline
        _refuse_immortals([process.pid for process in running], deadline + KILLED_WITHIN_S)
        for process in running:
            kill = late or _read(process.status) == psutil.STATUS_STOPPED
            if kill or process not in asked:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
                asked.add(process)
        time.sleep(0.1)


def _with_argument(argument: str) -> list[Process]:
    return [
        process
        for process in _own_processes()
        if process.pid != os.getpid() and argument in (_read(process.cmdline) or [])
    ]


def _orphans() -> list[Process]:
    """Return the processes that began with the variable in their environment, and whose owner is gone."""
    owners = ((process, (_read(process.environ) or {}).get(OWNER)) for process in _own_processes())
    return [process for process, owner in owners if owner is not None and not _lives(owner)]


def _lives(owner: str) -> bool:
    """Return whether an owner is still the process that it was; what is no owner's name is left alone."""
    import psutil

    pid, _, since = owner.partition(":")
    try:
        return not pid.isdecimal() or (str(_started(int(pid))) == since and not _is_dead(int(pid)))
    except psutil.NoSuchProcess:
        return False


def _own_processes() -> Iterator[Process]:
    import psutil

    for process in psutil.process_iter():
        uids = _read(process.uids)
        if uids is not None and uids.effective == os.getuid():
            yield process


def _read(ask: Callable[[], T]) -> T | None:
    """Ask a process for something; None where it has ended meanwhile, or is not ours to ask."""
    import psutil

    try:
        return ask()
    except psutil.Error:
        return None


def _is_in(pid: int, group: ProcessGroup) -> bool:
    """Return whether a process is a living member of a recorded group."""
    import psutil

    try:
        return os.getpgid(pid) == group.leader and not _is_dead(pid) and _started(pid) >= group.started
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def _is_dead(pid: int) -> bool:
    import psutil

    return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def _started(pid: int) -> int:
    """Return when a process began, in clock ticks since boot. Raises psutil.NoSuchProcess.

    psutil gives its time of day, from the time of day of the boot, which the kernel shifts as the clock is set.
    """
    import psutil

    while True:
        boot = psutil.boot_time()
        began = psutil.Process(pid).create_time()
        if psutil.boot_time() == boot:
            return round((began - boot) * os.sysconf("SC_CLK_TCK"))


def _send(group: ProcessGroup, request: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group.leader, request)
