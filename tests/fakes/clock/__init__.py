"""A wall clock that a test sets while a program runs, built with the machine's own compiler."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "clock.c"


class FakeClock:
    """The wall clock of the programs that are started with `variables`; it begins with the right time."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock.so", folder / "seconds"
        self.set_ahead(0)
        command: list[str | Path] = [
            os.environ.get("CC", "cc"),
            "-shared",
            "-fPIC",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            library,
            SOURCE,
        ]
        subprocess.run(command, check=True)
        self.variables = {"LD_PRELOAD": str(library), "FAKE_CLOCK_FILE": str(self._file)}

    def set_ahead(self, seconds: int) -> None:
        """Set the clock so many seconds ahead of the true time, or back where that is negative."""
        self._file.write_text(f"{seconds}\n")
