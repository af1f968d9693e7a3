"""`start-environment`: configure where needed, validate, start, and watch until the gateway has answered."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec import Struct, field

from stackwright import report
from stackwright.commands.bring_up import Attempt, bring_up
from stackwright.commands.changes import tell_changes, tell_kept
from stackwright.commands.configure import (
    compare,
    configure_environment,
    picture_plans,
    prepare_stack,
    write_environments,
)
from stackwright.commands.generation import hold_environments, keep_generation, leave_trial, put_back
from stackwright.commands.host import get_host
from stackwright.commands.options import (
    PlanArguments,
    PlanOptions,
    StartOptions,
    add_environment,
    add_out,
    add_plan_flags,
    add_runtime,
    add_start_options,
    parse_environment,
    read_plan_options,
    read_start_options,
    record_of,
)
from stackwright.commands.paths import ProjectPaths, find_paths, working_folder
from stackwright.commands.replacing import bring_up_instead, check_leaving, fetch
from stackwright.commands.stack import (
    address,
    choose_runtime,
    load_stack,
    page_words,
    pages_of,
    reach,
    refuse,
    refuse_beside,
)
from stackwright.domain.environment import Environment
from stackwright.domain.finding import Finding
from stackwright.domain.host import Host
from stackwright.errors import StackError, UsageError
from stackwright.models.cache import find_cache
from stackwright.models.hub import fetch_config
from stackwright.project import folder as project
from stackwright.project.generations import Generations
from stackwright.project.location import name_command
from stackwright.project.lock import Lock
from stackwright.runtime import Runtime, Stack
from stackwright.validation.checks import find_all, find_broken, find_later
from stackwright.validation.engine_answer import UNASKED


class StartArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `start-environment`. `replace`: the environments whose place it takes."""

    environment: Environment
    replace: tuple[Environment, ...] = ()
    options: PlanOptions = field(default_factory=PlanOptions)
    start: StartOptions = field(default_factory=StartOptions)
    runtime: str = "auto"
    out: Path | None = None

    @property
    def plans(self) -> bool:
        """Whether the person said anything that a plan is made from."""
        return self.options != PlanOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    for add in (add_environment, add_plan_flags, add_runtime, add_start_options, add_out):
        add(parser)
    parser.add_argument(
        "--replace",
        metavar="ENV",
        action="append",
        type=parse_environment,
        help="stop this environment first, once the new one is checked; repeatable",
    )


def read_arguments(given: argparse.Namespace) -> StartArguments:
    """Turn the parsed words into the record. Raises UsageError where an environment is to replace itself."""
    leaving = tuple(dict.fromkeys(given.replace or ()))
    if given.environment in leaving:
        alone = f"`start-environment {given.environment}` alone restarts what has changed"
        raise UsageError(f"--replace {given.environment}: the environment that is to be started", hint=alone)
    options, start = read_plan_options(given), read_start_options(given)
    return record_of(StartArguments, given, options=options, start=start, replace=leaving)


def run(arguments: StartArguments) -> None:
    """Configure where needed, validate, start, and watch until the gateway has answered."""
    paths = find_paths(arguments.out)
    own, leaving = paths.of(arguments.environment), tuple(map(paths.of, arguments.replace))
    with hold_environments((own, *leaving), f"start-environment {own.environment}") as (lock, *others):
        leave_trial(own)
        running = Generations(own).running()
        check_leaving(leaving)
        try:
            if arguments.plans or project.load_plan(own) is None:
                _configure_one(arguments.options, paths, own.environment)
            attempt = make_ready(arguments, paths, lock)
            if leaving:
                fetch(attempt)
        except BaseException:
            if arguments.plans and running is not None:  # what runs goes on, so its files are to stand here again
                report.tell(f"restoring the files of generation {running.number}, which runs")
                put_back(own, running.number)
            raise
        if leaving:
            bring_up_instead(attempt, tuple(zip(leaving, others, strict=True)))
        else:
            bring_up(attempt)
    _show_ready(attempt.stack, frozenset(state.name for state in attempt.runtime.services()))


def make_ready(arguments: StartArguments, paths: ProjectPaths, lock: Lock) -> Attempt:
    """Check everything that can be checked before a service is touched.

    Raises:
        StackError: the stack is not fit to be started.
    """
    stack = load_stack(paths.of(arguments.environment))
    environment = stack.plan.environment
    broken = find_broken(stack)
    report.show_findings(broken)
    refuse(broken, environment)
    runtime, host = reach(stack, arguments.runtime)
    # The caches and the smoke model may have been cleaned away since the files were rendered.
    prepare_stack(stack.plan, paths, stack.env, Path(stack.env["HF_HOME"]))
    findings = find_all(stack, runtime, host, report.tell, arguments.replace)
    report.show_findings(findings)
    refuse(findings, environment)
    report.warn_all(stack.plan.warnings)
    report.warn_all(runtime.notes)
    refuse_beside(stack, runtime, host)
    waits = any(finding.check == UNASKED for finding in findings)
    return Attempt(
        options=arguments.start,
        stack=stack,
        number=keep_generation(stack.paths),
        runtime=runtime,
        lock=lock,
        runtime_of=lambda other: choose_runtime(runtime.name, other, host),
        check_fetched=partial(_check_fetched, stack, runtime, host, findings) if waits else lambda: None,
    )


def _check_fetched(stack: Stack, runtime: Runtime, host: Host, said: Collection[Finding]) -> None:
    """Ask the engine, now that it is installed; of a model that is to be downloaded it needs no more than its config.

    What was `said` before is not said again.

    Raises:
        ValidationError: it refuses the settings.
    """
    for values in stack.models:
        with suppress(StackError):  # the engine will say so itself
            fetch_config(values[stack.engine.keys.model], find_cache(os.environ, Path(stack.env["HF_HOME"])))
    findings = find_later(stack, runtime, host, report.tell)
    report.show_findings(finding for finding in findings if finding not in said)
    refuse(findings, stack.plan.environment)


def _configure_one(options: PlanOptions, paths: ProjectPaths, environment: Environment) -> None:
    report.tell(f"configuring {environment} for {options.host or 'this machine'}")
    configured = configure_environment(options, paths, get_host(options.host), environment)
    tell_kept((configured,))
    changes = compare(configured)
    tell_changes((configured,))
    write_environments(paths, ((configured, changes),))
    report.show_changes(changes, dry_run=False, diff=False)
    report.show_summaries(picture_plans(PlanArguments(options=options), paths, (configured.plan,), {}))


def _show_ready(stack: Stack, running: frozenset[str]) -> None:
    name, models = stack.plan.environment.value, [model.name for model in stack.plan.models]
    report.tell(f"\n{name} is ready at {address(stack)}, model{'s' if len(models) > 1 else ''}: {', '.join(models)}")
    report.tell("try it:\n")
    report.print_text(question_by_hand(stack))
    for service, page in pages_of(stack):
        if service.name in running:  # without containers, some have no program on this machine
            report.tell(f"\n{page_words(stack, service, page)}")
    report.tell(f"\nstop it: {_command(stack, 'stop-environment')}")


def question_by_hand(stack: Stack) -> str:
    """Write a question to the gateway as a line for a shell; its key is in no program's arguments, which all may read.

    `echo` is the shell's own word, and `-H @-` has curl read the header from the pipe (curl's manual; since 7.55,
    2017).
    """
    trust = "" if stack.certificate is None else f" --cacert {shlex.quote(str(stack.certificate))}"
    return (
        f'echo "Authorization: Bearer $({_command(stack, "stackwright", "key")})" |\n'
        f'  curl{trust} -H @- -H "Content-Type: application/json" {address(stack)}/v1/chat/completions \\\n'
        f'  -d \'{{"model": "{stack.plan.models[0].name}", '
        '"messages": [{"role": "user", "content": "Say hello."}]}\''
    )


def _command(stack: Stack, *words: str) -> str:
    return name_command(*words, stack.plan.environment.value, root=stack.root, working=working_folder())
