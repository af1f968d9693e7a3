"""What was used with each key: the counts that the gateway keeps, one file a day. Reads that folder.

compose/gateway/keys.py writes them, and says what a row is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from stackwright.domain.environment import USAGE_FOLDER, EnvironmentPaths
from stackwright.errors import UsageError
from stackwright.reading import read_bytes

ROW = struct.Struct("<64s256s7q")
ENDING = ".counts"
MOST_BYTES = 65_536 * ROW.size


class ModelUsage(Struct, frozen=True, kw_only=True):
    """What one model answered."""

    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


class KeyUsage(Struct, frozen=True, kw_only=True):
    """What was used with a key in a day of UTC. `refused` are requests beyond a limit, of whatever model."""

    day: str
    key: str
    refused: int
    models: tuple[ModelUsage, ...]


def read_usage(paths: EnvironmentPaths, *, days: int, key: str | None = None) -> tuple[KeyUsage, ...]:
    """Return what was used in the last `days` that anything was, newest first; with one key, or with all.

    Raises:
        UsageError: a file cannot be read.
    """
    folder = paths.folder(USAGE_FOLDER)
    files = sorted(folder.glob(f"*{ENDING}"), reverse=True)[:days] if folder.is_dir() else []
    return tuple(usage for file in files for usage in _read_day(file) if key in (None, usage.key))


def _read_day(file: Path) -> Iterator[KeyUsage]:
    try:
        content = read_bytes(file, most=MOST_BYTES)
    except OSError as failure:
        raise UsageError(f"{file}: cannot be read: {failure.strerror}", hint="make it readable for you") from None
    refused: dict[str, int] = {}
    models: dict[str, list[ModelUsage]] = {}
    for row in ROW.iter_unpack(content[: len(content) // ROW.size * ROW.size]):
        key, model = (row[field].rstrip(b"\0").decode(errors="replace") for field in (0, 1))
        used = ModelUsage(model=model, requests=row[2], prompt_tokens=row[3], completion_tokens=row[4])
        if model:
            models.setdefault(key, []).append(used)
        elif key:
            refused[key] = row[5]
    for key in sorted({*refused, *models}):
        by_name = sorted(models.get(key, ()), key=lambda used: used.model)
        yield KeyUsage(day=file.stem, key=key, refused=refused.get(key, 0), models=tuple(by_name))
