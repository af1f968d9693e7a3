"""Which rows of the packaged catalog are old, and which stand there from memory. Touches the packaged files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

from msgspec import Struct

from stackwright.errors import StackError
from stackwright.reading import load_yaml

OLD_DAYS = 90
_FROM_MEMORY = re.compile(r"\b(recalled|not read again|unverified|from memory)\b")


class FactRow(Struct, frozen=True, kw_only=True):
    """One row of the catalog. `recalled`: the fields that are from memory, or that nobody could look up again."""

    file: str
    row: str
    date: str
    days: int
    recalled: tuple[str, ...]
    source: str


def read_rows(folder: Path, today: date) -> tuple[FactRow, ...]:
    """Return every row that has a source and a date, in the order of the files. Raises StackError for a damaged one."""
    files = sorted(folder.glob("*.yaml"))
    return tuple(
        _fact(file.name, row, today) for file in files for row in _rows(load_yaml(file, StackError, packaged=True))
    )


def _rows(node: object) -> Iterator[Mapping[str, object]]:
    if isinstance(node, Mapping):
        if "source" in node and "date" in node:
            yield node
        for part in node.values():
            yield from _rows(part)
    elif isinstance(node, list):
        for part in node:
            yield from _rows(part)


def _fact(file: str, row: Mapping[str, object], today: date) -> FactRow:
    name = str(row.get("id") or row.get("name") or next(iter(row.values())))
    version = row.get("version")
    try:
        day = date.fromisoformat(str(row["date"]))
    except ValueError:
        raise StackError(f"{file}: {name}: date: found {str(row['date'])!r}, not a day such as 2026-11-21") from None
    texts = {key: value for key, value in row.items() if isinstance(value, str)}
    return FactRow(
        file=file,
        row=f"{name} {version}" if version else name,
        date=day.isoformat(),
        days=(today - day).days,
        recalled=tuple(key for key, text in texts.items() if _FROM_MEMORY.search(text)),
        source=str(row["source"]),
    )
