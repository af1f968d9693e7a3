"""`start-environment`: configure where needed, validate, start, and watch until the gateway has answered."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from stackwright import report
from stackwright.commands.arguments import Arguments
from stackwright.commands.bring_up import Attempt, bring_up
from stackwright.commands.configure import (
    Place,
    compare,
    find_place,
    make_folders,
    plan_environment,
    write_environments,
)
from stackwright.commands.generation import hold_environments, keep_generation, put_back
from stackwright.commands.machine import get_host
from stackwright.commands.stack import address, asked_environment, choose_runtime, load_stack, reach, refuse_beside
from stackwright.commands.validate import find_all, find_broken, refuse
from stackwright.domain.environment import Environment
from stackwright.project import folder as project
from stackwright.project.credentials import ensure_secrets
from stackwright.project.generations import Generations
from stackwright.project.lock import Lock
from stackwright.runtime import Stack


def start(arguments: Arguments) -> None:
    """`start-environment`: configure where needed, validate, start, and watch until the gateway has answered."""
    place, environment = find_place(arguments), asked_environment(arguments)
    with hold_environments(place.root, (environment,), f"{arguments.command} {environment}") as (lock,):
        running = Generations(place.root, environment.value).running()
        try:
            if arguments.plans or project.load_plan(place.root, environment) is None:
                _configure_one(arguments, place, environment)
            attempt = _make_ready(arguments, place, lock)
        except BaseException:
            if arguments.plans and running is not None:  # what runs goes on, so its files are to stand here again
                report.tell(f"putting back the files of generation {running.number}, which runs")
                put_back(place.root, place.state, environment, running.number)
            raise
        bring_up(attempt)
    _show_ready(attempt.stack)


def _make_ready(arguments: Arguments, place: Place, lock: Lock) -> Attempt:
    """Check everything that can be checked before a service is touched.

    Raises:
        StackError: the stack is not fit to be started.
    """
    stack = load_stack(arguments)
    environment = stack.plan.environment
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
    refuse_beside(stack, runtime, host)
    return Attempt(
        arguments=arguments,
        stack=stack,
        number=keep_generation(stack.root, environment),
        runtime=runtime,
        lock=lock,
        runtime_of=lambda other: choose_runtime(runtime.name, other, host),
    )


def _configure_one(arguments: Arguments, place: Place, environment: Environment) -> None:
    report.tell(f"configuring {environment} for this machine")
    plan = plan_environment(arguments, place, get_host(arguments), environment)
    changes = compare(place, plan)
    write_environments(place, {environment: plan}, {environment: changes})
    report.show_changes(changes, dry_run=False, diff=False)


def _show_ready(stack: Stack) -> None:
    name, models = stack.plan.environment.value, stack.plan.gateway.models
    report.tell(f"\n{name} is ready at {address(stack)}, model{'s' if len(models) > 1 else ''}: {', '.join(models)}")
    report.tell("try it:\n")
    report.print_text(question_by_hand(stack))
    report.tell(f"\nstop it: {_command(stack, 'stop-environment')}")


def question_by_hand(stack: Stack) -> str:
    """Write a question to the gateway as a line for a shell; its key is in no program's arguments, which all may read.

    `echo` is the shell's own word, and `-H @-` has curl read the header from the pipe (curl's manual; since 7.55, 2017).
    """
    trust = "" if stack.certificate is None else f" --cacert {shlex.quote(str(stack.certificate))}"
    return (
        f'echo "Authorization: Bearer $({_command(stack, "stackwright", "key")})" |\n'
        f'  curl{trust} -H @- -H "Content-Type: application/json" {address(stack)}/v1/chat/completions \\\n'
        f'  -d \'{{"model": "{stack.plan.gateway.models[0]}", '
        '"messages": [{"role": "user", "content": "Say hello."}]}\''
    )


def _command(stack: Stack, *words: str) -> str:
    return project.name_command(*words, stack.plan.environment.value, root=stack.root, working=Path.cwd())
