"""A table fits the terminal: columns go by rank, words are cut."""

from __future__ import annotations

import pytest
from stackwright.rendering.table import Column, lay_out, shorten

COLUMNS = (
    Column(title="MODEL"),
    Column(title="SIZE", right=True, rank=3),
    Column(title="EMPTY", rank=1),
    Column(title="AT", right=True, rank=2),
    Column(title="NOTES", rank=1, cut=True),
)
ROWS = (("one", "1", "", "10", "short"), ("another", "1,000", "", "2", "a note that is long enough to be cut in two"))


def test_all_columns_with_room_and_none_that_is_empty() -> None:
    lines, left_out = lay_out(COLUMNS, ROWS, 200)
    assert left_out == []
    assert lines == [
        "MODEL     SIZE  AT  NOTES",
        "one          1  10  short",
        "another  1,000   2  a note that is long enough to be cut in two",
    ]


def test_words_are_cut_before_a_column_goes() -> None:
    lines, left_out = lay_out(COLUMNS, ROWS, 45)
    assert left_out == []
    assert lines[2] == "another  1,000   2  a note that is long enou…"


@pytest.mark.parametrize(
    ("width", "left_out"), [(42, []), (41, ["SIZE"]), (31, ["AT", "SIZE"]), (10, ["NOTES", "AT", "SIZE"])]
)
def test_the_highest_rank_goes_first(width: int, left_out: list[str]) -> None:
    assert lay_out(COLUMNS, ROWS, width)[1] == left_out


@pytest.mark.parametrize("width", range(7, 80))
def test_no_line_is_wider(width: int) -> None:
    assert all(len(line) <= width for line in lay_out(COLUMNS, ROWS, width)[0])


def test_a_table_without_rows_is_its_titles() -> None:
    assert lay_out(COLUMNS[:1], (), 80) == (["MODEL"], [])


def test_a_cut_text_ends_with_a_mark() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("ab cdef", 4) == "ab…"
