"""Read files that people name or that lie in their folders, and YAML strictly: a wrong key or type is one sentence.

Touches only the file that it is asked to read, and only a regular one of reasonable size. Types are checked by msgspec;
it ignores unknown keys of records, and does not say which value of a mapping is wrong nor what an enum allows, so
those are looked for here.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
import re
import stat
import types
import typing
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from stackwright.errors import StackError, did_you_mean

T = TypeVar("T")

# What msgspec calls the types, as a person who writes YAML does.
_WORDS = {
    "array": "a list",
    "object": "a mapping",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
# Nesting deep enough to hurt libyaml does not fit into this many characters.
FAST_CHARACTERS = 16_384
MOST_BYTES = 16 * 2**20


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; below /dev a pipe too, such as /dev/stdin is.

    Raises:
        OSError: it cannot be opened, or is no regular file, whose reading might never end.
    """
    # A named pipe without a writer would hold up a plain `open`.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and str(path).startswith("/dev/")):
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "not a regular file", str(path))


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """Read a file, as `open_file` opens it, of at most `most` bytes. Raises OSError where it cannot, or is larger."""
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most // 2**20} MiB", str(path))
    return content


def read_text(path: Path, *, encoding: str = "utf-8", errors: str = "strict", most: int = MOST_BYTES) -> str:
    """Read the text of such a file, its line ends as `\n`. Raises OSError or UnicodeDecodeError where it cannot."""
    text = read_bytes(path, most=most).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_yaml(path: Path, kind: type[T], error: type[StackError], *, packaged: bool = False) -> T:
    """Read one YAML document as `kind`. A `packaged` one is ours, so that libyaml may read it whatever its length.

    Raises:
        error: the file cannot be read, is not YAML, or does not fit `kind`; the message names file and key.
    """
    return convert(load_yaml(path, error, packaged=packaged), kind, where=str(path), error=error)


def load_yaml(path: Path, error: type[StackError], *, packaged: bool = False) -> object:
    """Parse one YAML document into plain values, raising `error` where that fails."""
    try:
        text = read_text(path)
    except OSError as failure:
        raise error(f"{path}: cannot be read: {failure.strerror or failure}") from None
    except UnicodeDecodeError as failure:
        raise error(f"{path}: not UTF-8 text (byte {failure.start})") from None
    return parse_yaml(text, str(path), error, packaged=packaged)


def parse_yaml(text: str, where: str, error: type[StackError], *, packaged: bool = False) -> object:
    """Parse YAML text into plain values, raising `error` with its place where that fails."""
    import yaml

    text = text.removeprefix("\ufeff")
    try:
        return yaml.load(text, Loader=_loader(0 if packaged else len(text)))
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        lines = text.count("\n") + (not text.endswith("\n"))
        # A parser that wants more looks at the line behind the last one.
        position = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}" if mark.line < lines else f":{lines}"
        problem = getattr(failure, "problem", None) or "not valid YAML"
        problem, hint = name_character(problem, text[mark.index : mark.index + 1] if mark is not None else "")
        raise error(f"{where}{position}: {problem}", hint=hint) from None
    except RecursionError:
        raise error(f"{where}: not valid YAML: nested too deeply") from None
    except (ValueError, LookupError, AttributeError):  # PyYAML's constructors on 2024-13-45 or `!!bool maybe`
        raise error(f"{where}: not valid YAML: a value does not match its tag") from None


def name_character(problem: str, character: str) -> tuple[str, str | None]:
    """Name the character that a parser trips over, and what to do: libyaml itself does not."""
    if "cannot start any token" not in problem and "violates indentation" not in problem:
        return problem, None
    if character == "\t":
        return "a tab instead of spaces", "indent with spaces"
    return f"found {character!r}, which cannot begin a value", "put the value in quotes"


def _loader(length: int) -> Any:
    """Return a safe loader that refuses a key that stands twice: the first one would be lost without a word.

    libyaml's loader is ten times as fast, but overflows the C stack at some ten thousand nested brackets.
    """
    import yaml

    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    base: Any = fast if length <= FAST_CHARACTERS else yaml.SafeLoader

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            return super().construct_mapping(node, deep)

    return Loader


def convert(data: object, kind: type[T], *, where: str, error: type[StackError]) -> T:
    """Turn plain values into `kind`, naming the offending key in any failure."""
    _refuse_unknown(data, kind, where=where, path="", error=error)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as failure:
        text = str(failure)
        problem, _, key = text.partition(" - at `$")
        key = key.rstrip("`").lstrip(".")
        spot = f"{where}: {key}" if key else where
        raise error(f"{spot}: {_in_words(problem)}", hint=_hint_for_nothing(problem)) from None


def _in_words(problem: str) -> str:
    """Put what msgspec says of a wrong type in plain words: a list and not an `array`."""
    if problem.startswith("Expected `"):
        problem = re.sub(
            "`([^`]*)`", lambda quoted: " or ".join(_WORDS.get(word, word) for word in quoted[1].split(" | ")), problem
        )
    problem = re.sub("^Object missing required field (`[^`]*`)$", r"\1 is missing", problem)
    return f"{problem[0].lower()}{problem[1:]}"


def _hint_for_nothing(problem: str) -> str | None:
    """Return how an empty list or mapping is written where a key stands without a value; None elsewhere."""
    signs = {"Expected `array`, got `null`": "[]", "Expected `object`, got `null`": "{}"}
    return f"write an empty one as `{signs[problem]}`" if problem in signs else None


@functools.cache
def _known_keys(kind: type) -> dict[str, Any]:
    """Return the fields of a record with their types; resolving them takes longer than all else here."""
    return typing.get_type_hints(kind)


def _printable(key: str) -> str:
    """Keep a hostile key on its line, and short."""
    return key[:80] if key.isprintable() else repr(key[:80])


def to_plain(value: object) -> Any:
    """Turn records, enums and tuples into what YAML and JSON can say."""
    return msgspec.to_builtins(value)


def _refuse_unknown(data: object, kind: object, *, where: str, path: str, error: type[StackError]) -> None:
    """Walk `data` beside the type that it should become."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            _refuse_unknown(data, option, where=where, path=path, error=error)
    elif origin is tuple and isinstance(data, list):
        for position, item in enumerate(data):
            _refuse_unknown(item, typing.get_args(kind)[0], where=where, path=f"{path}[{position}]", error=error)
    elif origin is dict and isinstance(data, dict):
        # msgspec says that some value of a mapping is wrong, and not which.
        for key, item in data.items():
            convert(item, typing.get_args(kind)[1], where=f"{where}: {_printable(f'{path}.{key}')}", error=error)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        _refuse_unknown_value(data, kind, where=f"{where}: {path}", error=error)
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(data, dict):
        _refuse_unknown_keys(data, kind, where=where, path=path, error=error)


def _refuse_unknown_keys(
    data: dict[object, object], kind: type, *, where: str, path: str, error: type[StackError]
) -> None:
    """Raise at a key that a record does not have, and look into the others."""
    known = _known_keys(kind)
    for key, item in data.items():
        spot = f"{path}.{key}" if path else str(key)
        if key not in known:
            hint = did_you_mean(str(key), known) or f"known keys: {', '.join(known)}"
            raise error(f"{where}: {_printable(spot)}: unknown key", hint=hint)
        _refuse_unknown(item, known[str(key)], where=where, path=spot, error=error)


def _refuse_unknown_value(data: object, kind: type[enum.Enum], *, where: str, error: type[StackError]) -> None:
    """Raise where an enum has no such text; anything else is of a wrong type, which msgspec says."""
    allowed = [str(member.value) for member in kind]
    if isinstance(data, str) and data not in allowed:
        hint = did_you_mean(data, allowed) or f"allowed: {', '.join(allowed)}"
        raise error(f"{where}: unknown value {data[:80]!r}", hint=hint)
