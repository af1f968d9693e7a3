"""`stackwright plan`: show the plan of one environment; nothing is written."""

from __future__ import annotations

import argparse
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
from stackwright.rendering.plan_document import plan_document


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """What `plan` is told."""

    options: PlanOptions = field(default_factory=PlanOptions)
    environment: Environment = Environment.DEV
    host: Path | None = None
    out: Path | None = None
    json: bool = False
    explain: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_mode, add_environment_flag, add_plan_flags, add_out, add_json, add_explain):
        add(parser)


def read_arguments(given: argparse.Namespace) -> PlanArguments:
    """Turn the parsed words into the record."""
    environment = given.environment or Environment.DEV
    return record_of(PlanArguments, given, options=read_plan_options(given), environment=environment)


def run(arguments: PlanArguments) -> None:
    """Print one plan."""
    host = get_host(arguments.host)
    # Not before: what these import is loaded while the container engine makes up its answer.
    from stackwright.commands.configure import plan_environment
    from stackwright.commands.paths import find_paths

    plan = plan_environment(arguments.options, find_paths(arguments.out), host, arguments.environment)
    report.warn_all(plan.warnings)
    if arguments.json:
        report.print_json(plan_document(plan))
    else:
        report.print_plan(plan, explain=arguments.explain)
