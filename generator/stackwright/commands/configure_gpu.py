"""`configure-gpu`: from the host to rendered files, for one environment or all three."""

from __future__ import annotations

import argparse
import shlex
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from stackwright import report
from stackwright.commands.host import get_host
from stackwright.commands.options import (
    PlanOptions,
    add_environment_flag,
    add_explain,
    add_json,
    add_mode,
    add_out,
    add_plan_flags,
    read_plan_options,
    record_of,
)
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.errors import ValidationError


@dataclass(frozen=True, kw_only=True)
class ConfigureArguments:
    """What `configure-gpu` is told. `environment`: None for all three."""

    options: PlanOptions = field(default_factory=PlanOptions)
    environment: Environment | None = None
    host: Path | None = None
    out: Path | None = None
    dry_run: bool = False
    diff: bool = False
    json: bool = False
    explain: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_mode, add_environment_flag, add_plan_flags, add_out):
        add(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would change; write nothing")
    parser.add_argument("--diff", action="store_true", help="show the differences")
    add_json(parser)
    add_explain(parser)


def read_arguments(given: argparse.Namespace) -> ConfigureArguments:
    """Turn the parsed words into the record."""
    return record_of(ConfigureArguments, given, options=read_plan_options(given))


def run(arguments: ConfigureArguments) -> None:
    """Plan for `--host`, else this machine, render, check and write."""
    configure(arguments, get_host(arguments.host))


def configure(arguments: ConfigureArguments, host: Host) -> None:
    """Plan for this host, render, check and write, for one environment or all three."""
    # Not before: what these import is loaded while the container engine makes up its answer.
    from stackwright.commands.configure import check_rendered, compare, plan_environment, write_environments
    from stackwright.commands.generation import hold_environments
    from stackwright.commands.paths import find_paths

    paths = find_paths(arguments.out)
    environments = (arguments.environment,) if arguments.environment else tuple(Environment)
    # Every plan is made before the first file is written, so that a refusal changes nothing.
    plans = {each: plan_environment(arguments.options, paths, host, each) for each in environments}
    report.warn_all(dict.fromkeys(warning for plan in plans.values() for warning in plan.warnings))
    with nullcontext() if arguments.dry_run else hold_environments(paths.root, environments, "configure-gpu"):
        changes = {each: compare(paths, plan) for each, plan in plans.items()}
        findings = [finding for plan in plans.values() for finding in check_rendered(paths, plan)]
        if not arguments.dry_run:
            write_environments(paths, plans, changes)
    everything = tuple(change for group in changes.values() for change in group)
    if arguments.json:
        report.print_configured(plans, everything, findings)
    else:
        report.show_changes(everything, dry_run=arguments.dry_run, diff=arguments.diff or arguments.dry_run)
        report.show_findings(findings)
        for plan in plans.values():
            if arguments.explain:
                report.print_plan(plan, explain=True)
    errors = report.count_errors(findings)
    if errors:
        raise ValidationError(f"{errors} error{'s' if errors > 1 else ''} found, see above")
    if not (arguments.dry_run or arguments.json):
        _tell_next(paths.root, paths.state, environments[0])


def _tell_next(root: Path, state: Path, environment: Environment) -> None:
    from stackwright.project import folder as project
    from stackwright.runtime.compose import command_by_hand

    stack = project.load_stack(root, state, environment)
    command = project.name_command("start-environment", environment.value, root=root, working=Path.cwd())
    report.tell(f"next: {command}")
    if stack is not None:
        report.tell(f"or, without Stackwright: (cd {shlex.quote(str(root))} && {command_by_hand(stack)})")
