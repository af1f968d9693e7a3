"""What an import has to say of each line, and what it takes from there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct

from stackwright.engines.vllm.importing.tree import Spot


class Fate(StrEnum):
    """What became of something in the file; the value is the word that a person reads."""

    TAKEN = "taken"
    DROPPED = "dropped"
    SECRET = "secret"
    UNSAFE = "unsafe"
    BROKEN = "would not start"
    UNKNOWN = "unknown"


class Note(Struct, frozen=True, kw_only=True):
    """One thing in the file: its line, what it is, what became of it, and why or as what."""

    at: Spot
    fate: Fate
    subject: str
    why: str


class Taken(Struct, frozen=True, kw_only=True):
    """A wish that comes from the file: its place in envs/<env>.yaml, its value, and where it stood as what.

    `path` is of keys and, within lists, numbers from 0. Below `settings`, a third element is the number of the model
    that it is for.
    """

    path: tuple[str | int, ...]
    value: Any
    at: Spot
    subject: str

    def place(self, number: Mapping[int, str]) -> tuple[str | int, ...]:
        """Return the place with the key of a setting as it is written; `number` as in `build_document`."""
        if self.path[0] == "settings" and len(self.path) == 3:
            return "settings", f"{self.path[1]}{number[int(self.path[2])]}"
        return self.path

    def place_text(self, number: Mapping[int, str]) -> str:
        """Write the place as error messages do: `models[0].args.dtype`."""
        keys = self.place(number)
        return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def build_document(base: Mapping[str, Any], taken: Iterable[Taken], number: Mapping[int, str]) -> dict[str, Any]:
    """Return the wishes as YAML would parse them: `base` with what was taken over it.

    Args:
        base: the wishes that an environment begins with.
        taken: what the file asks for.
        number: what ends the key of a setting of each model, by its position.
    """
    document: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    models: dict[int, dict[str, Any]] = {}
    for wish in taken:
        if wish.path[0] == "models":
            _put(models.setdefault(int(wish.path[1]), {}), wish.path[2:], wish.value)
        else:
            _put(document, wish.place(number), wish.value)
    first = {"schema": document.pop("schema"), "model": None}
    document.pop("model", None)
    return {**first, "models": [models[position] for position in sorted(models)], **document}


def _put(target: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    for key in path[:-1]:
        target = target.setdefault(str(key), {})
    last = str(path[-1])
    if isinstance(value, list) and isinstance(target.get(last), list):
        target[last] = [*target[last], *(item for item in value if item not in target[last])]
    else:
        target[last] = value
