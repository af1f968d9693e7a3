"""`validate-environment`: every check of a rendered stack on this machine, all findings at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_environment, add_json, add_out, add_runtime, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.stack import load_stack, reach, refuse
from stackwright.domain.environment import Environment
from stackwright.domain.finding import harden
from stackwright.validation.checks import find_all, find_broken


class ValidateArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `validate-environment`."""

    environment: Environment
    runtime: str = "auto"
    strict: bool = False
    out: Path | None = None
    json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    add_runtime(parser)
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    add_out(parser)
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> ValidateArguments:
    """Turn the parsed words into the record."""
    return record_of(ValidateArguments, given)


def run(arguments: ValidateArguments) -> None:
    """Run every check, and tell all findings at once."""
    stack = load_stack(find_paths(arguments.out).of(arguments.environment))
    findings = find_broken(stack) or find_all(stack, *reach(stack, arguments.runtime), report.tell)
    findings = harden(findings) if arguments.strict else findings
    if arguments.json:
        report.print_json({"findings": report.pasteable_findings(findings)})
    else:
        report.show_findings(findings)
    refuse(findings, stack.plan.environment, shown=not arguments.json)
    if not arguments.json:
        report.tell(f"{stack.plan.environment}: valid")
