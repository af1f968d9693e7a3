"""`start-environment`, `stop-environment`, `validate-environment`, `status` and `key`: a rendered stack and its runtime."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from generator import project, report
from generator.arguments import Arguments
from generator.commands.configure import (
    Place,
    compare,
    find_place,
    make_folders,
    plan_environment,
    write_environments,
)
from generator.commands.machine import get_host
from generator.credentials import ensure_secrets, read_gateway_key
from generator.detect import detect_host
from generator.domain.environment import Environment
from generator.domain.finding import Finding
from generator.domain.host import Host
from generator.domain.service import ServicePhase
from generator.errors import NotHealthyError, RuntimeRefusedError, StackError, UsageError, ValidationError
from generator.runtime import Runtime, Stack
from generator.settings import BY_KEY, problem_with
from generator.validation.compose_config import check_merged
from generator.validation.live import check_files, check_port
from generator.validation.rules import check_environment, check_host, check_processes, check_shell

UP = frozenset({ServicePhase.WAITING, ServicePhase.STARTING, ServicePhase.HEALTHY, ServicePhase.UNHEALTHY})
KEPT_LOG_LINES = 5000


def validate(arguments: Arguments) -> None:
    """`validate-environment`: every check, all findings at once."""
    stack = _load(arguments)
    findings = find_broken(stack) or find_all(stack, *_reach(arguments, stack))
    if arguments.json:
        report.print_json({"findings": findings})
    else:
        report.show_findings(findings)
    _refuse(findings, stack.plan.environment)
    if not arguments.json:
        report.tell(f"{stack.plan.environment}: valid")


def start(arguments: Arguments) -> None:
    """`start-environment`: configure where needed, validate, start, and watch until the gateway has answered."""
    place, environment = find_place(arguments), _environment(arguments)
    if arguments.plans or project.load_plan(place.root, environment) is None:
        _configure_one(arguments, place, environment)
    stack = _load(arguments)
    broken = find_broken(stack)
    report.show_findings(broken)
    _refuse(broken, environment)
    runtime, host = _reach(arguments, stack)
    # The caches and the smoke model may have been cleaned away since the files were rendered.
    ensure_secrets(stack.secrets, os.environ, Path(stack.env["HF_HOME"]))
    make_folders(stack.env, place)
    findings = find_all(stack, runtime, host)
    report.show_findings(findings)
    _refuse(findings, environment)
    report.warn_all(stack.plan.warnings)
    report.warn_all(runtime.notes)
    bring_up(arguments, stack, runtime)
    _show_ready(stack)


def stop(arguments: Arguments) -> None:
    """`stop-environment`: take the stack down; harmless where nothing runs."""
    stack = _load(arguments)
    runtime, _ = _reach(arguments, stack)
    running = [state.name for state in runtime.services() if state.phase is not ServicePhase.ABSENT]
    runtime.down()
    what = f"stopped {', '.join(running)}" if running else "nothing was running"
    report.tell(f"{stack.plan.environment}: {what}")


def status(arguments: Arguments) -> None:
    """`stackwright status`: what runs, by which runtime."""
    stack = _load(arguments)
    runtime, _ = _reach(arguments, stack)
    states = runtime.services()
    if arguments.json:
        report.print_json({"environment": stack.plan.environment, "runtime": runtime.name, "services": states})
        return
    report.tell(f"{stack.plan.environment} by {runtime.name}, gateway at {_address(stack)}")
    report.print_states(states)


def key(arguments: Arguments) -> None:
    """`stackwright key`: print the gateway's key for the person who asks."""
    place, environment = find_place(arguments), _environment(arguments)
    report.print_text(read_gateway_key(place.root / "envs" / ".secrets" / environment.value))


def find_broken(stack: Stack) -> tuple[Finding, ...]:
    """Find what is wrong with the values in force, with the files beside them; nothing where they can be read on."""
    found = check_environment(stack.plan, stack.env)
    if not any(finding.check.startswith("env-") for finding in found):
        return ()
    return (*found, *check_files(stack))


def find_all(stack: Stack, runtime: Runtime, host: Host) -> tuple[Finding, ...]:
    """Run every check that applies to this runtime on the host as it is now. To be asked where nothing is broken."""
    from generator.runtime.compose import ComposeRuntime

    environment = stack.plan.environment.value
    found = [*check_environment(stack.plan, stack.env), *check_files(stack)]
    found += check_host(stack.plan, host)
    if isinstance(runtime, ComposeRuntime):
        found += check_shell(stack.env, os.environ, environment)
        found += check_merged(stack, runtime.merged())
    else:
        found += check_processes(stack.plan)
    if not any(state.phase in UP for state in runtime.services()):
        found += check_port(stack.env, environment)
    return tuple(found)


def _configure_one(arguments: Arguments, place: Place, environment: Environment) -> None:
    report.tell(f"configuring {environment} for this machine")
    plan = plan_environment(arguments, place, get_host(arguments), environment)
    changes = compare(place, plan)
    write_environments(place, {environment: plan}, {environment: changes})
    report.show_changes(changes, dry_run=False, diff=False)


def _load(arguments: Arguments) -> Stack:
    """Load what was rendered, with as much of the values in force as every command relies on."""
    place, environment = find_place(arguments), _environment(arguments)
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


def _reach(arguments: Arguments, stack: Stack) -> tuple[Runtime, Host]:
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


def bring_up(arguments: Arguments, stack: Stack, runtime: Runtime) -> None:
    """Start and watch. What did not run before and does not answer is taken down again, also on Ctrl-C.

    Raises:
        StackError: whatever ended the start; what ends the taking down is a warning beside it.
    """
    from generator.watching.watch import watch

    # A SIGTERM ends a start as Ctrl-C does: cleanly.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ran_before = any(state.phase in UP for state in runtime.services())
    try:
        with report.Progress() as progress:
            runtime.prepare(progress.say)
            runtime.up()
            watch(runtime, stack, read_gateway_key(stack.secrets), progress.say, limit_s=arguments.timeout_s)
    except BaseException as failure:
        kept = _keep_logs(stack, runtime) if isinstance(failure, NotHealthyError) else None
        if not ran_before:
            _take_down(runtime)
        if isinstance(failure, NotHealthyError):
            logs = f"logs: {kept}" if kept else None
            raise NotHealthyError(failure.message, hint="; ".join(filter(None, (failure.hint, logs)))) from None
        raise


def _take_down(runtime: Runtime) -> None:
    report.tell("taking down what was started")
    try:
        runtime.down()
    except StackError as failure:
        report.warn(f"it cannot be taken down: {failure}")


def _keep_logs(stack: Stack, runtime: Runtime) -> Path | None:
    """Keep the logs of a failed start, since taking it down removes them; None where they cannot be kept."""
    folder = stack.state / "failures" / stack.name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for state in runtime.services():
            (folder / f"{state.name}.log").write_text(runtime.logs(state.name, KEPT_LOG_LINES), encoding="utf-8")
    except (OSError, StackError) as failure:
        report.warn(f"the logs cannot be kept: {failure}")
        return None
    return folder


def _show_ready(stack: Stack) -> None:
    key_command, stop_command = _command(stack, "stackwright", "key"), _command(stack, "stop-environment")
    name, models = stack.plan.environment.value, stack.plan.gateway.models
    report.tell(f"\n{name} is ready at {_address(stack)}, model{'s' if len(models) > 1 else ''}: {', '.join(models)}")
    report.tell("try it:\n")
    report.print_text(
        f"curl {_address(stack)}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer $({key_command})" -H "Content-Type: application/json" \\\n'
        f'  -d \'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Say hello."}}]}}\''
    )
    report.tell(f"\nstop it: {stop_command}")


def _command(stack: Stack, *words: str) -> str:
    return project.name_command(*words, stack.plan.environment.value, root=stack.root, working=Path.cwd())


def _address(stack: Stack) -> str:
    from generator.watching.probe import base_url

    return base_url(stack.env["GATEWAY_BIND"], int(stack.env["GATEWAY_PORT"]))


def _environment(arguments: Arguments) -> Environment:
    if arguments.environment is None:
        raise UsageError("an environment is needed", hint="for example `dev`")
    return arguments.environment


def _refuse(findings: tuple[Finding, ...], environment: Environment) -> None:
    errors = report.count_errors(findings)
    if errors:
        raise ValidationError(f"{environment}: {errors} error{'s' if errors > 1 else ''} found, see above")
