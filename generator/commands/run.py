"""`stop-environment`, `stackwright status` and `stackwright key`: what is asked of a stack that runs, or does not."""

from __future__ import annotations

from generator import report
from generator.arguments import Arguments
from generator.commands.configure import find_place
from generator.commands.stack import address, asked_environment, load_stack, reach
from generator.credentials import read_gateway_key
from generator.domain.service import ServicePhase


def stop(arguments: Arguments) -> None:
    """`stop-environment`: take the stack down; harmless where nothing runs."""
    stack = load_stack(arguments)
    runtime, _ = reach(arguments, stack)
    running = [state.name for state in runtime.services() if state.phase is not ServicePhase.ABSENT]
    runtime.down()
    what = f"stopped {', '.join(running)}" if running else "nothing was running"
    report.tell(f"{stack.plan.environment}: {what}")


def status(arguments: Arguments) -> None:
    """`stackwright status`: what runs, by which runtime."""
    stack = load_stack(arguments)
    runtime, _ = reach(arguments, stack)
    states = runtime.services()
    if arguments.json:
        report.print_json({"environment": stack.plan.environment, "runtime": runtime.name, "services": states})
        return
    report.tell(f"{stack.plan.environment} by {runtime.name}, gateway at {address(stack)}")
    report.print_states(states)


def key(arguments: Arguments) -> None:
    """`stackwright key`: print the gateway's key for the person who asks."""
    place, environment = find_place(arguments), asked_environment(arguments)
    report.print_text(read_gateway_key(place.root / "envs" / ".secrets" / environment.value))
