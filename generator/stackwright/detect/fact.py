"""A fact is a probe and a pure function over its answer; here is the answer that did not come.

`read_file` reads below the root folder that it is given; the rest touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

from msgspec import Struct

T = TypeVar("T")

LONGEST_TEXT = 200
"""Characters of a name or version: NVML's own buffers end at 96 (nvml.h, NVML_DEVICE_NAME_V2_BUFFER_SIZE)."""

CHUNK_BYTES = 64 * 2**10
"""Bytes asked for at once: the kernel refuses a large read of /proc/sys, whose buffer it makes as large as asked."""

MOST_CHUNKS = 256
"""16 MiB: more than /proc/cpuinfo of a machine with 8192 threads."""

# nvml.h: NVML_DEVICE_PCI_BUS_ID_FMT is "%08X:%02X:%02X.0"; older drivers wrote four digits of domain.
PCI_ADDRESS = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]")

# NVML: "GPU-" and a UUID of RFC 4122's form. It names devices in rendered files.
UUID = re.compile(r"GPU-[0-9A-Za-z-]{1,92}")
# A MIG device's; before driver 470 it was MIG-GPU-<UUID>/<GPU instance>/<compute instance> (NVIDIA MIG user guide).
SLICE_UUID = re.compile(r"MIG-[0-9A-Za-z/-]{1,92}")


class Unread(Struct, frozen=True, kw_only=True):
    """A fact that could not be read. `words` are its source's own; `code` is NVML's number where NVML spoke."""

    words: str
    code: int | None = None


Fact: TypeAlias = T | Unread


class Missing(Struct, frozen=True, kw_only=True):
    """One null of the host, for the person: `subject` is `CPU` or `GPU 1`, `fact` what it lacks, `words` why."""

    subject: str
    fact: str
    words: str


def take(fact: Fact[T], missing: list[Missing], subject: str, name: str) -> T | None:
    """Return the fact, or None after adding to `missing` whose and which fact it was."""
    if isinstance(fact, Unread):
        missing.append(Missing(subject=subject, fact=name, words=fact.words))
        return None
    return fact


def known(fact: Fact[T]) -> T | None:
    """Return the fact, or None where it could not be read."""
    return None if isinstance(fact, Unread) else fact


def plain_text(fact: Fact[str]) -> Fact[str]:
    """Return one line of text with single blanks, or Unread where it is empty, too long or not printable.

    Names end up in rendered files: a control character in one is refused where it enters.
    """
    if isinstance(fact, Unread):
        return fact
    text = " ".join(fact.split())
    return text if is_plain(text) else Unread(words="not plain text")


def is_plain(text: str) -> bool:
    """Return whether a text is a single printable line of bearable length."""
    return 0 < len(text) <= LONGEST_TEXT and text.isprintable() and text == text.strip()


def whole_number(fact: Fact[str]) -> Fact[int]:
    """Return the decimal number that a text is."""
    if isinstance(fact, Unread):
        return fact
    text = fact.strip()
    digits = text.removeprefix("-")
    # 19 digits hold every 64-bit value; `isdigit` alone would take superscripts.
    if digits.isascii() and digits.isdigit() and len(digits) <= 19:
        return int(text)
    return Unread(words="not a number")


def describe(missing: Iterable[Missing]) -> tuple[str, ...]:
    """Write one sentence for every reason: subjects that lack the same fact, then facts of the same subjects, join.

    `GPUs 0 and 1: MIG mode cannot be read: Function Not Found`.
    """
    subjects: dict[tuple[str, str], list[str]] = {}
    for row in missing:
        seen = subjects.setdefault((row.fact, row.words), [])
        if row.subject not in seen:
            seen.append(row.subject)
    facts: dict[tuple[str, str], list[str]] = {}
    for (fact, words), names in subjects.items():
        facts.setdefault((_join_subjects(names), words), []).append(fact)
    return tuple(f"{who}: {_enumerate(what)} cannot be read: {words}" for (who, words), what in facts.items())


def read_file(root: Path, path: str) -> Fact[str]:
    """Read a text file of /proc or /sys; `path` is absolute on the host, `root` stands for its `/`."""
    try:
        with (root / path.lstrip("/")).open("rb", buffering=0) as file:
            chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
            return b"".join(islice(chunks, MOST_CHUNKS)).decode("utf-8", errors="replace")
    except (OSError, ValueError) as failure:  # ValueError: a NUL in a name that came from another file
        words = getattr(failure, "strerror", None) or "not a file name"
        return Unread(words=f"{path}: {words}")


def _join_subjects(names: list[str]) -> str:
    """Join `GPU 0` and `GPU 1` to `GPUs 0 and 1`; other names as they are."""
    if len(names) > 1 and all(name.startswith("GPU ") for name in names):
        return "GPUs " + _enumerate([name.removeprefix("GPU ") for name in names])
    return _enumerate(names)


def _enumerate(words: list[str]) -> str:
    """Join words as a sentence does: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
