"""`stop-environment`: take a stack down, what clients ask first; caches and files stay."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.generation import generations_of, hold_environments, seen_to
from stackwright.commands.options import add_environment, add_out, add_runtime, parse_whole_seconds, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.stack import choose_runtime, load_stack, reach, renamed
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.errors import StackError, UsageError
from stackwright.project.credentials import read_gateway_key
from stackwright.project.generations import Generations
from stackwright.project.lock import Lock
from stackwright.runtime import Stack
from stackwright.services import stop_order
from stackwright.watching.drain import drain, drain_limit


class StopArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `stop-environment`. `drain_s`: for open requests; None: as long as the environment has it."""

    environment: Environment
    runtime: str = "auto"
    drain_s: int | None = None
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    add_runtime(parser)
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument(
        "--drain",
        dest="drain_s",
        type=parse_whole_seconds,
        metavar="SECONDS",
        help="time for open requests to end (default and most: GATEWAY_DRAIN_S of the environment)",
    )
    limits.add_argument("--now", dest="drain_s", action="store_const", const=0, help="end open requests at once")
    add_out(parser)


def read_arguments(given: argparse.Namespace) -> StopArguments:
    """Turn the parsed words into the record."""
    return record_of(StopArguments, given)


def run(arguments: StopArguments) -> None:
    """Take the stack down; harmless where nothing runs.

    Raises:
        UsageError: more time for open requests is asked for than the gateway will give them.
        StackError: the rendered files cannot be read, and nothing runs that was started from them.
    """
    paths, environment = find_paths(arguments.out).of(arguments.environment), arguments.environment
    with hold_environments((paths,), f"stop-environment {environment}", needs_record=False) as (lock,):
        stop_held(paths, arguments, lock)


def stop_held(paths: EnvironmentPaths, arguments: StopArguments, lock: Lock) -> tuple[str, ...]:
    """Take the stack of an environment down that is held, say so, and return the services that ran. Raises as `run`."""
    try:
        stack = load_stack(paths)
    except StackError as failure:
        names = _stop_unrendered(paths, failure, lock)
    else:
        names = _stop(stack, arguments, lock)
    stopped = f"stopped {', '.join(names)}" if names else "nothing was running"
    report.tell(f"{paths.environment}: {stopped}")
    return tuple(names)


def _stop(stack: Stack, arguments: StopArguments, lock: Lock) -> list[str]:
    """Take down what runs of a stack, under this name and the one that it was started under; return the services."""
    limit_s = _drain_limit(stack, arguments.drain_s)
    runtime, host = reach(stack, arguments.runtime)
    running = generations_of(stack).running()
    runs = [(runtime, stack)]
    if running is not None and running.stack != stack.name:
        other = renamed(stack, running.stack)
        runs.append((choose_runtime(running.runtime, other, host), other))
    names = []
    for used, of in runs:
        names += _in_stop_order(of, used.services())
        drain(used, of, limit_s, report.tell, key=_key_of(of))
        used.down()
    if running is not None and running.runtime == runtime.name:
        with nullcontext() if lock.unwritten is None else suppress(OSError):
            generations_of(stack).set_running(None)
    # What the other runtime runs, asked for by nobody, is still to be seen to.
    if lock.work.runtime in (None, runtime.name):
        seen_to(lock)
    return names


def _in_stop_order(stack: Stack, states: Iterable[ServiceState]) -> list[str]:
    """Return the services that are there, in the order in which they end."""
    there = [state.name for state in states if state.phase is not ServicePhase.ABSENT]
    ordered = [service.name for group in stop_order(stack.services) for service in group]
    return sorted(there, key=lambda name: ordered.index(name) if name in ordered else len(ordered))


def _drain_limit(stack: Stack, asked: int | None) -> int:
    """Return how many seconds open requests get. Raises UsageError for more than the gateway will give them."""
    most = drain_limit(stack)
    if asked is not None and asked > most:
        raise UsageError(
            f"--drain {asked}: the gateway of {stack.plan.environment} ends open requests after {most} s",
            hint=f"raise it for the next start: `configure-gpu {stack.plan.environment} "
            f"--set {stack.access.drains_within_s.key}={asked}`",
        )
    return most if asked is None else asked


def _key_of(stack: Stack) -> str | None:
    try:
        return read_gateway_key(stack.secrets)
    except UsageError:
        return None


def _stop_unrendered(paths: EnvironmentPaths, failure: StackError, lock: Lock) -> list[str]:
    """Take down what was started from files that are gone or damaged. Raises what is wrong with them if nothing was."""
    from stackwright.runtime.unrendered import find_unrendered

    found = find_unrendered(paths)
    if not found:
        raise failure
    report.warn(f"{failure.message}; stopping what was started from here")
    for stack in found:
        stack.down()
    with suppress(OSError):
        Generations(paths).set_running(None)
    seen_to(lock)
    return [stack.name for stack in found]
