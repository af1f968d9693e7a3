"""Command lines as words, each with the line where it stands. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator

from msgspec import Struct

from stackwright.engines.vllm.importing.tree import Spot
from stackwright.errors import UsageError

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_KEYWORDS = ("exec", "then", "else", "do", "time", "nohup", "sudo", "env", "{", "(")
_SHELLS = ("sh", "bash", "dash", "zsh", "ash")


class Located(Struct, frozen=True, kw_only=True):
    """A text and where it stands. `lines` are those of one over several lines, as they stand there, numbered."""

    text: str
    at: Spot
    lines: tuple[tuple[int, str], ...] = ()


class ShellCommand(Struct, frozen=True, kw_only=True):
    """One command of a script: its words, without what is set for it and without `exec`."""

    words: tuple[Located, ...]


def split_words(text: str, where: str) -> list[str]:
    """Split a command line as a shell does; a backslash at the end of a line goes on.

    Raises:
        UsageError: a quote has no end.
    """
    try:
        return [word.strip() for word in shlex.split(text.replace("\\\n", " ")) if word.strip() or word == ""]
    except ValueError:
        raise UsageError(f"{where}: a quote without its end", hint="correct that command line") from None


def locate_words(words: Iterable[str], at: Spot, lines: tuple[tuple[int, str], ...]) -> tuple[Located, ...]:
    """Give each word the line where it stands, as far as it stands there as it is; else that of the word before."""
    left = list(lines)
    found, offset, here = [], 0, lines[0][0] if lines else at.line
    for word in words:
        for skipped, (number, line) in enumerate(left):
            begin = line.find(word, offset if not skipped else 0) if word else -1
            if begin >= 0 and _alone(line, begin, begin + len(word)):
                left, offset, here = left[skipped:], begin + len(word), number
                break
        found.append(Located(text=word, at=Spot(at.file, here)))
    return tuple(found)


def _alone(line: str, begin: int, end: int) -> bool:
    """Return whether a word is no part of a longer one."""
    return (not begin or line[begin - 1] in " \t'\"=[,") and (end == len(line) or line[end] in " \t'\"=\\,]\r")


def shell_commands(words: tuple[Located, ...]) -> Iterator[ShellCommand]:
    """Yield the commands of a command line: itself, or those of the script that it gives to a shell.

    In a script `"$@"` stands for the words behind it.
    """
    script = _script_of(words)
    if script is None:
        yield ShellCommand(words=_without_prefix(words))
        return
    text, behind = script
    for line in _statements(text):
        own: list[Located] = []
        for word in line:
            own += behind if word.text in ("$@", "$*") else [word]
        bare = _without_prefix(tuple(own))
        if bare:
            yield ShellCommand(words=bare)


def _script_of(words: tuple[Located, ...]) -> tuple[Located, tuple[Located, ...]] | None:
    """Return the script of `sh -c SCRIPT NAME WORDS…`, and the words that it gets."""
    if not words or words[0].text.rpartition("/")[2] not in _SHELLS:
        return None
    for position, word in enumerate(words[1:4], start=1):
        if word.text.startswith("-") and word.text.endswith("c") and not word.text.startswith("--"):
            behind = words[position + 1 :]
            return (behind[0], behind[2:]) if behind else None
    return None


def _statements(script: Located) -> Iterator[tuple[Located, ...]]:
    lines = script.lines or ((script.at.line, script.text),)
    text = re.sub(r"\\\n\s*", " ", script.text)
    for line in text.split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        try:
            tokens = list(lexer)
        except ValueError:
            continue  # a quote over several lines: no command line of a server that was seen
        statement: list[str] = []
        for token in (*tokens, ";"):
            if token and not token.strip(";&|"):
                if statement:
                    yield locate_words(statement, script.at, lines)
                statement = []
            else:
                statement.append(token)


def _without_prefix(words: tuple[Located, ...]) -> tuple[Located, ...]:
    """Leave out what stands before a command: assignments, `exec` and its like."""
    position = 0
    while position < len(words) and (words[position].text in _KEYWORDS or _ASSIGNMENT.match(words[position].text)):
        position += 1
    return words[position:]
