"""Byte units, read and written the same way everywhere. Touches nothing."""

from __future__ import annotations

from functools import lru_cache

MIB = 2**20
GIB = 2**30


def format_bytes(count: int | None) -> str:
    """Write a byte count for people: `23.6 GiB`, `310 MiB`, `12 B`; `unknown` for None."""
    if count is None:
        return "unknown"
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    if count >= MIB:
        return f"{count / MIB:.0f} MiB"
    return f"{count / 1024:.0f} KiB" if count >= 1024 else f"{count} B"


def format_seconds(seconds: float) -> str:
    """Write a duration for people: `7s`, `1m05s`."""
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


@lru_cache(maxsize=4096)
def version_parts(text: str) -> tuple[int, ...]:
    """Read `12.9` or `575.51.03` as numbers, for comparison; anything else compares as the oldest."""
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else (0,)
