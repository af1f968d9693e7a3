"""`stackwright plan`: show the plan of one environment; nothing is written."""

from __future__ import annotations

import argparse

from stackwright import report
from stackwright.commands.host import get_host
from stackwright.commands.options import PlanArguments, add_details, add_json, add_plan_arguments, read_plan_arguments
from stackwright.domain.environment import Environment
from stackwright.rendering.plan_document import plan_document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_plan_arguments, add_json, add_details):
        add(parser)


def read_arguments(given: argparse.Namespace) -> PlanArguments:
    """Turn the parsed words into the record."""
    return read_plan_arguments(given)


def run(arguments: PlanArguments) -> None:
    """Print one plan."""
    host = get_host(arguments.options.host)
    # Not before: what these import is loaded while the container engine makes up its answer.
    from stackwright.commands.changes import tell_remembered
    from stackwright.commands.configure import picture_plans, plan_with_choices, print_details
    from stackwright.commands.paths import find_paths
    from stackwright.project.folder import read_wishes

    environment = arguments.environment or Environment.DEV
    paths = find_paths(arguments.out)
    own = paths.of(environment)
    plan, chosen = plan_with_choices(arguments.options, paths, host, environment, read_wishes(own))
    tell_remembered(((own, chosen),))
    report.warn_all(plan.warnings)
    if arguments.json:
        report.print_json(plan_document(plan))
    else:
        report.print_summaries(picture_plans(arguments, paths, (plan,), "configure-gpu"))
        print_details(arguments, (plan,))
