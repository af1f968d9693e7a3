"""Read one fact of a `config.json` under any of the names that model families give it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# A number beyond this, or below 0, belongs to a damaged file and is not read.
_MOST = 2**31
# Where multimodal configurations keep the language model (transformers 5, configuration_*.py of the families).
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "language_model", "decoder")


def text_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the part that describes the language model; the whole where it is not nested."""
    inner = mapping(config, "thinker_config")
    if inner:
        return text_part(inner)
    for key in _TEXT_PARTS:
        part = mapping(config, key)
        if "hidden_size" in part or "num_hidden_layers" in part or "d_model" in part:
            return part
    return config


def mapping(config: Mapping[str, object], *keys: str) -> Mapping[str, object]:
    """Return the first of the named entries that is a mapping; an empty one where none is."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, Mapping):
            return value
    return {}


def count(config: Mapping[str, object], *keys: str, default: int = 0) -> int:
    """Return the first of the named entries that is a whole number, from 0 to far above any model's."""
    for key in keys:
        value = config.get(key)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and 0 <= value <= _MOST
            and value == int(value)
        ):
            return int(value)
    return default


def number(config: Mapping[str, object], *keys: str, default: float = 0.0) -> float:
    """Return the first of the named entries that is a number, likewise."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST:
            return float(value)
    return default


def text(config: Mapping[str, object], *keys: str, default: str = "") -> str:
    """Return the first of the named entries that is a text."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, str):
            return value
    return default


def flag(config: Mapping[str, object], *keys: str, default: bool = False) -> bool:
    """Return the first of the named entries that is true or false."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, bool):
            return value
    return default


def items(config: Mapping[str, object], *keys: str) -> tuple[object, ...]:
    """Return the first of the named entries that is a list; empty where none is."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(value)
    return ()


def whole_numbers(config: Mapping[str, object], *keys: str) -> tuple[int, ...]:
    """Return the whole numbers of the first of the named lists."""
    return tuple(value for value in items(config, *keys) if isinstance(value, int) and not isinstance(value, bool))


def words(config: Mapping[str, object], *keys: str) -> tuple[str, ...]:
    """Return the texts of the first of the named lists."""
    return tuple(value for value in items(config, *keys) if isinstance(value, str))
