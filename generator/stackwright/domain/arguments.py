"""Flags that a person gives an engine: read from words of a command line or from a mapping, and kept as settings. Pure.

Each flag has one text: the value, `true` or `false` for a switch, several words joined by blanks. It is the value of a
setting of its own, whose key is the flag's name behind the engine's prefix (`…_ARG_` + `MAX_NUM_PARTIAL_PREFILLS`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from stackwright.errors import UsageError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_.-]+)?")
_EXAMPLE = "for example `--arg=--chat-template-content-format=openai`"


def read_flags(given: Iterable[object] | Mapping[str, Any], where: str) -> dict[str, str]:
    """Return each flag, `--like-this`, with its text; `--a.b=1` becomes `--a` with a JSON object.

    Args:
        given: words as on a command line (`--a=1`, `--a 1` in one word or two, `a=1`, `--no-b`), or values by name.
        where: where they stand, as a refusal tells it.

    Raises:
        UsageError: a word is no flag and belongs to none, or a flag stands twice.
    """
    pairs = given.items() if isinstance(given, Mapping) else _pairs([_text(word) for word in given], where)
    flags: dict[str, str] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in pairs:
        flag, inner = _flag_of(name, where)
        text = _text(value)
        if flag.startswith("--no-") and text in ("true", "false"):
            flag, text = f"--{flag[5:]}", "false" if text == "true" else "true"
        if flag in flags or (flag in nested and not inner):
            raise UsageError(f"{where}: {flag} stands twice", hint="keep one of them")
        if inner:
            _put(nested.setdefault(flag, {}), inner, text, f"{where}: {flag}")
        else:
            flags[flag] = text
    return flags | {flag: json.dumps(fields) for flag, fields in nested.items()}


def _pairs(words: list[str], where: str) -> list[tuple[str, object]]:
    """Split the words of a command line into flags and values; a flag without one is a switch that is on."""
    pairs: list[tuple[str, object]] = []
    open_flag = False
    for word in words:
        name, equals, value = word.partition("=")
        if re.match(r"--?[A-Za-z][\w.-]*\s+\S", word):
            name, value = word.split(None, 1)
            equals = "="
        is_flag = name.startswith("-") and _NAME.fullmatch(name.lstrip("-")) is not None
        if is_flag or (equals and _NAME.fullmatch(name)):
            pairs.append((name, _unquoted(value) if equals else True))
            open_flag = not equals
        elif pairs and (open_flag or pairs[-1][1] is not True):
            before = pairs[-1][1]
            pairs[-1] = (pairs[-1][0], word if before is True else f"{before} {word}")
            open_flag = True
        elif _NAME.fullmatch(word):
            pairs.append((word, True))
        else:
            raise UsageError(f"{where}: found `{word[:80]}`, allowed: an engine flag with its value", hint=_EXAMPLE)
    return pairs


def _unquoted(value: str) -> str:
    """Return a value without the quotes that a shell would have taken away: a pasted line still has them."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    try:
        (word,) = shlex.split(value)
    except ValueError:
        return value
    return word


def _flag_of(name: str, where: str) -> tuple[str, str]:
    """Return the whole flag and, of `--a.b.c`, what stands behind the first dot."""
    short = name.startswith("-") and not name.startswith("--")
    bare, _, inner = name.lstrip("-").partition(".")
    if not _NAME.fullmatch(bare):
        raise UsageError(f"{where}: found `{name[:80]}`, allowed: the name of an engine flag", hint=_EXAMPLE)
    return (f"-{bare}" if short else f"--{bare.replace('_', '-')}"), inner


def _put(fields: dict[str, Any], inner: str, text: str, where: str) -> None:
    *path, last = inner.split(".")
    for position, name in enumerate(path):
        fields = fields.setdefault(name, {})
        if not isinstance(fields, dict):
            begun = f"{where}.{'.'.join(path[: position + 1])}"
            raise UsageError(f"{where}.{inner}: another word gives {begun.rpartition(': ')[2]} a value")
    try:
        fields[last] = json.loads(text)
    except ValueError:
        fields[last] = text


def _text(value: object) -> str:
    """Write a value as the engine reads it: `true` and `false`, JSON for a mapping, blanks between the words of a list.

    A list that holds more than simple words is JSON too.
    """
    if value is None or isinstance(value, bool):
        return "false" if value is False else "true"
    if isinstance(value, list | tuple) and value and all(isinstance(item, str | int | float) for item in value):
        words = [_text(item) for item in value]
        if not any(re.search(r"\s", word) for word in words):
            return " ".join(words)
    return json.dumps(value) if isinstance(value, Mapping | list | tuple) else str(value)


def words_of(flag: str, text: str, *, listed: bool) -> tuple[str, ...]:
    """Return the words of a command line that carry a flag; `listed`: its value is several words."""
    if text in ("true", "false"):
        return (flag if text == "true" else flag.replace("--", "--no-", 1),)
    if listed:
        return (flag, *text.split())
    # argparse takes a word that begins with a dash for a flag.
    return (f"{flag}={text}",) if text.startswith("-") else (flag, text)


def key_of_flag(flag: str, prefix: str) -> str:
    """Return the key of the setting that carries a flag."""
    return prefix + flag.removeprefix("--").upper().replace("-", "_")


def flag_of_key(key: str, prefix: str) -> str:
    """Return the flag that a key carries."""
    return "--" + key.removeprefix(prefix).lower().replace("_", "-")


def bound_flags(arguments: tuple[str, ...], values: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return those flags of an argument list whose next word is the whole value of a setting, with the setting's key.

    `values`: by key. A switch, and one with several words, is the plan's alone.
    """
    following = dict(zip(arguments, (*arguments[1:], None), strict=True))
    carried = {flag_of_key(key, prefix): key for key in values if key.startswith(prefix)}
    return {flag: key for flag, key in carried.items() if flag in following and following[flag] == values[key]}
