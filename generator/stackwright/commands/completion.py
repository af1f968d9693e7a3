"""`stackwright completion`: print what makes a shell complete commands, environments, models and settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import ENVIRONMENTS, MODES, RUNTIMES
from stackwright.domain.objective import Objective
from stackwright.domain.role import Role
from stackwright.domain.tuning import Goal
from stackwright.errors import UsageError, did_you_mean

SHELLS = ("bash", "zsh", "fish")


class CompletionArguments(Struct, frozen=True, kw_only=True):
    """The shell to write for."""

    shell: str


def _shell(text: str) -> str:
    name = Path(text).name
    if name not in SHELLS:
        hint = did_you_mean(name, SHELLS) or "for example `bash`"
        raise UsageError(f"unknown shell `{text[:60]}`, allowed: {', '.join(SHELLS)}", hint=hint)
    return name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("shell", metavar="SHELL", type=_shell, help=f"{', '.join(SHELLS)}, or a path such as $SHELL")


def read_arguments(given: argparse.Namespace) -> CompletionArguments:
    """Turn the parsed words into the record."""
    return CompletionArguments(shell=given.shell)


def run(arguments: CompletionArguments) -> None:
    """Print the script: one for `stackwright`, and one for each command that is typed by its own name."""
    import shtab

    # cli imports the modules of commands by name, this one too.
    from stackwright.cli import OWN_ENTRY_POINTS, build_parser, leaves

    parser, made = build_parser()
    values = _values()
    for command in made.values():
        for leaf in {command, *leaves(command)}:
            _complete(leaf, values)
    for each in (parser, *(made[name] for name in OWN_ENTRY_POINTS)):
        report.print_text(shtab.complete(each, arguments.shell))


def _complete(parser: argparse.ArgumentParser, values: Mapping[str, Sequence[str]]) -> None:
    """Tell shtab what each value of a command can be: by its name, else a file or a folder where it is a path."""
    import shtab

    for action in parser._actions:
        if action.dest in values:
            action.choices = values[action.dest]
        elif action.type is Path:
            vars(action)["complete"] = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE


def _values() -> Mapping[str, Sequence[str]]:
    """Return the words that a value can be, by the name of what holds it."""
    from stackwright.catalog.load import load_catalog
    from stackwright.engines import ENGINES
    from stackwright.load.prompts import PRESETS
    from stackwright.services import additions
    from stackwright.settings import all_settings

    keys = [spec.key for spec in all_settings()]
    models = sorted({name for llm in load_catalog().llms() for name in (llm.name, llm.hub_id)})
    return {
        "environment": ENVIRONMENTS,
        "words": (*ENVIRONMENTS, *MODES),
        "models": models,
        "model": models,
        "pins": [f"{key}=" for key in keys],
        "unset": keys,
        "with_services": tuple(additions()),
        "without_services": tuple(additions()),
        "objective": tuple(Objective),
        "goal": tuple(Goal),
        "preset": tuple(PRESETS),
        "engine": tuple(ENGINES),
        "runtime": RUNTIMES,
        "role": tuple(Role),
    }
