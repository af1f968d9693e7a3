"""`stackwright rollback`: put an earlier generation's files back, and bring it up where the stack runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import Struct, field

from stackwright import report
from stackwright.commands.bring_up import Attempt, bring_up
from stackwright.commands.generation import hold_environments, put_back
from stackwright.commands.options import (
    StartOptions,
    add_environment,
    add_out,
    add_runtime,
    add_start_options,
    read_start_options,
    record_of,
)
from stackwright.commands.paths import find_paths
from stackwright.commands.stack import address, choose_runtime, reach
from stackwright.domain.environment import Environment
from stackwright.domain.service import UP
from stackwright.errors import UsageError
from stackwright.project.generations import Generations, GenerationState


class RollbackArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `rollback`. `number`: the generation, None for the last good one before these files."""

    environment: Environment
    number: int | None = None
    start: StartOptions = field(default_factory=StartOptions)
    runtime: str = "auto"
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument(
        "--to",
        metavar="N",
        help="the generation (default: the last that answered, before these files)",
    )
    for add in (add_runtime, add_start_options, add_out):
        add(parser)


def read_arguments(given: argparse.Namespace) -> RollbackArguments:
    """Turn the parsed words into the record."""
    return record_of(
        RollbackArguments, given, number=_number(given.to, given.environment), start=read_start_options(given)
    )


def _number(text: str | None, environment: Environment) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < len(text) <= 9):
        hint = f"`stackwright status {environment}` lists them"
        raise UsageError(f"--to: found `{text[:40]}`, allowed: a generation's number", hint=hint)
    return int(text)


def run(arguments: RollbackArguments) -> None:
    """Put an earlier generation's files back, and bring it up where the stack runs."""
    paths, environment = find_paths(arguments.out).of(arguments.environment), arguments.environment
    with hold_environments((paths,), f"rollback {environment}") as (lock,):
        generations = Generations(paths)
        number = arguments.number if arguments.number is not None else _good_before(generations, environment)
        stack = put_back(paths, number)
        runtime, host = reach(stack, arguments.runtime)
        if not any(state.phase in UP for state in runtime.services()):
            report.tell(
                f"{environment}: the files of generation {number} are back; start it with `start-environment "
                f"{environment}`"
            )
            return
        bring_up(
            Attempt(
                options=arguments.start,
                stack=stack,
                number=number,
                runtime=runtime,
                lock=lock,
                runtime_of=lambda other: choose_runtime(runtime.name, other, host),
            )
        )
    report.tell(f"{environment}: generation {number} runs again at {address(stack)}")


def _good_before(generations: Generations, environment: Environment) -> int:
    """Return the last generation that answered, before the one whose files stand here.

    That is the one that runs where other files stand here, which nobody has started.

    Raises:
        UsageError: there is none.
    """
    now = generations.running() or generations.current()
    good = [
        generation.number
        for generation in generations.all()
        if generation.state is GenerationState.GOOD and not generation.trial
    ]
    if now is not None and now.number in good:
        good = [number for number in good if number < now.number + (not generations.stands(now.number))]
    if not good:
        every = generations.all()
        kept = ", ".join(f"{generation.number} ({generation.state})" for generation in every) or "none"
        other = any(now is None or generation.number != now.number for generation in every)
        hint = f"a start keeps one: `start-environment {environment}`"
        if every:
            hint = "choose a kept one with `--to N`" if other else "a start with other settings keeps the next one"
        raise UsageError(f"{environment}: no earlier generation has answered; kept: {kept}", hint=hint)
    return good[-1]
