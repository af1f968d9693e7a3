"""Write an archive for a bug report: everything that was gathered, with secrets and names taken out.

Touches one file.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from stackwright.diagnosis.redaction import Redaction
from stackwright.errors import UsageError

FOLDER = "stackwright-report"
README = """A report for Stackwright's maintainers. Read it before you send it.

Secrets, tokens, addresses with credentials, your home folder, user and machine names have been taken out; what a
model's name, a folder or a prompt in a log tells has not. No file of envs/.secrets is in here.
"""


def write_bundle(target: Path, files: Mapping[str, str], redaction: Redaction) -> tuple[str, ...]:
    """Write `files`, texts by their path in the archive, and return those paths. Nobody else may read the archive.

    Raises:
        UsageError: something stands there already, or it cannot be written; nothing is left behind then.
    """
    texts = {"README.txt": README, **{_safe(name): redaction.apply(text) for name, text in files.items()}}
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{target} exists already", hint="choose another file with --bundle FILE") from None
    except OSError as failure:
        raise UsageError(f"{target}: cannot be written: {failure.strerror}", hint="name another file") from None
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in sorted(texts.items()):
                _add(archive, f"{FOLDER}/{name}", text)
    except OSError as failure:
        target.unlink(missing_ok=True)
        raise UsageError(
            f"{target}: cannot be written: {failure.strerror}", hint="name a file on another disk"
        ) from None
    return tuple(sorted(texts))


def _safe(name: str) -> str:
    """Keep a name that was read from somewhere inside the archive's folder."""
    parts = (re.sub(r"[^\w.-]", "_", part) for part in name.split("/"))
    return "/".join(part for part in parts if part.strip("."))


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode(errors="backslashreplace")
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))
