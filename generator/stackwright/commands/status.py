"""`stackwright status`: what runs, by which runtime, of which generation."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.commands.generation import describe_left, generations_of
from stackwright.commands.options import add_environment, add_json, add_out, add_runtime, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.stack import address, load_stack, reach
from stackwright.diagnosis.heartbeat import read_heartbeat
from stackwright.domain.environment import Environment
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.project.lock import read_work
from stackwright.runtime import Runtime, Stack
from stackwright.watching.steps import loaded_model

# An engine that serves says little; the line that tells what is loaded may lie this far back.
SWITCH_LINES = 2000


class StatusArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `status`."""

    environment: Environment
    runtime: str = "auto"
    out: Path | None = None
    json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_environment, add_runtime, add_out, add_json):
        add(parser)


def read_arguments(given: argparse.Namespace) -> StatusArguments:
    """Turn the parsed words into the record."""
    return record_of(StatusArguments, given)


def run(arguments: StatusArguments) -> None:
    """Print what runs, by which runtime, of which generation."""
    stack = load_stack(find_paths(arguments.out).of(arguments.environment))
    runtime, _ = reach(stack, arguments.runtime)
    states, environment = _with_loaded(stack, runtime), stack.plan.environment
    generations, running = generations_of(stack).all(), generations_of(stack).running()
    if arguments.json:
        report.print_json(
            {
                "environment": environment,
                "runtime": runtime.name,
                "generation": None if running is None else running.number,
                "generations": generations,
                "services": states,
            }
        )
        return
    report.tell(f"{environment} with {runtime.name}, gateway at {address(stack)}")
    for generation in generations:
        runs = ", runs" if running is not None and running.number == generation.number else ""
        report.tell(f"generation {generation.number}: {generation.state}, of {generation.made}{runs}")
    work, held = read_work(stack.generated)
    if work is not None and held:
        report.tell(f"`{work.command}` is running, process {work.pid}")
    elif work is not None and work.starting:
        report.warn(describe_left(work, environment))
    report.print_states(states)


def _with_loaded(stack: Stack, runtime: Runtime) -> tuple[ServiceState, ...]:
    """Return the states of all services, with the model that is loaded where several take turns, and with hangs."""
    in_turns = {engine.name for engine in stack.plan.engines if len(stack.plan.turns(engine)) > 1}

    def with_model(state: ServiceState) -> ServiceState:
        if state.name not in in_turns or state.phase is not ServicePhase.HEALTHY:
            return state
        model = loaded_model(runtime.logs(state.name, SWITCH_LINES))
        return replace(state, detail="switching, or unknown" if model is None else f"{model} is loaded")

    return tuple(_with_hangs(stack, with_model(state)) for state in runtime.services())


def _with_hangs(stack: Stack, state: ServiceState) -> ServiceState:
    """Return the state with what the program beside an engine has noted lately."""
    service = next(service for service in stack.services if service.name == state.name)
    told = read_heartbeat(stack, service).tell(time.time())
    return state if told is None else replace(state, detail="; ".join(filter(None, (state.detail, told))))
