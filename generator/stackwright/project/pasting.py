"""How a command is named on the screen, so that it works as pasted there. Light: every message may ask for it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.environment import WRITTEN_OUT, Environment

CHECKOUT = Path(__file__).resolve().parents[3]
"""The folder of the checkout that this package lies in; of an installed package a folder without scripts."""


PRESENT_HARDWARE, PRESENT_NETWORK = "plan for the present hardware: ", "plan for the present network: "
"""What stands before a command that plans for this machine, whatever host the present command was given."""


class Pasting(Struct, frozen=True, kw_only=True):
    """What a command that is named on the screen needs so that it works as pasted.

    `working`: the folder that it is pasted in. `out` and `host` are the words behind `--out` and `--host` of the
    command that names it, `environment` the one that it is about.
    """

    working: Path
    out: str | None = None
    host: str | None = None
    environment: str | None = None

    @classmethod
    def of(cls, argv: Sequence[str], working: Path) -> Self:
        """Return that of a command line, pasted in the folder `working`."""
        return cls(
            working=working,
            out=_value(argv, "--out"),
            host=_value(argv, "--host"),
            environment=_environment(argv),
        )

    def in_text(self, text: str) -> str:
        """Write every command of ours that stands in backticks as it is to be pasted."""

        def pasted(found: re.Match[str]) -> str:
            here = text[: found.start()].endswith((PRESENT_HARDWARE, PRESENT_NETWORK))
            asked = replace(self, host=None) if here else self
            return f"`{found[1] or ''}{asked.command(found[2], found[3])}`"

        return _NAMED.sub(pasted, text)

    def command(self, name: str, words: str) -> str:
        """Write one command: the checkout's script, and the folder, host and environment that the present command has.

        One that configures is for that environment alone, not for all three.
        """
        which, further = f"{name}{words}", ""
        has_environment = self.environment is None or _ENVIRONMENTS.intersection(words.split())
        if name == "configure-gpu" and not has_environment and words != " --help":
            words = f" {self.environment}{words}"
        if self.out is not None and "--out" not in words and not _WITHOUT_OUT.match(which):
            further += f" --out {shlex.quote(self.out)}"
        if self.host is not None and "--host" not in words and _WITH_HOST.match(which):
            further += f" --host {shlex.quote(self.host)}"
        return f"{shlex.quote(program_of(name, self.working))}{words}{further}"


# Flags behind which a word that reads as an environment is another thing, or another environment.
_WITH_VALUE = frozenset("--replace --model --name --out --output -o --host --report --log --set --arg --to".split())
_ENVIRONMENTS = frozenset((*Environment, *WRITTEN_OUT))
# A command of ours and what stands behind it, as messages, fixes and hints write it.
_NAMED = re.compile(r"`(echo \w+ \| )?(configure-gpu|(?:start|stop|validate)-environment|stackwright)((?: [^`]*)?)`")
_WITHOUT_OUT = re.compile(r"stackwright (detect|facts|gpus|--)|.* --help$|stackwright$")
_WITH_HOST = re.compile(r"(?!.* --help$)(configure-gpu|start-environment|stackwright (plan|fit|gpus|models)\b)")


def program_of(command: str, working: Path) -> str:
    """Return the script of a checkout as the folder `working` sees it, `./scripts/…` at its top; else the name."""
    script = CHECKOUT / "scripts" / command
    if not script.exists():
        return command
    if not working.is_relative_to(CHECKOUT):
        return str(script)
    near = os.path.relpath(script, working)
    return near if near.startswith(".") else f"./{near}"


def _environment(argv: Sequence[str]) -> str | None:
    """Return the environment that a command line names; None where it names none, or several."""
    named = [word for before, word in zip(["", *argv], argv, strict=False) if _is_environment(before, word)]
    return named[0] if len(named) == 1 else None


def _is_environment(before: str, word: str) -> bool:
    return word in _ENVIRONMENTS and before not in _WITH_VALUE


def _value(argv: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag as it was typed, the last one; None without it."""
    found = None
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found or None
