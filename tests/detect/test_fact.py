"""Facts: what is text, what is a number, and the sentences for what could not be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.detect.fact import Missing, Unread, describe, is_plain, plain_text, read_file, take, whole_number


@given(text=st.text())
def test_plain_text_is_plain_or_unread(text: str) -> None:
    """Whatever NVML or a file says, what passes may stand in a rendered file, and passing twice changes nothing."""
    fact = plain_text(text)
    if not isinstance(fact, Unread):
        assert is_plain(fact)
        assert plain_text(fact) == fact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AMD EPYC 7B13   64-Core Processor  \n", "AMD EPYC 7B13 64-Core Processor"),
        ("", Unread(words="not plain text")),
        ("a\x1b[31mb", Unread(words="not plain text")),
        ("x" * 200, "x" * 200),
        ("x" * 201, Unread(words="not plain text")),
        (Unread(words="why", code=3), Unread(words="why", code=3)),
    ],
)
def test_plain_text(text: str | Unread, expected: str | Unread) -> None:
    """Blanks join; control characters and absurd lengths are refused; a reason passes through."""
    assert plain_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12\n", 12),
        ("-1", -1),
        ("0", 0),
        ("", None),
        ("-", None),
        ("1.5", None),
        ("²", None),
        ("9" * 20, None),
        ("٣", None),
    ],
)
def test_whole_number(text: str, expected: int | None) -> None:
    """Only ASCII digits of bearable length are a number."""
    assert whole_number(text) == (Unread(words="not a number") if expected is None else expected)


@given(number=st.integers(-(2**62), 2**62))
def test_whole_number_reads_what_the_kernel_writes(number: int) -> None:
    """Every number comes back."""
    assert whole_number(f"{number}\n") == number


@pytest.mark.parametrize(
    ("rows", "sentences"),
    [
        ([], ()),
        ([("GPU 1", "memory", "lost")], ("GPU 1: memory cannot be read: lost",)),
        ([("GPU 1", "memory", "lost")] * 2, ("GPU 1: memory cannot be read: lost",)),
        (
            [("GPU 1", "memory", "lost"), ("GPU 1", "name", "lost"), ("GPU 1", "UUID", "lost")],
            ("GPU 1: memory, name and UUID cannot be read: lost",),
        ),
        (
            [("GPU 0", "MIG mode", "absent"), ("GPU 1", "MIG mode", "absent"), ("GPU 2", "MIG mode", "absent")],
            ("GPUs 0, 1 and 2: MIG mode cannot be read: absent",),
        ),
        (
            [("GPU 0", "memory", "lost"), ("GPU 1", "memory", "busy"), ("CPU", "cores", "lost")],
            (
                "GPU 0: memory cannot be read: lost",
                "GPU 1: memory cannot be read: busy",
                "CPU: cores cannot be read: lost",
            ),
        ),
    ],
)
def test_describe(rows: list[tuple[str, str, str]], sentences: tuple[str, ...]) -> None:
    """One sentence a reason: alike subjects and alike facts join."""
    assert describe(Missing(subject=who, fact=what, words=why) for who, what, why in rows) == sentences


def test_take_notes_what_is_missing() -> None:
    """A known fact passes; an unread one becomes None and a row."""
    missing: list[Missing] = []
    assert take(0, missing, "GPU 0", "memory") == 0
    assert take(Unread(words="lost"), missing, "GPU 1", "memory") is None
    assert missing == [Missing(subject="GPU 1", fact="memory", words="lost")]


def test_read_file_stays_below_its_root(tmp_path: Path) -> None:
    """An absolute path is one below the root; failures keep the system's words; strange bytes do not hurt."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_bytes(b"MemTotal: \xff\n")
    assert read_file(tmp_path, "/proc/meminfo") == "MemTotal: \ufffd\n"
    assert read_file(tmp_path, "/proc/absent") == Unread(words="/proc/absent: No such file or directory")
    assert read_file(tmp_path, "/proc") == Unread(words="/proc: Is a directory")
    assert read_file(tmp_path, "/proc/a\0b") == Unread(words="/proc/a\0b: not a file name")


def test_read_file_ends() -> None:
    """A file without end is read as far as the bound: 256 pieces of 64 KiB."""
    text = read_file(Path("/"), "/dev/zero")
    assert isinstance(text, str)
    assert len(text) == 2**24
