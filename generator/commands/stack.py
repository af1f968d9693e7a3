"""What every command on a rendered stack begins with: its files, its runtime, its address."""

from __future__ import annotations

from generator import project, report
from generator.arguments import Arguments
from generator.commands.configure import find_place
from generator.detect import detect_host
from generator.domain.environment import Environment
from generator.domain.host import Host
from generator.domain.service import ServicePhase
from generator.errors import RuntimeRefusedError, UsageError, ValidationError
from generator.runtime import Runtime, Stack
from generator.settings import BY_KEY, problem_with

UP = frozenset({ServicePhase.WAITING, ServicePhase.STARTING, ServicePhase.HEALTHY, ServicePhase.UNHEALTHY})


def load_stack(arguments: Arguments) -> Stack:
    """Load what was rendered, with as much of the values in force as every command relies on."""
    place, environment = find_place(arguments), asked_environment(arguments)
    stack = project.load_stack(place.root, place.state, environment)
    if stack is None:
        raise ValidationError(
            f"{environment} is not configured in {place.root}", hint=f"`configure-gpu --env {environment}` does it"
        )
    for name in ("COMPOSE_PROJECT_NAME", "GATEWAY_BIND", "GATEWAY_PORT"):
        value = stack.env.get(name, "")
        problem = problem_with(BY_KEY[name], value)
        if problem:
            raise ValidationError(
                f"{name}: found `{value[:80]}`, allowed: {problem}",
                hint=f"correct it in envs/.env.{environment}.local; `configure-gpu --env {environment}` writes the other",
            )
    return stack


def reach(arguments: Arguments, stack: Stack) -> tuple[Runtime, Host]:
    """Look at the machine, and return the runtime for this stack with the host as it is now."""
    host = detect_host().host
    return choose_runtime(arguments.runtime, stack, host), host


def choose_runtime(asked: str, stack: Stack, host: Host) -> Runtime:
    """Return the runtime that was asked for; `auto` takes the one that runs this stack already.

    Where none does, it takes Compose where an engine answers, else processes.

    Raises:
        RuntimeRefusedError: compose was asked for and no engine answers, or it has no Compose.
    """
    from generator.runtime.compose import ComposeRuntime

    if asked == "processes":
        return _processes(stack)
    if asked == "auto" and any(state.phase is not ServicePhase.ABSENT for state in _processes(stack).services()):
        report.tell("runtime: processes (this stack runs by them)")
        return _processes(stack)
    containers = host.containers
    if containers.engine is not None and containers.compose is not None:
        if asked == "auto":
            report.tell(f"runtime: compose ({containers.engine} {containers.version} answers)")
        return ComposeRuntime(stack)
    why = "no container engine answers" if containers.engine is None else f"{containers.engine} has no Compose plugin"
    if asked == "compose":
        raise RuntimeRefusedError(why, hint="start Docker, or use `--runtime processes`, which needs none")
    report.tell(f"runtime: processes ({why})")
    return _processes(stack)


def _processes(stack: Stack) -> Runtime:
    from generator.runtime.processes import ProcessesRuntime

    return ProcessesRuntime(stack)


def address(stack: Stack) -> str:
    """Return the gateway's address for a client on this machine."""
    from generator.watching.probe import base_url

    return base_url(stack.env["GATEWAY_BIND"], int(stack.env["GATEWAY_PORT"]))


def asked_environment(arguments: Arguments) -> Environment:
    """Return the environment that was named. Raises UsageError where none was."""
    if arguments.environment is None:
        raise UsageError("an environment is needed", hint="for example `dev`")
    return arguments.environment
