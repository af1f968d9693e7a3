"""Where a page that a command writes may lie: over an earlier one of its kind, and over nothing else."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.atomic import replace_file
from stackwright.errors import UsageError, unwritable


class PageFile(Struct, frozen=True, kw_only=True):
    """A page to write: the flag that named it, its file, what stands in each page of its kind, and what that is."""

    flag: str
    target: Path
    mark: str
    kind: str

    def refuse_to_overwrite(self) -> None:
        """Raise UsageError where the page cannot lie: in no folder, or over a file that is none of ours."""
        flag, target = self.flag, self.target
        if str(target) == "-":
            raise UsageError(f"{flag}: the page is written to a file", hint=f"name it: `{flag} page.html`")
        if not target.parent.is_dir():
            there = os.path.lexists(target.parent)
            hint = "name a file in a folder" if there else f"make it: `mkdir -p {shlex.quote(str(target.parent))}`"
            raise UsageError(f"{flag}: {target.parent} is no folder", hint=hint)
        try:
            if not target.exists():
                return
        except OSError as failure:  # a name that is too long
            message = f"{flag}: {target}: cannot be written: {failure.strerror or failure}"
            raise UsageError(message, hint="name another file") from None
        try:
            ours = target.is_file() and self.mark in target.read_bytes()[:4096].decode(errors="replace")
        except OSError:
            ours = False
        if not ours:
            raise UsageError(f"{flag}: {target} is there already, and is no {self.kind}", hint="name another file")

    def write(self, page: str) -> None:
        """Write the page. Raises UsageError where it cannot be."""
        try:
            replace_file(self.target, page, mode=None)
        except OSError as failure:
            raise unwritable(self.target, failure) from None
        report.tell(f"report: {self.target}")
