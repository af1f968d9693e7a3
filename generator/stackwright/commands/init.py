"""`stackwright init`: lay out a project folder, for an installation that is no clone."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.atomic import replace_file
from stackwright.commands.paths import find_paths, working_folder
from stackwright.errors import UsageError, unwritable
from stackwright.project import folder as project
from stackwright.project.location import name_command

_IGNORED = """\
# Rendered for one machine, or secret: never committed.
/compose/generated/
/envs/.env.*
/envs/.secrets/
/envs/.usage/
"""


class InitArguments(Struct, frozen=True, kw_only=True):
    """The folder to lay out, None for the one that other commands would take."""

    folder: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "folder", nargs="?", metavar="DIR", type=Path, help="project folder (default: the one of other commands)"
    )


def read_arguments(given: argparse.Namespace) -> InitArguments:
    """Turn the parsed words into the record."""
    return InitArguments(folder=given.folder)


def run(arguments: InitArguments) -> None:
    """Copy what is missing, never over a file that is there, and say what comes next."""
    root = find_paths(arguments.folder).root
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: not a folder", hint="name a folder, there or not yet")
    missing = project.missing_base_files(root)
    project.lay_out(root)
    for name in missing:
        report.tell(f"write {root / name}")
    ignored = root / ".gitignore"
    if not ignored.exists():
        try:
            replace_file(ignored, _IGNORED, mode=None)
        except OSError as failure:
            raise unwritable(ignored, failure) from None
        report.tell(f"write {ignored}")
    elif not missing:
        report.tell(f"{root} is a project folder already; nothing was changed")
    report.tell(f"next: {name_command('configure-gpu', root=root, working=working_folder())}")
