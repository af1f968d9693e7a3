"""`stackwright plan`: show the plan of one environment; nothing is written."""

from __future__ import annotations

import argparse

from stackwright import report
from stackwright.commands.host import get_host
from stackwright.commands.options import PlanArguments, add_explain, add_json, add_plan_arguments, read_plan_arguments
from stackwright.domain.environment import Environment
from stackwright.rendering.plan_document import plan_document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_plan_arguments, add_json, add_explain):
        add(parser)


def read_arguments(given: argparse.Namespace) -> PlanArguments:
    """Turn the parsed words into the record."""
    return read_plan_arguments(given)


def run(arguments: PlanArguments) -> None:
    """Print one plan."""
    host = get_host(arguments.options.host)
    # Not before: what these import is loaded while the container engine makes up its answer.
    from stackwright.commands.configure import plan_environment
    from stackwright.commands.paths import find_paths

    environment = arguments.environment or Environment.DEV
    plan = plan_environment(arguments.options, find_paths(arguments.out), host, environment)
    report.warn_all(plan.warnings)
    if arguments.json:
        report.print_json(plan_document(plan))
    else:
        report.print_plan(plan, explain=arguments.explain)
