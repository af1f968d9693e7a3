"""A table for a terminal, as wide as there is room: columns that matter least go first, then words are cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

GAP = 2
# The least that a cut column keeps.
_LEAST = 12


class Column(Struct, frozen=True, kw_only=True):
    """One column. `right`: numbers end alike. `cut`: its words may be cut.

    `rank`: where it is narrow, the columns with the highest are left out first; those with 0 always stay.
    """

    title: str
    right: bool = False
    rank: int = 0
    cut: bool = False


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the title line and a line for each row, none wider than `width` where the columns that stay allow it."""
    kept = [at for at, column in enumerate(columns) if not column.rank or any(row[at] for row in rows)]
    while _natural(columns, rows, kept) > width:
        last = max(kept, key=lambda at: columns[at].rank)
        if not columns[last].rank:
            break
        if columns[last].cut and _room(columns, rows, kept, last, width) >= _LEAST:
            break
        kept.remove(last)
    widths = {at: _widest(columns, rows, at) for at in kept}
    over = sum(widths.values()) + GAP * (len(kept) - 1) - width
    for at in sorted(kept, key=lambda at: -columns[at].rank):
        if over > 0 and columns[at].cut:
            less = min(over, max(0, widths[at] - _LEAST))
            widths[at] -= less
            over -= less
    lines = [[columns[at].title for at in kept], *([row[at] for at in kept] for row in rows)]
    return [_line(line, [(columns[at], widths[at]) for at in kept]) for line in lines]


def shorten(text: str, width: int) -> str:
    """Cut a text to a width, with a mark where something is left out."""
    return text if len(text) <= width else text[: max(1, width - 1)].rstrip() + "…"


def _line(cells: Sequence[str], columns: Sequence[tuple[Column, int]]) -> str:
    placed = (
        f"{shorten(cell, width):>{width}}" if column.right else f"{shorten(cell, width):<{width}}"
        for cell, (column, width) in zip(cells, columns, strict=True)
    )
    return (" " * GAP).join(placed).rstrip()


def _widest(columns: Sequence[Column], rows: Sequence[Sequence[str]], at: int) -> int:
    return max(len(columns[at].title), *(len(row[at]) for row in rows), 0)


def _natural(columns: Sequence[Column], rows: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    return sum(_widest(columns, rows, at) for at in kept) + GAP * (len(kept) - 1)


def _room(columns: Sequence[Column], rows: Sequence[Sequence[str]], kept: Sequence[int], last: int, width: int) -> int:
    """Return what is left for a column beside the others."""
    return width - _natural(columns, rows, [at for at in kept if at != last]) - GAP
