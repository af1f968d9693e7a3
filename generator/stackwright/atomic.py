"""Files that are whole or not there: written beside their target, then renamed over it. Touches that folder alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ENDING = ".tmp"


def replace_file(target: Path, text: str, mode: int | None = 0o600) -> None:
    """Write `text` to `target`, whole or not at all, with permission bits `mode`; None leaves them to the umask.

    Nobody whom `mode` shuts out can open it, not even for a moment.

    Raises:
        OSError: it cannot be written; what stood there still does.
    """
    staged = target.with_name(f".{target.name}.{new_token()}{ENDING}")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


def new_token() -> str:
    """Return a word that no other run uses in its staged names."""
    return os.urandom(6).hex()


def stale_files(target: Path) -> Iterator[Path]:
    """Yield what killed runs have staged for `target`; those of a run still at work are among them."""
    beginning = f".{target.name}."
    if target.parent.is_dir():
        yield from (
            path
            for path in target.parent.iterdir()
            if path.name.startswith(beginning) and path.name.endswith(ENDING) and len(path.name) == len(beginning) + 16
        )
