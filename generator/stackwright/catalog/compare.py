"""What changed between two releases of the engine, as a table, from the catalog's files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stackwright.domain.catalog import holds
from stackwright.errors import StackError, UsageError
from stackwright.reading import load_yaml

_NO, _YES = "-", "yes"
Cells = tuple[str, str, str, str]


def compare_releases(folder: Path, old: str, new: str) -> tuple[Cells, ...]:
    """Return a row for each thing that one of the two has alone: what it is, its name, and who has it.

    Raises:
        UsageError: no file has sampled both.
        StackError: a file of the catalog is damaged.
    """
    rows: list[Cells] = []
    compared = False
    for file in sorted(folder.glob("*.yaml")):
        table = load_yaml(file, StackError, packaged=True)
        if isinstance(table, Mapping) and isinstance(table.get("sampled"), list):
            if {old, new} <= set(table["sampled"]):
                compared = True
                rows += _differences(table, (file.stem,), old, new)
            else:
                rows.append((file.stem, "not sampled", _mark(old in table["sampled"]), _mark(new in table["sampled"])))
    if not compared:
        raise UsageError(
            f"no table of the catalog has both {old} and {new}",
            hint="`sampled` in catalog/architectures.yaml lists the releases that were read",
        )
    return tuple(rows)


def describe(rows: tuple[Cells, ...], old: str, new: str) -> str:
    """Write the table as text, columns aligned."""
    table = [("what", "name", old, new), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in table
    )


def _differences(node: Mapping[str, Any], path: tuple[str, ...], old: str, new: str) -> Iterator[Cells]:
    for name, value in node.items():
        match value:
            case [str(first), str() | None as last]:
                yield from _row(path, name, *(holds((first, last), version) for version in (old, new)))
            case Mapping():
                yield from _differences(value, (*path, name), old, new)
            case [{"releases": list()}, *_]:
                for group in value:
                    (_, kind), *further = ((key, part) for key, part in group.items() if key != "releases")
                    named = ", ".join(f"{key.replace('_', ' ')} {_words(part)}" for key, part in further if part)
                    has = [version in group["releases"] for version in (old, new)]
                    yield from _row((*path, kind), named, *has)


def _row(path: tuple[str, ...], name: str, before: bool, after: bool) -> Iterator[Cells]:
    if before != after:
        yield " ".join(path), name, _mark(before), _mark(after)


def _mark(has: bool) -> str:
    return _YES if has else _NO


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
