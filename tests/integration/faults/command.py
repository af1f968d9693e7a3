"""One command of the package under test, in the foreground or beside the test, and how it ended.

Touches the processes that it starts and a temporary file for what they say.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import zip_longest
from types import TracebackType
from typing import Self

from msgspec import Struct

from tests.cli.commands import named_alone
from tests.integration.project import CHECKOUT, START_S, Project, wait_until


class Ended(Struct, frozen=True, kw_only=True):
    """How a command ended. `said`: its stderr; `seconds`: from the fault (`Command.mark`), else from its start."""

    code: int
    printed: str
    said: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """The messages of a failure, each with its hint; of findings of a validation, the one that counts them."""
        return [f"{line}\n{after}".strip() for line, after in self._pairs() if not after.startswith("  fix: ")]

    @property
    def findings(self) -> list[str]:
        """The findings of a validation that are errors, each with its fix."""
        return [f"{line}\n{after}" for line, after in self._pairs() if after.startswith("  fix: ")]

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """Yield each line that begins with `error: `, and what belongs to it of the line after."""
        lines = self.said.splitlines()
        for line, after in zip_longest(lines, lines[1:], fillvalue=""):
            if line.startswith("error: "):
                yield line, after if after.startswith(("hint: ", "  fix: ")) else ""


class Command:
    """A command of a project that runs beside the test. Left to itself, it is killed at the end of the block."""

    def __init__(self, project: Project, *words: str, **variables: str) -> None:
        self._folder = project.folder
        self._words = [sys.executable, "-m", "stackwright", *words, f"--out={project.folder}"]
        self._variables = {**project.variables, **variables}

    def __enter__(self) -> Self:
        """Start it."""
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # until the block ends
        self._since = time.monotonic()
        self.process = subprocess.Popen(
            self._words,
            cwd=CHECKOUT,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Kill what still runs; a failed test shows what it has said."""
        self.process.kill()
        self.process.wait()
        if error is not None:
            print(f"--- {' '.join(self._words[2:])}\n{self.said}")
        self._out.close()
        self._err.close()

    @property
    def said(self) -> str:
        """Return what it has said so far on stderr."""
        return _content(self._err.fileno())

    def wait_for(self, words: str) -> None:
        """Wait until it has said something; fail where it ends without."""

        def look() -> bool:
            ended = self.process.poll() is not None
            if words in self.said:
                return True
            assert not ended, f"ended with {self.process.returncode} and never said `{words}`:\n{self.said}"
            return False

        wait_until(lambda: look() or None)

    def mark(self) -> None:
        """Count the seconds from now on: this is the moment of the fault."""
        self._since = time.monotonic()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, which is the fault."""
        self.mark()
        self.process.send_signal(number)

    def end(self) -> Ended:
        """Wait for its end."""
        code = self.process.wait(timeout=START_S)
        seconds = time.monotonic() - self._since
        return Ended(
            code=code, printed=_content(self._out.fileno()), said=named_alone(self.said, self._folder), seconds=seconds
        )


def run(project: Project, *words: str, **variables: str) -> Ended:
    """Run a command of the package to its end; `variables` stand over the project's own."""
    with Command(project, *words, **variables) as command:
        return command.end()


def _content(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
