"""What is free on this machine now: room on disks, memory, swap, and what the kernel grants to this user's processes.

Touches /proc and /sys below a root folder, and the folders that it is asked about; read-only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from stackwright.detect.cpu import parse_meminfo
from stackwright.detect.fact import Unread, read_file
from stackwright.domain.machine import Disk, MemoryState, ProcessLimits, Seen, Unseen

SHARED_MEMORY = Path("/dev/shm")
INFINIBAND = Path("/sys/class/infiniband")


def read_disk(folder: Path) -> Seen[Disk]:
    """Return the room for this user on the file system where `folder` is, or is to be made."""
    above = folder
    try:
        while not above.exists() and above != above.parent:
            above = above.parent
        room = os.statvfs(above)
        device = above.stat().st_dev
    except (OSError, ValueError) as failure:
        return Unseen(why=getattr(failure, "strerror", None) or "not a folder name")
    # Some file systems (btrfs) have no fixed number of files and answer 0 of 0.
    files = room.f_favail if room.f_files else None
    return Disk(path=str(above), free_bytes=room.f_bavail * room.f_frsize, free_files=files, device=device)


def file_system_kind(folder: Path) -> str | None:
    """Return the kind of file system that a folder is on, such as `nfs4`; None where the kernel does not say."""
    text = read_file(Path("/"), "/proc/self/mountinfo")
    return None if isinstance(text, Unread) else parse_mounts(text, str(folder.resolve()))


def parse_mounts(text: str, path: str) -> str | None:
    """Find the mount that holds a path in /proc/self/mountinfo (proc(5)): the longest, of equals the last."""
    kind, longest = None, -1
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        if len(words := before.split()) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4])
        if len(point) >= longest and (path == point or path.startswith(point.rstrip("/") + "/")):
            kind, longest = after.split()[0], len(point)
    return kind


def read_memory(root: Path = Path("/")) -> Seen[MemoryState]:
    """Return the memory that a new program can have, and swap, from /proc/meminfo (proc(5))."""
    text = read_file(root, "/proc/meminfo")
    if isinstance(text, Unread):
        return Unseen(why=text.words)
    values = parse_meminfo(text)
    available = values.get("MemAvailable")
    if available is None:
        return Unseen(why="/proc/meminfo has no MemAvailable")
    return MemoryState(
        available_bytes=available,
        swap_bytes=values.get("SwapTotal", 0),
        swap_free_bytes=values.get("SwapFree", 0),
    )


def read_process_limits() -> ProcessLimits:
    """Return the hard limits: what a program that asks for more can have."""
    import resource

    def limit(kind: int) -> int | None:
        _, hard = resource.getrlimit(kind)
        return None if hard == resource.RLIM_INFINITY else hard

    return ProcessLimits(open_files=limit(resource.RLIMIT_NOFILE), locked_bytes=limit(resource.RLIMIT_MEMLOCK))


def has_infiniband() -> bool:
    """Return whether this machine has adapters that read memory by themselves, which NCCL then uses."""
    try:
        return any(INFINIBAND.iterdir())
    except OSError:
        return False
