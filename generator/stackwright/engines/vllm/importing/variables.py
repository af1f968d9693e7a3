"""`${NAME:-default}` in Compose files, as Compose itself replaces it, and the files that give the values.

python-dotenv, which is kept for such files, knows `${NAME}` and `${NAME:-default}` alone, and podman-compose, which
knows all forms, is under the GPL. So the forms of the specification are read here
(github.com/compose-spec/compose-spec, 12-interpolation.md, read 2026-11-29).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from msgspec import Struct

from stackwright.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORM = re.compile(r"(:?[-?+])")
_DEEPEST = 20
_SINGLE_QUOTED = re.compile(r"=\s*'")


class Replaced(Struct, frozen=True, kw_only=True):
    """A text with its variables replaced.

    `unset`: those that nothing gives a value and that have no default, `required` of them those without which Compose
    refuses to start.
    """

    text: str
    unset: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


class _Seen:
    """What one replacement has come across."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.unset: list[str] = []
        self.required: list[str] = []


def replace_variables(text: str, values: Mapping[str, str], where: str = "") -> Replaced:
    """Replace `$NAME`, `${NAME}` and its forms with `-`, `:-`, `?`, `:?`, `+`, `:+`; `$$` is a dollar.

    Raises:
        UsageError: a `${` has no end or no name, or defaults are nested too deeply; the message begins with `where`.
    """
    if "$" not in text:
        return Replaced(text=text)
    seen = _Seen(values)
    written = _replace(text, seen, where, 0)
    return Replaced(text=written, unset=tuple(dict.fromkeys(seen.unset)), required=tuple(dict.fromkeys(seen.required)))


def _replace(text: str, seen: _Seen, where: str, depth: int) -> str:
    if depth > _DEEPEST:
        raise UsageError(f"{where}: `${{` nested more than {_DEEPEST} times", hint="give that variable a value in .env")
    parts: list[str] = []
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(text[position:dollar])
        follower = text[dollar + 1 : dollar + 2]
        if follower == "{":
            end = _closing(text, dollar + 2, where)
            parts.append(_braced(text[dollar + 2 : end], seen, where, depth))
            position = end + 1
        elif name := _NAME.match(text, dollar + 1):
            parts.append(_value(name[0], seen))
            position = name.end()
        else:
            parts.append("$")
            position = dollar + (2 if follower == "$" else 1)
    return "".join((*parts, text[position:]))


def _closing(text: str, position: int, where: str) -> int:
    """Return where the brace that is open before `position` closes."""
    depth = 1
    while position < len(text):
        if text.startswith("${", position):
            depth += 1
            position += 2
            continue
        depth -= text[position] == "}"
        if not depth:
            return position
        position += 1
    raise UsageError(f"{where}: a `${{` without its `}}`", hint="close it, or write `$$` for a dollar")


def _braced(inside: str, seen: _Seen, where: str, depth: int) -> str:
    name = _NAME.match(inside)
    form = _FORM.match(inside, name.end()) if name else None
    if name is None or (form is None and name.end() != len(inside)):
        raise UsageError(f"{where}: `${{…}}` without a variable's name", hint="write `$$` for a dollar")
    value = seen.values.get(name[0])
    if form is None:
        return _value(name[0], seen)
    given = value is not None and (value != "" or not form[0].startswith(":"))
    word, kind = inside[form.end() :], form[0][-1]
    if kind == "+":
        return _replace(word, seen, where, depth + 1) if given else ""
    if given:
        return value or ""
    if kind == "?":
        seen.required.append(name[0])
        return ""
    return _replace(word, seen, where, depth + 1)


def _value(name: str, seen: _Seen) -> str:
    if name not in seen.values:
        seen.unset.append(name)
    return seen.values.get(name, "")


class EnvFileLine(Struct, frozen=True, kw_only=True):
    """One assignment of a file of variables; `line` counts from 1."""

    name: str
    value: str
    line: int


def parse_env_file(text: str, values: Mapping[str, str], where: str) -> tuple[EnvFileLine, ...]:
    """Read `NAME=value` lines; variables in values are replaced, but not within single quotes.

    What is no assignment is passed over, as Compose and the shell do with comments. Raises UsageError as
    `replace_variables` does.
    """
    from dotenv.parser import parse_stream

    read: dict[str, EnvFileLine] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or binding.key is None:
            continue
        written = binding.original.string
        line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        known = {**{name: row.value for name, row in read.items()}, **values}
        value = binding.value if binding.value is not None else values.get(binding.key, "")
        if not _SINGLE_QUOTED.search(written):
            value = replace_variables(value, known, f"{where}:{line}").text
        read[binding.key] = EnvFileLine(name=binding.key, value=value, line=line)
    return tuple(read.values())
