"""What the kernel grants this process: CPU affinity, and the CPU time and memory of its control groups.

Touches /proc/self and /sys/fs/cgroup below a root folder; read-only. Every parser is pure. Formats: Linux's
Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, proc(5).
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from stackwright.detect.fact import Unread, read_file, whole_number

LARGEST_CPU = 2**16
"""A bound for CPU and node numbers: the kernel's own is CONFIG_NR_CPUS, at most 8192."""

MOUNT = "/sys/fs/cgroup"


class ResourceLimits(Struct, frozen=True, kw_only=True):
    """`affinity`: the CPUs this process may run on; `cpus`: CPUs of time; None where there is no limit or no answer."""

    affinity: frozenset[int] | None
    cpus: float | None
    memory_bytes: int | None


def read_limits(root: Path) -> ResourceLimits:
    """Read every limit; the tightest of the nested control groups counts."""
    status = read_file(root, "/proc/self/status")
    groups = read_file(root, "/proc/self/cgroup")
    text = "" if isinstance(groups, Unread) else groups
    cpus = [_read_quota(root, folder) for folder in cgroup_folders(text, "cpu")]
    memory = [_read_memory(root, folder) for folder in cgroup_folders(text, "memory")]
    return ResourceLimits(
        affinity=None if isinstance(status, Unread) else parse_affinity(status),
        cpus=min((quota for quota in cpus if quota is not None), default=None),
        memory_bytes=min((limit for limit in memory if limit is not None), default=None),
    )


def parse_affinity(status: str) -> frozenset[int] | None:
    """Find Cpus_allowed_list in /proc/self/status: what sched_getaffinity(2) answers, cpusets included."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "Cpus_allowed_list":
            return parse_cpu_list(value)
    return None


def parse_cpu_list(text: str) -> frozenset[int] | None:
    """Parse the kernel's `0-3,8,10-11`; empty text is the empty set, anything else None."""
    numbers: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        bounds = [whole_number(first), whole_number(last if dash else first)]
        if any(isinstance(bound, Unread) or not 0 <= bound < LARGEST_CPU for bound in bounds):
            return None
        low, high = (bound for bound in bounds if not isinstance(bound, Unread))
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def cgroup_folders(text: str, controller: str) -> tuple[str, ...]:
    """Return the folders that may limit this process, from /proc/self/cgroup, innermost first.

    A container often sees its own group as the mount's root while the text names the path on the host: every
    ancestor counts, and those that are not there are skipped when they are read.
    """
    folders: list[str] = []
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            folders += _ancestors(MOUNT, path)
        elif controller in controllers.split(","):
            folders += _ancestors(f"{MOUNT}/{controller}", path)
            folders += _ancestors(f"{MOUNT}/{controllers}", path) if controllers != controller else []
    return tuple(dict.fromkeys(folders))


def parse_cpu_max(text: str) -> float | None:
    """Parse cgroup v2's cpu.max, `400000 100000` (microseconds of each period) or `max 100000`, into CPUs."""
    words = text.split()
    return _divide(words[0], words[1]) if len(words) == 2 else None


def parse_byte_limit(text: str) -> int | None:
    """Parse memory.max or memory.limit_in_bytes; `max` is no limit."""
    limit = whole_number(text)
    return None if isinstance(limit, Unread) or limit <= 0 else limit


def _read_quota(root: Path, folder: str) -> float | None:
    both = read_file(root, f"{folder}/cpu.max")
    if not isinstance(both, Unread):
        return parse_cpu_max(both)
    quota = read_file(root, f"{folder}/cpu.cfs_quota_us")
    period = read_file(root, f"{folder}/cpu.cfs_period_us")
    return None if isinstance(quota, Unread) or isinstance(period, Unread) else _divide(quota, period)


def _read_memory(root: Path, folder: str) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = read_file(root, f"{folder}/{name}")
        if not isinstance(text, Unread):
            return parse_byte_limit(text)
    return None


def _divide(quota: str, period: str) -> float | None:
    """Divide CPU time by its period; -1 and `max` are no quota."""
    time, length = whole_number(quota), whole_number(period)
    if isinstance(time, Unread) or isinstance(length, Unread) or time <= 0 or length <= 0:
        return None
    return time / length


def _ancestors(mount: str, path: str) -> list[str]:
    """List a group's folder and those above it; `..` (a group outside this namespace) leaves only the mount."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    return ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
