"""The parent's side of the child that reads documents (parsing.py): one at a time, within its time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

import orjson

from retrieval.failures import DocumentError
from retrieval.pieces import Piece

PATIENCE_S = 180.0
"""Longest time for one document on the clock. The child's own limit is on processor time, and comes first."""

LONGEST_ANSWER_BYTES = 128 << 20
"""An answer is read whole: a text of the greatest length, its overlaps, and room for what is escaped."""

MOST_DOCUMENTS = 500
"""After so many a new child begins, so that what libraries leave behind does not add up."""


class Parser:
    """A child that reads documents, started when there is one, and again when it has died."""

    def __init__(self) -> None:
        self._child: asyncio.subprocess.Process | None = None
        self._read = 0

    async def pieces(self, path: Path, media_type: str, capacity: int) -> tuple[list[Piece], list[int]]:
        """Return a document's passages, of `capacity` characters at most, and the numbers of its scanned pages.

        Raises:
            DocumentError: it cannot be read, or not within the limits.
        """
        question = orjson.dumps({"path": str(path), "media_type": media_type, "capacity": capacity}) + b"\n"
        answer = await self._ask(question)
        if answer is None:  # a child can die of what happened before; a document that kills a fresh one is at fault
            answer = await self._ask(question)
        if answer is None:
            raise DocumentError("reading it ended the reader twice")
        if "unreadable" in answer:
            raise DocumentError(answer["unreadable"])
        return [Piece(**row) for row in answer["pieces"]], list(answer["scanned"])

    async def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _ask(self, question: bytes) -> dict[str, Any] | None:
        """Return the child's answer; None where it died."""
        if self._read >= MOST_DOCUMENTS:
            await self.close()
        child = self._child or await self._start()
        self._read += 1
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(question)
            await child.stdin.drain()
            line = await asyncio.wait_for(child.stdout.readuntil(b"\n"), PATIENCE_S)
        except (TimeoutError, asyncio.LimitOverrunError):
            await self.close()
            raise DocumentError(f"reading it takes more than {PATIENCE_S:.0f} seconds") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            status = await child.wait()
            self._child = None
            if status == -signal.SIGXCPU:
                raise DocumentError("reading it takes too much processor time") from None
            return None
        except BaseException:
            await self.close()  # its answer would be taken for the next one's
            raise
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        self._read = 0
        self._child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "retrieval.parsing"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_ANSWER_BYTES,
        )
        return self._child
