"""What every screen is laid out with: columns, dots between items, bars of a memory, short names of GPUs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

LEAST_WIDTH = 30
"""Columns that no terminal is taken to have fewer of."""
_MAKER = re.compile(r"^NVIDIA (?:GeForce )?")


class Tone(StrEnum):
    """What a span is, for a terminal with colours."""

    PLAIN = "plain"
    NAME = "name"
    WEIGHTS = "weights"
    CACHE = "cache"
    OVERHEAD = "overhead"
    OTHERS = "others"
    FREE = "free"
    DOUBT = "doubt"


class Part(Struct, frozen=True):
    """One part of a memory: its name in the legend, its bytes, and its tone."""

    name: str
    bytes: int
    tone: Tone


class Glyphs(Struct, frozen=True, kw_only=True):
    """The characters of a picture: bars, what stands between items, and a link with its name in the middle."""

    bars: Mapping[Tone, str]
    dot: str
    times: str
    link: str
    nvlink: str

    @property
    def all(self) -> str:
        """Every character, to be tried on an encoding."""
        return "".join((*self.bars.values(), self.dot, self.times, self.link, self.nvlink))


UNICODE = Glyphs(
    bars={Tone.OTHERS: "▞", Tone.WEIGHTS: "█", Tone.CACHE: "▓", Tone.OVERHEAD: "▒", Tone.FREE: "░"},
    dot="·",
    times="×",
    link="─",
    nvlink="═",
)
ASCII = Glyphs(
    bars={Tone.OTHERS: "x", Tone.WEIGHTS: "#", Tone.CACHE: "=", Tone.OVERHEAD: "+", Tone.FREE: "."},
    dot="|",
    times="x",
    link="-",
    nvlink="=",
)


class Sheet(Struct, frozen=True, kw_only=True):
    """What a page is written on: its columns, and whether its encoding has more than ASCII."""

    width: int = 80
    ascii: bool = False

    @property
    def glyphs(self) -> Glyphs:
        """The characters that its encoding has."""
        return ASCII if self.ascii else UNICODE

    def bar(self, parts: Sequence[Part], width: int) -> str:
        """Draw the parts of a whole, in order."""
        columns = share_columns(parts, width)
        return "".join(self.glyphs.bars[part.tone] * count for part, count in zip(parts, columns, strict=True))

    @property
    def dot(self) -> str:
        """What stands between two things."""
        return f" {self.glyphs.dot} "

    def flow(self, items: Iterable[str], indent: str, first: str | None = None) -> Iterator[str]:
        """Lay items out with dots between them; `first` begins the first line.

        A line is broken between two items, and inside of one only where it is longer than a line.
        """
        line, begun = indent if first is None else first, False
        for item in items:
            addition = f"{self.dot if begun else ''}{item}"
            if begun and len(line) + len(addition) > self.width:
                yield line.rstrip()
                line, addition = indent, item
            line, begun = line + addition, True
            while len(line) > self.width and (cut := line.rfind(" ", len(indent) + 1, self.width + 1)) > 0:
                yield line[:cut].rstrip()
                line = indent + line[cut + 1 :]
        if begun or first is not None:
            yield line.rstrip()


def share_columns(parts: Sequence[Part], width: int, total: int = 0) -> list[int]:
    """Share `width` columns among the parts of a whole, by their bytes; `total`: of the whole, where it has more.

    A part that is there has a column at least, while there are columns. What rounding leaves goes to what is free.
    """
    whole = max(total, sum(part.bytes for part in parts))
    sizes = [max(1, round(part.bytes * width / whole)) if part.bytes > 0 else 0 for part in parts]
    while sum(sizes) > width and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    if sizes and sum(sizes) < width:
        last_is_free = parts[-1].tone is Tone.FREE and (parts[-1].bytes > 0 or not whole)
        sizes[-1 if last_is_free else sizes.index(max(sizes))] += width - sum(sizes)
    return sizes


def short_name(name: str) -> str:
    """Return a GPU's name without its maker's."""
    return _MAKER.sub("", name)
