"""A table for a terminal, as wide as there is room: columns that matter least go first, then words are cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

GAP = 2
# A column is not cut below this; before that, others are left out.
_LEAST = 22


class Column(Struct, frozen=True, kw_only=True):
    """One column. `right`: numbers end alike. `cut`: its words may be cut.

    `rank`: where it is narrow, the columns with the highest are left out first; those with 0 always stay.
    """

    title: str
    right: bool = False
    rank: int = 0
    cut: bool = False


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], list[str]]:
    """Return the title line and a line for each row, none wider than `width` where the columns that stay allow it.

    With them come the titles of those columns that were left out for want of room.
    """
    kept = [at for at, column in enumerate(columns) if not column.rank or any(row[at] for row in rows)]
    natural = {at: max(len(columns[at].title), *(len(row[at]) for row in rows), 0) for at in kept}
    least = {at: min(natural[at], _LEAST) if columns[at].cut else natural[at] for at in kept}
    left_out = []
    while sum(least[at] for at in kept) + GAP * (len(kept) - 1) > width and any(columns[at].rank for at in kept):
        last = max(kept, key=lambda at: columns[at].rank)
        kept.remove(last)
        left_out.append(columns[last].title)
    over = sum(natural[at] for at in kept) + GAP * (len(kept) - 1) - width
    widths = {at: natural[at] for at in kept}
    for at in sorted(kept, key=lambda at: -columns[at].rank):
        less = min(max(over, 0), natural[at] - least[at])
        widths[at] -= less
        over -= less
    lines = [[columns[at].title for at in kept], *([row[at] for at in kept] for row in rows)]
    placed = [(columns[at], widths[at]) for at in kept]
    return [_line(line, placed) for line in lines], left_out[::-1]


def shorten(text: str, width: int) -> str:
    """Cut a text to a width, with a mark where something is left out."""
    return text if len(text) <= width else text[: max(1, width - 1)].rstrip() + "…"


def _line(cells: Sequence[str], columns: Sequence[tuple[Column, int]]) -> str:
    placed = (
        f"{shorten(cell, width):>{width}}" if column.right else f"{shorten(cell, width):<{width}}"
        for cell, (column, width) in zip(cells, columns, strict=True)
    )
    return (" " * GAP).join(placed).rstrip()
