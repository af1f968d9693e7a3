"""Several questions at once: answers come by name, one that hangs holds nobody up, and a failure is raised."""

from __future__ import annotations

import threading

import pytest
from stackwright.runtime.side_by_side import side_by_side


def test_questions_are_asked_at_once() -> None:
    """Each waits for the other: one after another, neither would answer."""
    both = threading.Barrier(2, timeout=60)
    asked = {"one": lambda: both.wait() >= 0, "two": lambda: both.wait() >= 0}
    assert side_by_side(asked, 60) == {"one": True, "two": True}


def test_what_hangs_is_left_out() -> None:
    hang = threading.Event()
    try:
        assert side_by_side({"quick": lambda: 1, "hung": lambda: 2 if hang.wait() else 3}, 0.05) == {"quick": 1}
    finally:
        hang.set()


def test_a_failure_is_raised() -> None:
    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        side_by_side({"one": lambda: 1, "two": fail}, 60)
