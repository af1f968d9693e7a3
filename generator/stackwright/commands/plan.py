"""`stackwright plan`: show the plan of one environment; nothing is written but the page that `--report` names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from stackwright import __version__, report
from stackwright.commands.host import get_host
from stackwright.commands.options import PlanArguments, add_details, add_json, add_plan_arguments, read_plan_arguments
from stackwright.commands.page_file import PageFile
from stackwright.domain.environment import Environment
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
    page = None if given.report is None else _page_file(given.report)
    if page is not None:
        page.refuse_to_overwrite()
    host = get_host(arguments.options.host)
    # Not before: what these import is loaded while the container engine makes up its answer.
    from stackwright.commands.changes import tell_kept
    from stackwright.commands.configure import configure_environment, next_commands, picture_plans, print_details
    from stackwright.commands.paths import find_paths

    named = (arguments.environment,) if arguments.environment else (Environment.DEV,)
    environments = tuple(Environment) if given.report and not arguments.environment else named
    paths = find_paths(arguments.out)
    owns = [paths.of(environment) for environment in environments]
    made = [configure_environment(arguments.options, paths, host, own.environment) for own in owns]
    tell_kept(made)
    plans = tuple(configured.plan for configured in made)
    report.warn_all(dict.fromkeys(warning for plan in plans for warning in plan.warnings))
    pictured = picture_plans(arguments, paths, plans, next_commands(made))
    if page is not None:
        _write_page(page, pictured)
    if arguments.json:
        report.print_json(plan_document(plans[0]))
    else:
        report.print_summaries(pictured)
        print_details(arguments, plans)


def _write_page(page: PageFile, pictured: Sequence[tuple[Plan, NextStep]]) -> None:
    from stackwright.rendering.report_page import render_page

    page.write(render_page([plan for plan, _ in pictured], [step for _, step in pictured], __version__))


def _page_file(target: Path) -> PageFile:
    from stackwright.rendering.report_page import MARK

    return PageFile(flag="--report", target=target, mark=MARK, kind="report of a plan")
