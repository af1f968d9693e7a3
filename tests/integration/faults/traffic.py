"""Clients that keep asking the gateway beside a block, and count what they got."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct, field

from tests.integration.project import Project, wait_until

CLIENTS = 2
PAUSE_S = 0.1
ANSWERED = 200


class Traffic(Struct, frozen=True, kw_only=True):
    """Each answer that came: when it was complete, on the monotonic clock, and its status; 0 where nothing answered."""

    answers: list[tuple[float, int]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many requests were not answered with a completion."""
        return sum(status != ANSWERED for _, status in self.answers)

    def words(self) -> str:
        """Say it for the table."""
        kinds = Counter(status for _, status in self.answers if status != ANSWERED)
        return f"{self.failed} of {len(self.answers)} requests failed" + (f" {dict(kinds)}" if kinds else "")

    def wait_for(self, *, more: int) -> None:
        """Wait until so many more completions have come."""
        goal = self._good + more
        wait_until(lambda: self._good >= goal or None)

    @property
    def _good(self) -> int:
        return len(self.answers) - self.failed


@contextmanager
def clients(project: Project) -> Iterator[Traffic]:
    """Keep asking for completions until the block ends."""
    traffic, ended = Traffic(), threading.Event()
    key = project.secrets["litellm_master_key"]

    def ask() -> None:
        while not ended.wait(PAUSE_S):
            # Another beginning each time: the same one would go to the same replica.
            message = {"role": "user", "content": f"{time.monotonic()}: say hello."}
            status, _ = project.ask(key, messages=[message])
            traffic.answers.append((time.monotonic(), status))

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        ended.set()
        for thread in threads:
            thread.join()
