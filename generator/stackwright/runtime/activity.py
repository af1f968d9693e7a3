"""What a service's processes have done so far, as the kernel counts it, and what its messages call them. Reads clocks.

What they have done tells a start that works in silence from one that hangs. Where the processes cannot be seen (an
engine in a machine of its own, another user's processes) there is nothing to tell, and nothing depends on it.

The kernel stamps its messages with seconds of uptime, sleep left out (CLOCK_MONOTONIC); Docker tells the time of day,
recorded groups the uptime with sleep. A machine that has slept since makes a service look older than it is, never
younger.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from stackwright.domain.service import Effort, Traces
from stackwright.runtime.process_groups import ProcessGroup


class MachineSample(Struct, frozen=True, kw_only=True):
    """The machine at one moment: seconds of work and of idleness of all processors together, and its memory."""

    processors: int
    busy_s: float
    idle_s: float
    memory_bytes: int
    memory_used_bytes: int


def sample_machine() -> MachineSample:
    """Read what the kernel has counted; what it could give to a new program counts as unused memory."""
    import psutil

    times, memory = psutil.cpu_times(), psutil.virtual_memory()
    idle_s = times.idle + getattr(times, "iowait", 0.0)
    # A guest's time is in `user` already (proc(5), /proc/stat).
    busy_s = sum(times) - idle_s - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return MachineSample(
        processors=psutil.cpu_count() or 1,
        busy_s=busy_s,
        idle_s=idle_s,
        memory_bytes=memory.total,
        memory_used_bytes=memory.total - memory.available,
    )


def memory_of(pids: Iterable[int]) -> int | None:
    """Return the bytes that these processes hold in memory; None where none of them can be seen.

    What several of them share is counted once, as far as the largest share of one goes: exact figures (PSS) take the
    kernel long for a process with many pages.
    """
    import psutil

    own: list[int] = []
    shared = 0
    for pid in pids:
        with suppress(psutil.Error):
            held = psutil.Process(pid).memory_info()
            own.append(max(held.rss - held.shared, 0))
            shared = max(shared, held.shared)
    return sum(own) + shared if own else None


def measure(pids: Iterable[int]) -> Effort | None:
    """Sum what these processes and their ended children have done; None where none of them can be seen."""
    import psutil

    seconds: list[float] = []
    reads: list[int] = []
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            times = process.cpu_times()
            seconds.append(times.user + times.system + times.children_user + times.children_system)
            # Some kernels do not count what is read, and psutil has no such method there.
            with suppress(AttributeError, RuntimeError):
                reads.append(process.io_counters().read_bytes)
    return Effort(cpu_s=sum(seconds), read_bytes=sum(reads) if reads else None) if seconds else None


def resident_bytes(pids: Iterable[int]) -> int:
    """Sum the memory that these processes hold for themselves, in bytes; what they share with others counts once.

    Proportional set size: proc_pid_smaps(5). One that has ended, or is not ours to look into, counts nothing.
    """
    import psutil

    total = 0
    for pid in pids:
        with suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total


def container_processes(pid: int, container: str) -> tuple[int, ...]:
    """Return the processes of a container by the id of its first one; none where that id means another process here.

    Args:
        pid: the first process as the container engine numbers it, 0 where it has none.
        container: the container's id, which the kernel names in its control group (psutil does not read those).
    """
    import psutil

    try:
        if pid <= 1 or container not in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace"):
            return ()
        return (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True)))
    except (OSError, psutil.Error):
        return ()


def container_traces(identity: str, started: datetime | None) -> Traces:
    """Return the traces of a container by its id and the time of its last start; Docker's year 1 is none."""
    if started is None or started.year < 1970:
        return Traces(container=identity)
    return Traces(
        container=identity, began_s=time.clock_gettime(time.CLOCK_MONOTONIC) - time.time() + started.timestamp()
    )


def group_traces(group: ProcessGroup) -> Traces:
    """Return the traces of a recorded process group."""
    slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return Traces(process=group.leader, began_s=group.started / os.sysconf("SC_CLK_TCK") - slept_s)
