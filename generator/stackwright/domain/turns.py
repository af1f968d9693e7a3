"""What the program that loads models in turns is told (compose/engine/switch.py). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

TURNS_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One model that the program may load: its engine's arguments, and the variables that differ from model to model."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    pinned: bool


def format_turns(turns: tuple[Turn, ...], *, residence_s: str, drain_s: str, load_s: str) -> str:
    """Write the program's one argument, on one line: JSON, in which the numbers are texts.

    Compose fills the values in force into it as into any other argument, so none of them may need an escape.
    """
    document = {
        "schema": TURNS_SCHEMA,
        "minimum_residence_s": residence_s,
        "drain_s": drain_s,
        "preload": turns[0].name,
        "pinned": [each.name for each in turns if each.pinned],
        "models": [
            {
                "name": each.name,
                "arguments": each.arguments,
                "environment": dict(each.environment),
                "start_limit_s": load_s,
            }
            for each in turns
        ],
    }
    return json.dumps(document, ensure_ascii=False)
