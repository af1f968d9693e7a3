"""`start-environment`: configure where needed, validate, start, and watch until the gateway has answered."""

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
    get_host,
    make_folders,
    plan_environment,
    write_environments,
)
from generator.commands.stack import UP, address, asked_environment, load_stack, reach
from generator.commands.validate import find_all, find_broken, refuse
from generator.credentials import ensure_secrets, read_gateway_key
from generator.domain.environment import Environment
from generator.errors import NotHealthyError, StackError
from generator.runtime import Runtime, Stack

KEPT_LOG_LINES = 5000


def start(arguments: Arguments) -> None:
    """`start-environment`: configure where needed, validate, start, and watch until the gateway has answered."""
    place, environment = find_place(arguments), asked_environment(arguments)
    if arguments.plans or project.load_plan(place.root, environment) is None:
        _configure_one(arguments, place, environment)
    stack = load_stack(arguments)
    broken = find_broken(stack)
    report.show_findings(broken)
    refuse(broken, environment)
    runtime, host = reach(arguments, stack)
    # The caches and the smoke model may have been cleaned away since the files were rendered.
    ensure_secrets(stack.secrets, os.environ, Path(stack.env["HF_HOME"]))
    make_folders(stack.env, place)
    findings = find_all(stack, runtime, host)
    report.show_findings(findings)
    refuse(findings, environment)
    report.warn_all(stack.plan.warnings)
    report.warn_all(runtime.notes)
    bring_up(arguments, stack, runtime)
    _show_ready(stack)


def _configure_one(arguments: Arguments, place: Place, environment: Environment) -> None:
    report.tell(f"configuring {environment} for this machine")
    plan = plan_environment(arguments, place, get_host(arguments), environment)
    changes = compare(place, plan)
    write_environments(place, {environment: plan}, {environment: changes})
    report.show_changes(changes, dry_run=False, diff=False)


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
    report.tell(f"\n{name} is ready at {address(stack)}, model{'s' if len(models) > 1 else ''}: {', '.join(models)}")
    report.tell("try it:\n")
    report.print_text(
        f"curl {address(stack)}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer $({key_command})" -H "Content-Type: application/json" \\\n'
        f'  -d \'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Say hello."}}]}}\''
    )
    report.tell(f"\nstop it: {stop_command}")


def _command(stack: Stack, *words: str) -> str:
    return project.name_command(*words, stack.plan.environment.value, root=stack.root, working=Path.cwd())
