"""`stackwright tune`: search for better settings of a running stack, one start after the other, within a time."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.catalog.load import load_catalog
from stackwright.commands.bench import LoadOptions, add_load_source, own_model, read_whole
from stackwright.commands.configure import compare, read_named_model
from stackwright.commands.generation import hold_environments, keep_generation, leave_trial
from stackwright.commands.host import get_host
from stackwright.commands.options import add_environment, add_json, add_out, add_runtime, record_of
from stackwright.commands.paths import ProjectPaths, find_paths
from stackwright.commands.restart import refuse_changed
from stackwright.commands.running import reach_running
from stackwright.commands.stack import load_stack
from stackwright.commands.tune_load import AskedSearch, load_of, usual_start
from stackwright.commands.tuning import Tuner, Workshop, bring_back
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.llm import LlmSource
from stackwright.domain.load import Workload
from stackwright.domain.plan import ServedModel
from stackwright.domain.tuning import (
    TUNE_SCHEMA,
    Aim,
    Axis,
    Confirmation,
    Goal,
    SearchGround,
    TimeSpent,
    TuneLoad,
    TuneState,
)
from stackwright.engines import engine_named
from stackwright.errors import RuntimeRefusedError, UsageError, did_you_mean
from stackwright.load.search import all_values, untried
from stackwright.models.read import SMOKE
from stackwright.planning.tuning import TuneRequest, axes_of
from stackwright.project import folder as project
from stackwright.project.generations import Generations
from stackwright.project.inputs import INPUTS
from stackwright.project.lock import Lock
from stackwright.project.searches import read_search
from stackwright.project.write import FileStatus
from stackwright.rendering.tune_page import (
    ListedValue,
    cost_lines,
    describe_aim,
    describe_sent,
    end_lines,
    listed_table,
    tried_table,
)
from stackwright.runtime import Stack

MINUTES = 30
_LONGEST_MS = 3_600_000.0


class TuneArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `tune`."""

    environment: Environment
    asked: AskedSearch = AskedSearch()
    restart: bool = False
    dry_run: bool = False
    host: Path | None = None
    runtime: str = "auto"
    json: bool = False
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument("--goal", metavar="GOAL", type=_goal, help=f"{', '.join(Goal)} (default: {Goal.THROUGHPUT})")
    parser.add_argument(
        "--ttft-ms",
        dest="first_token_ms",
        metavar="N",
        type=_milliseconds,
        help="the most that the time to the first token may be, p99",
    )
    parser.add_argument(
        "--minutes", metavar="N", type=read_whole("--minutes"), help=f"time for all of it (default: {MINUTES})"
    )
    add_load_source(parser)
    parser.add_argument(
        "--concurrency", metavar="N", type=read_whole("--concurrency"), help="requests at once (default: by the plan)"
    )
    parser.add_argument(
        "--requests",
        metavar="N",
        type=read_whole("--requests"),
        help="requests of a round (default: 4 for each at once)",
    )
    parser.add_argument("--model", metavar="NAME", help="a model of the stack (default: its first chat model)")
    parser.add_argument("--restart", action="store_true", help="begin anew instead of going on with an earlier search")
    parser.add_argument("--dry-run", action="store_true", help="list what would be tried and why; change nothing")
    parser.add_argument("--host", metavar="FILE", type=Path, help="with --dry-run: of this snapshot")
    for add in (add_runtime, add_json, add_out):
        add(parser)


def _goal(text: str) -> Goal:
    if text not in tuple(Goal):
        hint = did_you_mean(text, Goal) or f"for example `--goal {Goal.THROUGHPUT}`"
        raise UsageError(f"--goal: found `{text[:40]}`, allowed: {', '.join(Goal)}", hint=hint)
    return Goal(text)


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value <= _LONGEST_MS:
        raise UsageError(
            f"--ttft-ms: found `{text[:40]}`, allowed: milliseconds, 1 to {_LONGEST_MS:.0f}",
            hint="for example `--ttft-ms 500`",
        )
    return value


def read_arguments(given: argparse.Namespace) -> TuneArguments:
    """Turn the parsed words into the record. Raises UsageError where another machine is to be measured."""
    if given.host is not None and not given.dry_run:
        raise UsageError("--host: a search measures this machine", hint="add `--dry-run` to list what it would try")
    return record_of(TuneArguments, given, asked=record_of(AskedSearch, given))


def run(arguments: TuneArguments) -> None:
    """Search, or list what would be tried.

    Raises:
        UsageError: the words are wrong, or the time is too short.
        RuntimeRefusedError: the stack does not run, or not as its files stand.
        StackError: the search cannot go on; what ran before it runs again.
    """
    paths = find_paths(arguments.out)
    own = paths.of(arguments.environment)
    if arguments.dry_run:
        draft = _draft(arguments, paths, load_stack(own), None)
        _show_candidates(draft, _begin(draft, arguments, 0), json=arguments.json)
        return
    with hold_environments((own,), f"tune {own.environment}") as (lock,):
        before = _search_under_way(own, arguments)
        stack, runtime = _take_up(arguments, own, lock)
        draft = _draft(arguments, paths, stack, before)
        _refuse_other_files(draft, own)
        state = _begin(draft, arguments, _generation(own)) if before is None else _go_on(draft, arguments, before)
        _announce(draft, state, resumed=before is not None)
        if draft.promising:
            state = Tuner(replace(draft.workshop, lock=lock, runtime=runtime), state).run()
        else:
            state = replace(state, ended="nothing to try: everything is as it was")
    _show_end(state, json=arguments.json)


class Draft(Struct, frozen=True, kw_only=True):
    """What a search would do: where, with which load, and what it may try. `inputs`: digest of what its plan is of."""

    workshop: Workshop
    aim: Aim
    load: TuneLoad
    axes: tuple[Axis, ...]
    listed: tuple[ListedValue, ...]
    inputs: str

    @property
    def promising(self) -> bool:
        """Whether there is anything to try."""
        return any(one.objection is None for one in self.listed)


def _search_under_way(own: EnvironmentPaths, arguments: TuneArguments) -> TuneState | None:
    """Return the search to go on with; None where there is none, or it is to begin anew. Raises UsageError."""
    state = None if arguments.restart else read_search(own)
    if state is None or state.ended is not None:
        return None
    load = state.ground.load
    said = (
        ("--goal", arguments.asked.goal, state.ground.aim.goal),
        ("--ttft-ms", arguments.asked.first_token_ms, state.ground.aim.first_token_ms),
        ("--preset", arguments.asked.preset, None if load.file else load.preset),
        ("--file", arguments.asked.file and str(arguments.asked.file.absolute()), load.file),
        ("--concurrency", arguments.asked.concurrency, load.at_once),
        ("--requests", arguments.asked.requests, load.requests),
        ("--model", arguments.asked.model, load.model),
    )
    for flag, given, has in said:
        if given is not None and given != has:
            raise UsageError(
                f"{flag}: found `{given}`, but the search under way has {'none' if has is None else f'`{has}`'}",
                hint=f"leave it out to go on, or begin anew: `stackwright tune {own.environment} --restart`",
            )
    # What was started to be confirmed is measured again from its beginning.
    return replace(state, confirmation=Confirmation())


def _take_up(arguments: TuneArguments, own: EnvironmentPaths, lock: Lock) -> tuple[Stack, str]:
    """Return what runs, and its runtime's name; where a killed search left a trial running, what ran before it.

    Raises:
        RuntimeRefusedError: nothing runs, or not what the files say.
    """
    leave_trial(own)
    stack = load_stack(own)
    if any(model.exclusive is not None for model in stack.plan.models):
        raise UsageError(
            f"{own.environment}: models that take turns are not tuned",
            hint="tune an environment that serves one of them alone",
        )
    runtime = reach_running(stack, arguments.runtime)
    running = Generations(own).running()
    found = None if running is None else Generations(own).find(running.number)
    if found is not None and found.trial:
        report.tell(f"{own.environment}: a search was killed; starting again what ran before it")
        bring_back(own, lock, _generation(own), runtime.name, get_host(None))
    refuse_changed(stack, runtime, {state.name: state for state in runtime.services()})
    return stack, runtime.name


def _generation(own: EnvironmentPaths) -> int:
    """Keep the files as they stand, and return their number. Raises UsageError where they cannot be kept."""
    number = keep_generation(own)
    if number is None:
        raise UsageError(
            f"{own.generated}: what runs cannot be kept, so it could not be brought back", hint="make room on its disk"
        )
    return number


def _draft(arguments: TuneArguments, paths: ProjectPaths, stack: Stack, before: TuneState | None) -> Draft:
    """Work out what a search would do: pins, local files and wishes of a person are left alone."""
    own, plan = stack.paths, stack.plan
    aim = (
        before.ground.aim
        if before
        else Aim(goal=arguments.asked.goal or Goal.THROUGHPUT, first_token_ms=arguments.asked.first_token_ms)
    )
    load, workload = load_of(arguments.asked, stack, aim, before)
    model = own_model(plan, load.model)
    workshop = Workshop(
        paths=paths,
        own=own,
        lock=None,
        host=get_host(arguments.host),
        plan=plan,
        load=LoadOptions(
            preset=load.preset, file=None if load.file is None else Path(load.file), requests=load.requests
        ),
        runtime=arguments.runtime,
        usual_start_s=usual_start(stack, model),
    )
    axes = before.ground.axes if before else axes_of(_request(model, paths, stack, aim, (load, workload)))
    return Draft(
        workshop=workshop,
        aim=aim,
        load=load,
        axes=axes,
        listed=tuple(_listed(workshop, axes, model.name)),
        inputs=_inputs(workshop),
    )


def _request(
    model: ServedModel, paths: ProjectPaths, stack: Stack, aim: Aim, sent: tuple[TuneLoad, Workload]
) -> TuneRequest:
    """Return what the search's axes are chosen from."""
    own, catalog = stack.paths, load_catalog()
    name = SMOKE if model.source is LlmSource.SMOKE else model.location
    return TuneRequest(
        plan=stack.plan,
        model=model,
        facts=read_named_model(name, catalog, paths, f"{own.environment}: model {name}"),
        catalog=catalog,
        goal=aim.goal,
        at_once=sent[0].at_once,
        workload=sent[1],
        most_share=project.read_wishes(own).gpu_memory_utilization,
        local=frozenset(project.read_env_file(own.local) if own.local.exists() else {}),
    )


def _listed(workshop: Workshop, axes: Sequence[Axis], name: str) -> Iterator[ListedValue]:
    context = engine_named(workshop.plan.model(name).engine.name).keys.context
    for axis, value in all_values(axes):
        plan, objection = workshop.try_plan({axis.key: value}, name)
        settings = next((model.settings for model in (plan.models if plan else ()) if model.name == name), {})
        yield ListedValue(
            key=axis.key,
            now=axis.now,
            value=value,
            why=axis.why,
            context=settings[context].value if context in settings else None,
            objection=objection,
        )


def _inputs(workshop: Workshop) -> str:
    """Return a digest of what the plan is made from: wishes, choices, catalog, release, and the person's own file."""
    recorded = next(file.text for file in workshop.configure({}).files if file.path.name == INPUTS)
    own = workshop.own.local.read_bytes() if workshop.own.local.exists() else b""
    return hashlib.sha256(recorded.encode() + own).hexdigest()


def _refuse_other_files(draft: Draft, own: EnvironmentPaths) -> None:
    """Refuse where the files that services read are not those that would be rendered now. Raises RuntimeRefusedError.

    The plan's reasons change with each start that it remembers.
    """
    changes = compare(draft.workshop.configure({}))
    read = [change for change in changes if not change.for_programs]
    other = [str(change.file.path) for change in read if change.status is not FileStatus.UNCHANGED]
    if other:
        raise RuntimeRefusedError(
            f"{own.environment}: {', '.join(other)} would be rendered otherwise now",
            hint=f"`configure-gpu {own.environment}`, then `start-environment {own.environment}`",
        )


def _begin(draft: Draft, arguments: TuneArguments, generation: int) -> TuneState:
    environment = draft.workshop.own.environment
    return TuneState(
        schema=TUNE_SCHEMA,
        name=f"{environment.value}-tune-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        environment=environment,
        ground=SearchGround(
            inputs=draft.inputs, generation=generation, aim=draft.aim, load=draft.load, axes=draft.axes
        ),
        time=TimeSpent(minutes=arguments.asked.minutes or MINUTES),
    )


def _go_on(draft: Draft, arguments: TuneArguments, before: TuneState) -> TuneState:
    """Return the search under way, with the time that is given now. Raises UsageError where its ground has changed."""
    own = draft.workshop.own
    current = Generations(own).current()
    if before.ground.inputs != draft.inputs or current is None or current.number != before.ground.generation:
        raise UsageError(
            f"{own.environment}: wishes, pins or files are not those that the search began with",
            hint=f"begin anew: `stackwright tune {own.environment} --restart`",
        )
    if arguments.asked.minutes is None:
        return before
    minutes = math.ceil(before.time.total_s / 60) + arguments.asked.minutes
    return replace(before, time=replace(before.time, minutes=minutes))


def _announce(draft: Draft, state: TuneState, *, resumed: bool) -> None:
    """Say what will be done, and what it costs, before anything is."""
    own = draft.workshop.own
    aim, load = state.ground.aim, state.ground.load
    report.tell(f"{own.environment}: {describe_aim(aim)}; {describe_sent(load)}, to {load.model}")
    if resumed:
        report.tell(
            f"going on with {state.name}: {len(state.tried)} tried, {state.time.total_s / 60:.0f} minutes spent"
        )
    report.tell("\n".join(cost_lines(draft.listed, state, draft.workshop.usual_start_s)))


def _show_candidates(draft: Draft, state: TuneState, *, json: bool) -> None:
    if json:
        report.print_json(
            {"aim": draft.aim, "load": draft.load, "minutes": state.time.minutes, "candidates": draft.listed}
        )
        return
    _announce(draft, state, resumed=False)
    report.print_table(*listed_table(draft.listed))


def _show_end(state: TuneState, *, json: bool) -> None:
    left = untried(state.ground.axes, state.tried)
    if json:
        report.print_json({"tune": state, "untried": left})
        return
    if state.baseline:
        report.print_table(*tried_table(state))
        report.print_lines([""])
    report.print_lines(end_lines(state, left))
