"""What the tests of commands share: what one command did, and a folder's image before and after it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

CPU = ("configure-gpu", "--env=dev")


def named_alone(text: str, out: Path) -> str:
    """Write commands in messages by their names, without the checkout's path and the test's own host and folder."""
    own = rf" --host [^` ]+| --out {re.escape(shlex.quote(str(out)))}(?=[` ])"

    def alone(found: re.Match[str]) -> str:
        return re.sub(own, "", re.sub(r"^`(echo \w+ \| )?[^` ]*scripts/", r"`\1", found[0]))

    return re.sub(r"`[^`\n]*`", alone, text)


class Ran(Struct, frozen=True, kw_only=True):
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def told(self) -> tuple[str, str]:
        """The error and its hint, each the whole of its line."""
        error, hint = self.err.splitlines()[-2:]
        return error.removeprefix("error: "), hint.removeprefix("hint: ")


Run = Callable[..., Ran]
Image = dict[str, tuple[int, int, bytes]]


def image(folder: Path) -> Image:
    """Return mode and content of everything below a folder, and the time of its files: locks come and go in folders."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns if path.is_file() else 0,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }
