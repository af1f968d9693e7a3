"""The least wheels that pip and uv take, made on the spot: an installation that asks no index."""

from __future__ import annotations

import hashlib
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path

from uv import find_uv_bin


def make_wheel(folder: Path, name: str, files: Mapping[str, str] | None = None) -> str:
    """Write version 1.0 of a package with one module, or with these files, and return the wheel's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    information = f"{name}-1.0.dist-info"
    parts = {
        **(files or {f"{name}.py": "NUMBER = 7\n"}),
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    parts[f"{information}/RECORD"] = "".join(f"{part},,\n" for part in [*parts, f"{information}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, text in parts.items():
            entry = zipfile.ZipInfo(part)
            entry.external_attr = 0o100755 << 16  # pip and uv keep a program's run bit
            archive.writestr(entry, text)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def make_uv_wheel(folder: Path) -> str:
    """Write a wheel that stands for uv's, with a program that is this machine's uv; return its SHA-256."""
    program = f'#!/bin/sh\nexec {shlex.quote(str(find_uv_bin()))} "$@"\n'
    return make_wheel(folder, "uv", {"uv-1.0.data/scripts/uv": program})
