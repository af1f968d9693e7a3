"""What the reading process tells of a file: plain data, which its parent checks before it believes it."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\.(jpg|wav)")
"""What a kept file may be called."""


class RefusedFileError(Exception):
    """A file that is not read; the message says why, for whoever sent it."""


@dataclass(slots=True, kw_only=True)
class Decoded:
    """What was found in a file.

    `media`: what it is. `files`: what was written of it, with `name` and `type`. `views`: the pictures in it, in their
    order: `file`, and the time or the page that each is from. `pages`: `page` and `text`. `sound`: the file with what
    is spoken, None where nothing is heard.
    """

    media: dict[str, Any] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    pages: list[dict[str, Any]] = field(default_factory=list)
    sound: str | None = None

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)
