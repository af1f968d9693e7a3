"""`configure-gpu`: from the host to rendered files, for one environment or all three."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from msgspec import Struct, field

from stackwright import report
from stackwright.commands.host import get_host
from stackwright.commands.options import (
    PlanArguments,
    add_details,
    add_json,
    add_plan_arguments,
    read_plan_arguments,
    record_of,
)
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.host import Host
from stackwright.errors import ValidationError

if TYPE_CHECKING:  # loaded later, while the container engine makes up its answer
    from stackwright.commands.configure import Configured
    from stackwright.commands.paths import ProjectPaths
    from stackwright.domain.finding import Finding
    from stackwright.project.write import FileChange


class ConfigureArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `configure-gpu`. Without an environment: all three."""

    plan: PlanArguments = field(default_factory=PlanArguments)
    dry_run: bool = False
    diff: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_plan_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plans and name the files that would change; write nothing"
    )
    parser.add_argument("--diff", action="store_true", help="show the differences of the files that people read")
    add_json(parser)
    add_details(parser)


def read_arguments(given: argparse.Namespace) -> ConfigureArguments:
    """Turn the parsed words into the record."""
    return record_of(ConfigureArguments, given, plan=read_plan_arguments(given))


def run(arguments: ConfigureArguments) -> None:
    """Plan for `--host`, else this machine, render, check and write."""
    configure(arguments, get_host(arguments.plan.options.host))


def configure(arguments: ConfigureArguments, host: Host) -> None:
    """Plan for this host, render, check and write, for one environment or all three."""
    # Not before: what these import is loaded while the container engine makes up its answer.
    from stackwright.commands.changes import tell_changes, tell_kept
    from stackwright.commands.configure import check_rendered, compare, configure_environment, write_environments
    from stackwright.commands.generation import hold_environments
    from stackwright.commands.paths import find_paths

    asked = arguments.plan
    paths = find_paths(asked.out)
    environments = (asked.environment,) if asked.environment else tuple(Environment)
    projects = tuple(map(paths.of, environments))
    with _tell_if_written() as everything:
        # Held from the first reading on: what another command chooses meanwhile would be written over.
        with nullcontext() if arguments.dry_run else hold_environments(projects, "configure-gpu"):
            # Every plan is made before the first file is written, so that a refusal changes nothing.
            made = tuple(configure_environment(asked.options, paths, host, environment) for environment in environments)
            tell_kept(made)
            report.warn_all(dict.fromkeys(warning for configured in made for warning in configured.plan.warnings))
            changes = tuple((configured, compare(configured)) for configured in made)
            tell_changes(made)
            findings = [finding for configured in made for finding in check_rendered(configured)]
            everything += [change for _, group in changes for change in group]
            if not arguments.dry_run:
                write_environments(paths, changes)
        _show(arguments, paths, made, tuple(everything), findings)
        errors = report.count_errors(findings)
        if errors:
            raise ValidationError(f"{errors} error{'s' if errors > 1 else ''} found, see above")
        if asked.all and not (arguments.dry_run or asked.json):
            _tell_by_hand(projects)


@contextmanager
def _tell_if_written() -> Iterator[list[FileChange]]:
    """Give a list for what is to be written; say of an interruption that came too late to keep it from the disk."""
    from stackwright.project.write import FileStatus, list_paths

    changes: list[FileChange] = []
    try:
        yield changes
    except KeyboardInterrupt:
        due = [change for change in changes if change.status is not FileStatus.UNCHANGED]
        if due and all(change.stands() for change in due):
            report.tell(f"already written: {', '.join(list_paths(change.file.path for change in due))}")
        raise


def _show(
    arguments: ConfigureArguments,
    paths: ProjectPaths,
    made: Sequence[Configured],
    everything: tuple[FileChange, ...],
    findings: list[Finding],
) -> None:
    """Print what was decided, what was or would be written, and what was found."""
    from stackwright.commands.configure import name_following, picture_plans, print_details
    from stackwright.project.write import FileStatus

    asked = arguments.plan
    plans = {configured.plan.environment: configured.plan for configured in made}
    if asked.json:
        report.print_configured(plans, everything, findings)
    else:
        following = {} if arguments.dry_run else dict.fromkeys(plans, "start-environment")
        report.show_summaries(picture_plans(asked, paths, tuple(plans.values()), following))
        print_details(asked, tuple(plans.values()))
        report.show_changes(everything, dry_run=arguments.dry_run, diff=arguments.diff)
        report.show_findings(findings)
        if arguments.dry_run and any(change.status is not FileStatus.UNCHANGED for change in everything):
            report.tell(f"to write them: {name_following(asked, paths, 'configure-gpu', asked.environment)}")


def _tell_by_hand(projects: tuple[EnvironmentPaths, ...]) -> None:
    """Name the commands that bring the stacks up without Stackwright."""
    from stackwright.project import folder as project
    from stackwright.runtime.compose import command_by_hand

    for paths in projects:
        stack = project.load_stack(paths)
        if stack is not None:
            report.tell(f"{paths.environment} by hand: (cd {shlex.quote(str(paths.root))} && {command_by_hand(stack)})")
