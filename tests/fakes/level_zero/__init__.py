"""Builds the fake Level Zero loader of level_zero.c with the system's C compiler; the format is at its top.

Writes only into the folder that it is given. The library is the boundary itself: a process whose LD_LIBRARY_PATH points
at it loads it by name.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("level_zero.c")
LIBRARY = "libze_loader.so.1"


def build_fake_level_zero(folder: Path, *, without: str = "") -> Path:
    """Compile the library into `folder` and return that folder.

    Args:
        folder: an existing folder, best a temporary one.
        without: a function that is left out of the library's symbols, as in an old loader.

    Raises:
        subprocess.CalledProcessError: the C compiler refused; its words are on stderr.
    """
    hidden = f"-D{without}={without}_hidden" if without else "-DNOTHING_HIDDEN"
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", hidden]
    subprocess.run([*command, "-o", str(folder / LIBRARY), str(SOURCE)], check=True)
    return folder
