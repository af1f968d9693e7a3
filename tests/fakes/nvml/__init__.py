"""Builds the fake NVML library of nvml.c with the system's C compiler; the format of its answers is at its top.

Writes only into the folder that it is given. The library is the boundary itself: the real `pynvml` loads it by name in
a subprocess whose LD_LIBRARY_PATH points at it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY = "libnvidia-ml.so.1"


def build_fake_nvml(folder: Path, answers: Path | None = None) -> Path:
    """Compile the library into `folder` and return that folder.

    Args:
        folder: an existing folder, best a temporary one.
        answers: where given, the functions that its `missing` lines name are left out of the library's symbols, as in
            an old driver; one library without it serves every other file of answers.

    Raises:
        subprocess.CalledProcessError: the C compiler refused; its words are on stderr.
    """
    exports = folder / "exports.map"
    hidden = " ".join(f"{name};" for name in missing_functions(answers))
    exports.write_text(f"{{ global: nvml*; local: {hidden} *; }};\n")
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", f"-Wl,--version-script={exports}"]
    subprocess.run([*command, "-o", str(folder / LIBRARY), str(SOURCE)], check=True)
    return folder


def missing_functions(answers: Path | None) -> tuple[str, ...]:
    """Return the functions that a file of answers calls missing."""
    lines = answers.read_bytes().decode(errors="replace").splitlines() if answers is not None else []
    return tuple(line.split()[1] for line in lines if line.startswith("missing "))


def environment(library_folder: Path, answers: Path) -> dict[str, str]:
    """Return the environment variables under which a subprocess meets the fake library with these answers."""
    return {"LD_LIBRARY_PATH": str(library_folder), "STACKWRIGHT_FAKE_NVML": str(answers)}
