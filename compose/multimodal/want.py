"""What a client wants of a file: its JSON, checked and filled up."""

from collections.abc import Mapping
from typing import Any

MUST, MAY = "must", "if-possible"

BY_MODEL = ("captions", "transcript", "embedding", "picture_embedding")
"""What a model of the stack is needed for: `true` fails the job where there is none, `"if-possible"` leaves it out. A
list of names wants them if possible. `embedding` is of every text, and of pictures where the model takes them.
"""

PLAIN = ("thumbnails", "exif")
NUMBERS = {"keyframes": (8, 64), "pages": (20, 200), "scanned_pages": (20, 1000)}
"""How many frames or page pictures `true` means, and how many may be asked for. Scanned pages have no text."""

MOST_QUESTION = 4000
EVERYTHING: Mapping[str, Any] = {
    **dict.fromkeys(BY_MODEL, MAY),
    "picture_embedding": "",
    **dict.fromkeys(PLAIN, True),
    **{name: usual for name, (usual, _) in NUMBERS.items()},
    "question": "",
    "language": "",
}
"""What is done where a client names nothing: all that the file has and the stack can."""


class WantError(Exception):
    """A wish that cannot be read; the message says which, and what is allowed."""


def read_want(told: object) -> dict[str, Any]:
    """Return the wishes of a client: an object, a list of names, or nothing for everything. Raises WantError."""
    if told is None:
        return dict(EVERYTHING)
    if isinstance(told, list) and all(isinstance(name, str) for name in told):
        told = {name: MAY if name in BY_MODEL else True for name in told}
    if not isinstance(told, dict):
        raise WantError("`want` must be an object or a list of names")
    if unknown := sorted(set(told) - set(EVERYTHING)):
        raise WantError(f"`want` has no `{unknown[0]}`; it has {', '.join(EVERYTHING)}")
    want: dict[str, Any] = {**dict.fromkeys(BY_MODEL, ""), **dict.fromkeys(PLAIN, False), **dict.fromkeys(NUMBERS, 0)}
    for name in BY_MODEL:
        want[name] = _by_model(name, told.get(name, False))
    for name in PLAIN:
        want[name] = _truth(name, told.get(name, False))
    for name, (usual, most) in NUMBERS.items():
        want[name] = _number(name, told.get(name, False), usual, most)
    want["question"] = _text("question", told.get("question", ""), MOST_QUESTION)
    want["language"] = _text("language", told.get("language", ""), 8)
    return want


def _by_model(name: str, value: object) -> str:
    if value not in (True, False, None, MAY):
        raise WantError(f'`want.{name}` must be true, false or "{MAY}"')
    return MUST if value is True else str(value or "")


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise WantError(f"`want.{name}` must be true or false")
    return value


def _number(name: str, value: object, usual: int, most: int) -> int:
    if isinstance(value, bool):
        return usual if value else 0
    if not isinstance(value, int) or not 0 <= value <= most:
        raise WantError(f"`want.{name}` must be true, false or a number from 0 to {most}")
    return value


def _text(name: str, value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise WantError(f"`want.{name}` must be a text of at most {most} characters")
    return value.strip()
