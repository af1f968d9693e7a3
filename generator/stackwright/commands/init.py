"""`stackwright init`: lay out a project folder, for an installation that is no clone."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.atomic import replace_file
from stackwright.commands.paths import find_paths, working_folder
from stackwright.errors import UsageError
from stackwright.project import folder as project
from stackwright.project.location import name_command

_IGNORED = """\
# Rendered for one machine, or secret: never committed.
/compose/generated/
/envs/.env.*
/envs/.secrets/
/envs/.usage/
"""
_ELSEWHERE = "name another folder: `stackwright init DIR`"


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
    missing = dict.fromkeys(project.missing_base_files(root))
    ignored = root / ".gitignore"
    is_new = not ignored.exists()
    try:
        project.lay_out(root)
        if is_new:
            replace_file(ignored, _IGNORED, mode=None)
    except OSError as failure:
        raise UsageError(f"{ignored}: cannot be written: {failure.strerror}", hint=_ELSEWHERE) from None
    except UsageError as failure:
        raise UsageError(failure.message, hint=_ELSEWHERE) from None
    for folder, count in Counter(name.partition("/")[0] for name in missing).items():
        report.tell(f"write {root / folder}/ ({count} file{'s' if count > 1 else ''})")
    if is_new:
        report.tell(f"write {ignored}")
    elif not missing:
        report.tell(f"{root} is a project folder already; nothing was changed")
    report.tell(f"next: {name_command('configure-gpu', root=root, working=working_folder())}")
