"""What every command on a rendered stack begins with: its files, its runtime, its address."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from stackwright import report
from stackwright.commands.generation import generations_of
from stackwright.commands.paths import working_folder
from stackwright.detect.host import detect_host
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.finding import Finding
from stackwright.domain.host import Host
from stackwright.domain.service import UP, Page, Service, ServicePhase
from stackwright.domain.setting_spec import problem_with
from stackwright.errors import RuntimeRefusedError, StackError, ValidationError
from stackwright.project import folder as project
from stackwright.project.location import name_command
from stackwright.project.lock import read_work
from stackwright.runtime import Runtime, Stack, WatchedRuntime
from stackwright.settings import declared_settings


def load_stack(paths: EnvironmentPaths) -> Stack:
    """Load what was rendered, with as much of the values in force as every command relies on."""
    stack, environment = project.load_stack(paths), paths.environment
    if stack is None:
        raise ValidationError(
            f"{environment} is not configured in {paths.root}", hint=f"run `configure-gpu {environment}`"
        )
    for name in ("COMPOSE_PROJECT_NAME", *(setting.key for setting in stack.access.address)):
        value = stack.env.get(name)
        if value is None:
            raise ValidationError(
                f"envs/.env.{environment}: {name} is missing: the file is damaged",
                hint=f"render it again: `configure-gpu {environment}`",
            )
        problem = problem_with(declared_settings().by_key[name], value)
        if problem:
            raise ValidationError(
                f"{name}: found `{value[:80]}`, allowed: {problem}",
                hint=_how_to_correct(stack, name),
            )
    return stack


def _how_to_correct(stack: Stack, name: str) -> str:
    """Return where a bad value is corrected: rendering again does not change a person's own file."""
    local, environment = stack.paths.local, stack.plan.environment
    if local.exists() and name in project.read_env_file(local):
        return f"correct or remove it in {local.relative_to(stack.root)}"
    return f"render the file again: `configure-gpu {environment}`"


def reach(stack: Stack, asked: str) -> tuple[WatchedRuntime, Host]:
    """Look at the machine, and return the runtime for this stack, `asked` or the best, with the host as it is now.

    Raises:
        RuntimeRefusedError: it cannot be reached, or what runs under this name belongs to another project folder.
    """
    host = detect_host().host
    runtime = choose_runtime(started_by(stack) if asked == "auto" else asked, stack, host)
    refuse_foreign(stack, runtime.owner())
    return runtime, host


def refuse_foreign(stack: Stack, owner: Path | None) -> None:
    """Refuse what was started under this stack's name from another project folder. Raises RuntimeRefusedError."""
    if owner is not None and owner.resolve() != stack.root.resolve() and (owner / "compose" / "compose.yaml").exists():
        there = name_command("stop-environment", stack.plan.environment.value, root=owner, working=working_folder())
        raise RuntimeRefusedError(
            f"{stack.name}: a stack of this name was started from {owner}",
            hint=f"stop it there, `{there}`, or choose another name with --set COMPOSE_PROJECT_NAME=…",
        )


def started_by(stack: Stack) -> str:
    """Return the runtime that a start of this environment noted, one that was killed included; else `auto`."""
    work, _ = read_work(stack.generated)
    if work is not None and work.starting and work.runtime is not None:
        return work.runtime
    running = generations_of(stack).running()
    return "auto" if running is None else running.runtime


def refuse_beside(stack: Stack, runtime: Runtime, host: Host) -> None:
    """Refuse to start an environment a second time, under another name or by another runtime.

    Raises:
        RuntimeRefusedError: it runs already, otherwise than it would now.
    """
    running = generations_of(stack).running()
    if running is None or (running.stack, running.runtime) == (stack.name, runtime.name):
        return
    try:
        states = choose_runtime(running.runtime, renamed(stack, running.stack), host).services()
    except StackError:  # what ran there is out of reach, and in nobody's way
        return
    if any(state.phase in UP for state in states):
        environment = stack.plan.environment
        raise RuntimeRefusedError(
            f"{environment} runs as {running.stack} with {running.runtime}; it would now run as {stack.name} "
            f"with {runtime.name}",
            hint=f"`stop-environment {environment}` first",
        )


def refuse(findings: tuple[Finding, ...], environment: Environment, *, shown: bool = True) -> None:
    """Raise ValidationError where a finding is an error; `shown`: in words, and not in a document alone."""
    errors = report.count_errors(findings)
    if errors:
        where = "see above" if shown else "see `findings`"
        raise ValidationError(f"{environment}: {errors} error{'s' if errors > 1 else ''} found, {where}")


def renamed(stack: Stack, name: str) -> Stack:
    """Return a stack as it ran under another project name."""
    return replace(stack, env={**stack.env, "COMPOSE_PROJECT_NAME": name})


def choose_runtime(asked: str, stack: Stack, host: Host) -> WatchedRuntime:
    """Return the runtime that was asked for; `auto` takes the one that runs this stack already.

    Where none does, it takes Compose where an engine answers, else processes.

    Raises:
        RuntimeRefusedError: compose was asked for and no engine answers, or it has no Compose.
    """
    from stackwright.runtime.compose import ComposeRuntime

    if asked == "processes":
        return _processes(stack)
    if asked == "auto" and any(state.phase is not ServicePhase.ABSENT for state in _processes(stack).services()):
        report.tell("runtime: processes (this stack runs with it)")
        return _processes(stack)
    containers = host.containers
    if containers.engine is not None and containers.compose is not None:
        if asked == "auto":
            report.tell(f"runtime: compose ({containers.engine} {containers.version} answers)")
        return ComposeRuntime(stack)
    why = "no container engine answers" if containers.engine is None else f"{containers.engine} has no Compose plugin"
    if asked == "compose":
        raise RuntimeRefusedError(why, hint="start Docker, or use `--runtime processes`")
    report.tell(f"runtime: processes ({why})")
    return _processes(stack)


def _processes(stack: Stack) -> WatchedRuntime:
    from stackwright.runtime.processes import ProcessesRuntime

    return ProcessesRuntime(stack)


def pages_of(stack: Stack) -> tuple[tuple[Service, Page], ...]:
    """Return the services that have a page for a person, each with it."""
    return tuple((service, service.page) for service in stack.services if service.page is not None)


def page_words(stack: Stack, service: Service, page: Page) -> str:
    """Return what a person finds at a service's page, where, and how they get in."""
    from stackwright.watching.probe import published_url

    login = page.login
    how = "" if login is None else f" (user {login.user}, password in {stack.secrets / login.secret})"
    return f"{page.title}: {published_url(stack, service)}{page.path}{how}"


def address(stack: Stack) -> str:
    """Return the gateway's address for a client on this machine."""
    from stackwright.watching.probe import endpoint_of

    return endpoint_of(stack).url
