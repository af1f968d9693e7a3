"""`stackwright plan`: show the plan of one environment; nothing is written but the page that `--report` names."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from stackwright import __version__, report
from stackwright.atomic import replace_file
from stackwright.commands.host import get_host
from stackwright.commands.options import PlanArguments, add_details, add_json, add_plan_arguments, read_plan_arguments
from stackwright.domain.environment import Environment
from stackwright.errors import UsageError, unwritable
from stackwright.rendering.plan_document import plan_document

if TYPE_CHECKING:  # loaded later, while the container engine makes up its answer
    from stackwright.domain.plan import Plan
    from stackwright.rendering.summary import NextStep


class ReportArguments(Struct, frozen=True, kw_only=True):
    """What to plan and show, and the file of the page, None without one."""

    shown: PlanArguments
    report: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_plan_arguments, add_json, add_details):
        add(parser)
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="write one HTML page too; without ENV it has all environments side by side",
    )


def read_arguments(given: argparse.Namespace) -> ReportArguments:
    """Turn the parsed words into the record."""
    return ReportArguments(shown=read_plan_arguments(given), report=given.report)


def run(given: ReportArguments) -> None:
    """Print the plan of one environment; with a page and no environment named, those of all."""
    arguments = given.shown
    if given.report is not None:
        _refuse_to_overwrite(given.report)
    host = get_host(arguments.options.host)
    # Not before: what these import is loaded while the container engine makes up its answer.
    from stackwright.commands.changes import tell_remembered
    from stackwright.commands.configure import picture_plans, plan_with_choices, print_details
    from stackwright.commands.paths import find_paths
    from stackwright.project.folder import read_wishes

    named = (arguments.environment,) if arguments.environment else (Environment.DEV,)
    environments = tuple(Environment) if given.report and not arguments.environment else named
    paths = find_paths(arguments.out)
    owns = [paths.of(environment) for environment in environments]
    made = [plan_with_choices(arguments.options, paths, host, own.environment, read_wishes(own)) for own in owns]
    tell_remembered([(own, chosen) for own, (_, chosen) in zip(owns, made, strict=True)])
    plans = tuple(plan for plan, _ in made)
    report.warn_all(dict.fromkeys(warning for plan in plans for warning in plan.warnings))
    pictured = picture_plans(arguments, paths, plans, "configure-gpu")
    if given.report is not None:
        _write_page(given.report, pictured)
    if arguments.json:
        report.print_json(plan_document(plans[0]))
    else:
        report.print_summaries(pictured)
        print_details(arguments, plans)


def _refuse_to_overwrite(target: Path) -> None:
    """Raise UsageError where a page cannot lie: in no folder, or over a file that is none of ours."""
    from stackwright.rendering.report_page import MARK

    if str(target) == "-":
        raise UsageError("--report: the page is written to a file", hint="name it: `--report plan.html`")
    if not target.parent.is_dir():
        there = os.path.lexists(target.parent)
        hint = "name a file in a folder" if there else f"make it: `mkdir -p {shlex.quote(str(target.parent))}`"
        raise UsageError(f"--report: {target.parent} is no folder", hint=hint)
    try:
        if not target.exists():
            return
    except OSError as failure:  # a name that is too long
        message = f"--report: {target}: cannot be written: {failure.strerror or failure}"
        raise UsageError(message, hint="name another file") from None
    try:
        ours = target.is_file() and MARK in target.read_bytes()[:4096].decode(errors="replace")
    except OSError:
        ours = False
    if not ours:
        raise UsageError(f"--report: {target} is there already, and is no report of a plan", hint="name another file")


def _write_page(target: Path, pictured: Sequence[tuple[Plan, NextStep]]) -> None:
    from stackwright.rendering.report_page import render_page

    page = render_page([plan for plan, _ in pictured], [step for _, step in pictured], __version__)
    try:
        replace_file(target, page, mode=None)
    except OSError as failure:
        raise unwritable(target, failure) from None
    report.tell(f"report: {target}")
