"""What a service's processes have done so far, as the kernel counts it. Reads /proc.

It tells a start that works in silence from one that hangs. Where the processes cannot be seen (an engine in a machine
of its own, another user's processes) there is nothing to tell, and nothing depends on it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from stackwright.domain.service import Effort

PROC = Path("/proc")


def measure(pids: Iterable[int]) -> Effort | None:
    """Sum what these processes and their ended children have done; None where none of them can be seen."""
    pids = tuple(pids)
    ticks = [count for count in map(_processor_ticks, pids) if count is not None]
    if not ticks:
        return None
    reads = [count for count in map(_read_bytes, pids) if count is not None]
    return Effort(cpu_s=sum(ticks) / os.sysconf("SC_CLK_TCK"), read_bytes=sum(reads) if reads else None)


def container_processes(pid: int, container: str) -> tuple[int, ...]:
    """Return the processes of a container by the id of its first one; none where that id means another process here.

    Args:
        pid: the first process as the container engine numbers it, 0 where it has none.
        container: the container's id, which the kernel names in its control group.
    """
    if pid <= 1 or container not in _text(PROC / str(pid) / "cgroup"):
        return ()
    children: dict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (fields := _fields(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    family = [pid]
    for member in family:  # grows while it is walked
        family += children[member]
    return tuple(family)


def _processor_ticks(pid: int) -> int | None:
    """Return user and system time, with those of ended children: fields 14 to 17 of proc(5)."""
    fields = _fields(pid)
    return sum(int(field) for field in fields[11:15]) if fields else None


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; none where the process is gone."""
    return _text(PROC / str(pid) / "stat").rpartition(")")[2].split()


def _read_bytes(pid: int) -> int | None:
    """Return what a process has had read from disks; None where this user may not know."""
    for line in _text(PROC / str(pid) / "io").splitlines():
        name, _, count = line.partition(":")
        if name == "read_bytes":
            return int(count)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
