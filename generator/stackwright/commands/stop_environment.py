"""`stop-environment`: take a stack down; caches and files stay."""

from __future__ import annotations

import argparse
from contextlib import nullcontext, suppress
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.generation import generations_of, hold_environments, seen_to
from stackwright.commands.options import add_environment, add_out, add_runtime, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.stack import choose_runtime, load_stack, reach, renamed
from stackwright.domain.environment import Environment
from stackwright.domain.service import ServicePhase


class StopArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `stop-environment`."""

    environment: Environment
    runtime: str = "auto"
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_environment, add_runtime, add_out):
        add(parser)


def read_arguments(given: argparse.Namespace) -> StopArguments:
    """Turn the parsed words into the record."""
    return record_of(StopArguments, given)


def run(arguments: StopArguments) -> None:
    """Take the stack down; harmless where nothing runs."""
    paths, environment = find_paths(arguments.out).of(arguments.environment), arguments.environment
    with hold_environments((paths,), f"stop-environment {environment}", needs_record=False) as (lock,):
        stack = load_stack(paths)
        runtime, host = reach(stack, arguments.runtime)
        running = generations_of(stack).running()
        runtimes = [runtime]
        if running is not None and running.stack != stack.name:
            runtimes.append(choose_runtime(running.runtime, renamed(stack, running.stack), host))
        names = []
        for used in runtimes:
            names += [state.name for state in used.services() if state.phase is not ServicePhase.ABSENT]
            used.down()
        if running is not None and running.runtime == runtime.name:
            with nullcontext() if lock.unwritten is None else suppress(OSError):
                generations_of(stack).set_running(None)
        # What the other runtime runs, asked for by nobody, is still to be seen to.
        if lock.work.runtime in (None, runtime.name):
            seen_to(lock)
    stopped = f"stopped {', '.join(names)}" if names else "nothing was running"
    report.tell(f"{environment}: {stopped}")
