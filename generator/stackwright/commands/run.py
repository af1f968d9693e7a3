"""`stop-environment`, `stackwright status`, `rollback` and `key`: what is asked of a stack that runs, or does not."""

from __future__ import annotations

from dataclasses import replace

from stackwright import report
from stackwright.commands.arguments import Arguments
from stackwright.commands.bring_up import Attempt, bring_up
from stackwright.commands.configure import find_place
from stackwright.commands.generation import (
    describe_left,
    generations_of,
    hold_environments,
    put_back,
    seen_to,
)
from stackwright.commands.stack import (
    UP,
    address,
    asked_environment,
    choose_runtime,
    load_stack,
    reach,
    renamed,
)
from stackwright.domain.environment import Environment
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.errors import UsageError
from stackwright.project.credentials import read_gateway_key
from stackwright.project.generations import Generations, State
from stackwright.project.lock import read_work
from stackwright.runtime import Runtime, Stack
from stackwright.watching.steps import loaded_model

# An engine that serves says little; the line that tells what is loaded may lie this far back.
SWITCH_LINES = 2000


def stop(arguments: Arguments) -> None:
    """`stop-environment`: take the stack down; harmless where nothing runs."""
    place, environment = find_place(arguments), asked_environment(arguments)
    with hold_environments(place.root, (environment,), f"{arguments.command} {environment}") as (lock,):
        stack = load_stack(arguments)
        runtime, host = reach(arguments, stack)
        running = generations_of(stack).running()
        runtimes = [runtime]
        if running is not None and running.stack != stack.name:
            runtimes.append(choose_runtime(running.runtime, renamed(stack, running.stack), host))
        names = []
        for each in runtimes:
            names += [state.name for state in each.services() if state.phase is not ServicePhase.ABSENT]
            each.down()
        if running is not None and running.runtime == runtime.name:
            generations_of(stack).set_running(None)
        if lock.work.runtime in (
            None,
            runtime.name,
        ):  # the other runtime's, asked for by nobody, is still to be seen to
            seen_to(lock)
    stopped = f"stopped {', '.join(names)}" if names else "nothing was running"
    report.tell(f"{environment}: {stopped}")


def _with_loaded(stack: Stack, runtime: Runtime) -> tuple[ServiceState, ...]:
    """Return the states of all services, with the model that is loaded where several take turns."""
    in_turns = {engine.name for engine in stack.plan.engines if len(stack.plan.turns(engine)) > 1}

    def told(state: ServiceState) -> ServiceState:
        if state.name not in in_turns or state.phase is not ServicePhase.HEALTHY:
            return state
        model = loaded_model(runtime.logs(state.name, SWITCH_LINES))
        return replace(state, detail="switching, or not told" if model is None else f"{model} is loaded")

    return tuple(told(state) for state in runtime.services())


def status(arguments: Arguments) -> None:
    """`stackwright status`: what runs, by which runtime, of which generation."""
    stack = load_stack(arguments)
    runtime, _ = reach(arguments, stack)
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
    report.tell(f"{environment} by {runtime.name}, gateway at {address(stack)}")
    for each in generations:
        runs = ", runs" if running is not None and running.number == each.number else ""
        report.tell(f"generation {each.number}: {each.state}, of {each.made}{runs}")
    work, held = read_work(stack.generated)
    if work is not None and held:
        report.tell(f"`{work.command}` is at work, process {work.pid}")
    elif work is not None and work.starting:
        report.warn(describe_left(work, environment))
    report.print_states(states)


def rollback(arguments: Arguments) -> None:
    """`stackwright rollback`: put an earlier generation's files back, and bring it up where the stack runs."""
    place, environment = find_place(arguments), asked_environment(arguments)
    with hold_environments(place.root, (environment,), f"{arguments.command} {environment}") as (lock,):
        generations = Generations(place.root, environment.value)
        number = arguments.to if arguments.to is not None else _good_before(generations, environment)
        stack = put_back(place.root, place.state, environment, number)
        runtime, host = reach(arguments, stack)
        if not any(state.phase in UP for state in runtime.services()):
            report.tell(
                f"{environment}: the files of generation {number} are back; `start-environment {environment}` starts it"
            )
            return
        bring_up(
            Attempt(
                arguments=arguments,
                stack=stack,
                number=number,
                runtime=runtime,
                lock=lock,
                runtime_of=lambda other: choose_runtime(runtime.name, other, host),
            )
        )
    report.tell(f"{environment}: generation {number} is back and answers at {address(stack)}")


def _good_before(generations: Generations, environment: Environment) -> int:
    """Return the last generation that answered and is older than the one that runs, or else stands here.

    Raises:
        UsageError: there is none.
    """
    now = generations.running() or generations.current()
    good = [each.number for each in generations.all() if each.state is State.GOOD]
    good = good if now is None else [number for number in good if number < now.number]
    if not good:
        kept = ", ".join(f"{each.number} ({each.state})" for each in generations.all()) or "none"
        raise UsageError(
            f"{environment}: no earlier generation has answered; kept: {kept}", hint="`--to N` takes any that is kept"
        )
    return good[-1]


def key(arguments: Arguments) -> None:
    """`stackwright key`: print the gateway's key for the person who asks."""
    place, environment = find_place(arguments), asked_environment(arguments)
    report.print_text(read_gateway_key(place.root / "envs" / ".secrets" / environment.value))
