"""Asks several things at once, and waits for none longer than it may take: what hangs holds nobody up.

Starts threads, which end with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def side_by_side(questions: Mapping[str, Callable[[], T]], limit_s: float) -> dict[str, T]:
    """Return the answers that come within `limit_s`, by name; the others are left to themselves.

    Raises:
        Exception: what the first question that failed has raised.
    """
    answers: dict[str, T] = {}
    failures: list[Exception] = []

    def answer(name: str, question: Callable[[], T]) -> None:
        try:
            answers[name] = question()
        except Exception as failure:  # noqa: BLE001  # it is raised where it is waited for
            failures.append(failure)

    # Daemons: the end of the command does not wait for a question that nobody answers.
    threads = [threading.Thread(target=answer, args=row, daemon=True) for row in questions.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    if failures:
        raise failures[0]
    return dict(answers)
