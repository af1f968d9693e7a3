"""`stackwright restart`: end a running stack, or one service of it, what clients ask first, and start it again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.commands.generation import generations_of, hold_environments, seen_to
from stackwright.commands.options import add_environment, add_out, add_runtime, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.running import require_service
from stackwright.commands.stack import address, load_stack, reach
from stackwright.domain.environment import Environment
from stackwright.domain.service import UP, Service, ServicePhase, ServiceState
from stackwright.errors import RuntimeRefusedError
from stackwright.project.credentials import read_gateway_key
from stackwright.runtime import Runtime, Stack
from stackwright.services import stop_order
from stackwright.watching.drain import drain, drain_limit
from stackwright.watching.watch import watch

POLL_S = 0.2


class RestartArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `restart`. `service`: None for all."""

    environment: Environment
    service: str | None = None
    runtime: str = "auto"
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="one service (default: all)")
    for add in (add_runtime, add_out):
        add(parser)


def read_arguments(given: argparse.Namespace) -> RestartArguments:
    """Turn the parsed words into the record."""
    return record_of(RestartArguments, given)


def run(arguments: RestartArguments) -> None:
    """Restart what runs, as it was started, and watch until it answers.

    Raises:
        RuntimeRefusedError: nothing runs, or the files have changed since.
        NotHealthyError: it does not come to answer again.
    """
    paths, environment = find_paths(arguments.out).of(arguments.environment), arguments.environment
    with hold_environments((paths,), f"restart {environment}") as (lock,):
        stack = load_stack(paths)
        if arguments.service is not None:
            require_service(stack, arguments.service)
        key = read_gateway_key(stack.secrets)
        runtime, _ = reach(stack, arguments.runtime)
        states = {state.name: state for state in runtime.services()}
        refuse_changed(stack, runtime, states)
        names = services_to_restart(stack, states, arguments.service)
        running = generations_of(stack).running()
        before = None if running is None else running.number
        lock.note(replace(lock.work, starting=True, ran=True, before=before, runtime=runtime.name))
        report.tell(f"restarting {', '.join(names)}")
        _end(stack, runtime, names, key)
        with report.Progress() as progress:
            runtime.up(names)
            watch(runtime, stack, key, progress.say)
        runtime.prove()
        seen_to(lock)
    report.tell(f"{environment}: restarted {', '.join(names)}; it answers at {address(stack)}")


def refuse_changed(stack: Stack, runtime: Runtime, states: dict[str, ServiceState]) -> None:
    """Refuse a stack that does not run, or not as its files stand now. Raises RuntimeRefusedError."""
    environment = stack.plan.environment
    if not any(state.phase in UP for state in states.values()):
        raise RuntimeRefusedError(f"{environment}: nothing runs", hint=f"start it: `start-environment {environment}`")
    changed = [one.name for one in runtime.changes() if one.name in states and states[one.name].phase in UP]
    if changed:
        raise RuntimeRefusedError(
            f"{environment}: the files of {', '.join(changed)} have changed since the start",
            hint=f"`start-environment {environment}` checks them and restarts what has changed",
        )


def services_to_restart(stack: Stack, states: dict[str, ServiceState], asked: str | None) -> tuple[str, ...]:
    """Return the services that end, in the order of a start.

    What clients ask goes with a service that it cannot do without: it lets open requests end and takes no more, where
    they would fail otherwise. An engine whose models all have another healthy replica is spared by the gateway itself.
    """
    every = tuple(service.name for service in stack.services if service.name in states)
    if asked is None:
        return every
    wanted = {asked} if _is_spared(stack, states, asked) else {asked, stack.front.name}
    return tuple(name for name in every if name in wanted)


def _is_spared(stack: Stack, states: dict[str, ServiceState], name: str) -> bool:
    models = [model for model in stack.plan.models if any(replica.name == name for replica in model.replicas)]
    return bool(models) and all(
        any(
            replica.name != name and states[replica.name].phase is ServicePhase.HEALTHY
            for replica in model.replicas
            if replica.name in states
        )
        for model in models
    )


def _end(stack: Stack, runtime: Runtime, names: tuple[str, ...], key: str) -> None:
    """End services: what clients ask once its open requests have ended, then the others, killed if need be."""
    if stack.front.name in names:
        drain(runtime, stack, drain_limit(stack), report.tell, key=key)
    for group in stop_order(stack.services):
        ending = [service for service in group if service.name in names and service.front is None]
        for service in ending:
            runtime.end(service.name)
        for name in _left(runtime, ending, max((service.restart.stop_s for service in ending), default=0)):
            runtime.end(name, kill=True)
        _left(runtime, ending, 10.0)


def _left(runtime: Runtime, ending: Iterable[Service], within_s: float) -> tuple[str, ...]:
    """Wait until services have ended; return those that have not in time."""
    names = {service.name for service in ending}
    deadline = time.monotonic() + within_s
    while names:
        left = tuple(state.name for state in runtime.services() if state.name in names and state.phase in UP)
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_S)
    return ()
