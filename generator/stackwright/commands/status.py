"""`stackwright status`: what runs and how it fares, once or again and again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.commands.generation import describe_left, generations_of
from stackwright.commands.options import add_environment, add_json, add_out, add_runtime, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.running import Wanted, choose_running, drift_of, owner_of, read_wanted
from stackwright.commands.stack import address, load_stack, reach, refuse_foreign
from stackwright.detect.gpu_state import GpuWatch
from stackwright.diagnosis.heartbeat import read_heartbeat
from stackwright.domain.environment import Environment
from stackwright.domain.machine import GpuState, Unseen
from stackwright.domain.plan import Mode, Replica
from stackwright.domain.running import GpuStatus, ProcessorStatus, ServiceStatus, StackStatus, gpu_status
from stackwright.domain.service import ServicePhase
from stackwright.errors import RuntimeRefusedError, UsageError
from stackwright.project.lock import read_work
from stackwright.reading import to_plain
from stackwright.runtime import Stack, WatchedRuntime
from stackwright.runtime.side_by_side import side_by_side
from stackwright.watching.look import (
    LEAST_INTERVAL_S,
    LIMIT_S,
    Look,
    ReadGpus,
    models_of,
    processor_of,
    sample_work,
    services_of_look,
    take_look,
)
from stackwright.watching.steps import loaded_model

# An engine that serves says little; the line that tells what is loaded may lie this far back.
SWITCH_LINES = 2000
DEFAULT_INTERVAL_S = 2.0
# A first look that got no answer is given so long: a busy machine is no reason to say nothing.
PATIENT_S = 20.0


class StatusArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `status`. `watch_s`: seconds between two looks; None for one look."""

    environment: Environment
    runtime: str = "auto"
    out: Path | None = None
    json: bool = False
    watch_s: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument(
        "--watch",
        dest="watch_s",
        nargs="?",
        const=DEFAULT_INTERVAL_S,
        type=_interval,
        metavar="SECONDS",
        help=f"look again every so many seconds (default: {DEFAULT_INTERVAL_S:g}) until Ctrl-C",
    )
    for add in (add_runtime, add_out, add_json):
        add(parser)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.5 <= seconds <= 3600:
        raise UsageError(f"--watch: found `{text[:40]}`, allowed: seconds, from 0.5 to 3600", hint="for example `2`")
    return seconds


def read_arguments(given: argparse.Namespace) -> StatusArguments:
    """Turn the parsed words into the record."""
    return record_of(StatusArguments, given)


def run(arguments: StatusArguments) -> None:
    """Print what runs and how it fares."""
    stack = load_stack(find_paths(arguments.out).of(arguments.environment))
    runtime = choose_running(stack, arguments.runtime) or reach(stack, arguments.runtime)[0]
    watches = arguments.watch_s is not None
    with nullcontext() if stack.plan.mode is Mode.CPU else GpuWatch(events=watches) as gpus:
        view = _View(stack, runtime, None if gpus is None else gpus.read)
        if arguments.watch_s is not None:
            _show_again_and_again(view, arguments.watch_s, json=arguments.json)
        elif arguments.json:
            report.print_json(view.document(view.take()))
        else:
            _tell_work(stack)
            status = view.take()
            report.print_status(status)
            if all(row.state.phase is ServicePhase.ABSENT for row in status.services):
                report.tell(f"start it: `start-environment {status.environment}`")


def _show_again_and_again(view: _View, interval_s: float, *, json: bool) -> None:
    """Look until Ctrl-C, which ends it well: there is nothing to undo."""

    def looks() -> Iterator[StackStatus]:
        while True:
            began_s = time.monotonic()
            yield view.take(min(interval_s, 2 * LIMIT_S))
            time.sleep(max(began_s + interval_s - time.monotonic(), 0))

    try:
        if json:
            for status in looks():
                report.print_json_line(view.document(status))
        else:
            report.watch_status(looks())
    except KeyboardInterrupt:
        return


def _tell_work(stack: Stack) -> None:
    """Say which command is at work on the environment, or has been interrupted."""
    work, held = read_work(stack.generated)
    if work is not None and held:
        report.tell(f"`{work.command}` is running, process {work.pid}")
    elif work is not None and work.starting:
        report.warn(describe_left(work, stack.plan.environment))


class _View:
    """Looks at one stack; what comes after a first look is told of the time between the two."""

    def __init__(self, stack: Stack, runtime: WatchedRuntime, read_gpus: ReadGpus | None) -> None:
        self._stack, self._runtime, self._read_gpus = stack, runtime, read_gpus
        self._before: Look | None = None
        self._generations = generations_of(stack).all()

    def take(self, limit_s: float = LIMIT_S) -> StackStatus:
        """Look once."""
        taken: dict[str, Any] = {}
        asked: dict[str, Callable[[], None]] = {
            "look": lambda: taken.update(look=take_look(self._runtime, self._stack, self._read_gpus, limit_s)),
            "drift": lambda: taken.update(wanted=read_wanted(self._stack, self._runtime)),
        }
        try:
            side_by_side(asked, 3 * limit_s)
        except RuntimeRefusedError as failure:
            if self._before is None:
                reach(self._stack, self._runtime.name)  # which says why in full
                if limit_s == PATIENT_S:
                    raise
                # It answers, on a machine that is busy, or what was listed went before it was asked about.
                return self.take(PATIENT_S)
            # While a stack is watched, its runtime may be restarted.
            taken["look"] = Look(at_s=time.monotonic(), glances=(), notes=(failure.message,))
        now = time.monotonic()
        look: Look = taken.get("look") or Look(at_s=now, glances=(), notes=("the runtime does not answer",))
        if self._before is None:
            refuse_foreign(self._stack, owner_of(look.glances))
        late = () if "wanted" in taken else ("drift: the comparison took too long",)
        status = self._status(replace(look, notes=(*look.notes, *late)), taken.get("wanted", Wanted()))
        self._before = look
        return status

    def document(self, status: StackStatus) -> dict[str, object]:
        """Return the JSON document; its first five fields are older than the others."""
        services = [{**to_plain(row.state), "since": row.since, "since_s": row.since_s} for row in status.services]
        return {
            "environment": status.environment,
            "runtime": status.runtime,
            "generation": status.generation,
            "generations": self._generations,
            "services": services,
            "url": status.url,
            "gpus": status.gpus,
            "processor": status.processor,
            "models": status.models,
            "from_start": status.from_start,
            "drift": status.drift,
            "notes": status.notes,
        }

    def _status(self, look: Look, wanted: Wanted) -> StackStatus:
        stack, running = self._stack, generations_of(self._stack).running()
        gpus, notes = self._gpus(look)
        return StackStatus(
            environment=stack.plan.environment,
            runtime=self._runtime.name,
            url=address(stack),
            generation=None if running is None else running.number,
            generations=tuple(f"{generation.number} {generation.state}" for generation in self._generations),
            services=tuple(self._service(row) for row in services_of_look(look)),
            gpus=gpus,
            processor=self._processor(look),
            models=models_of(stack, look, self._before),
            drift=drift_of(stack, look, wanted),
            notes=(*look.notes, *notes),
            from_start=self._before is None,
        )

    def _gpus(self, look: Look) -> tuple[tuple[GpuStatus, ...], tuple[str, ...]]:
        if look.gpus is None:
            return (), ()
        if isinstance(look.gpus, Unseen):
            return (), (f"GPUs: {look.gpus.why}",)
        ours = frozenset(pid for glance in look.glances for pid in glance.pids)
        served: dict[str, list[str]] = {}
        for service in self._stack.services:
            for uuid in service.resources.gpu_uuids:
                served.setdefault(uuid, []).append(service.name)
        return tuple(gpu_status(state, _serving(state, served), ours) for state in look.gpus), ()

    def _processor(self, look: Look) -> ProcessorStatus | None:
        if look.work is None:
            return None
        before = look.work
        if self._before is not None and self._before.work is not None:
            before = self._before.work
        time.sleep(max(before.at_s + LEAST_INTERVAL_S - time.monotonic(), 0))
        return processor_of(look.glances, before, sample_work(look.glances))

    def _service(self, row: ServiceStatus) -> ServiceStatus:
        """Add the model that is loaded, where several take turns, and what the program beside an engine has noted."""
        stack, state = self._stack, row.state
        words = [state.detail]
        if len(_turns(stack, state.name)) > 1 and state.phase is ServicePhase.HEALTHY:
            model = loaded_model(self._runtime.logs(state.name, SWITCH_LINES))
            words = ["switching, or unknown" if model is None else f"{model} is loaded"]
        service = stack.service(state.name)
        if service is not None:
            words.append(read_heartbeat(stack, service).tell(time.time()))
        return replace(row, state=replace(state, detail="; ".join(filter(None, words)) or None))


def _turns(stack: Stack, service: str) -> tuple[Replica, ...]:
    return tuple(replica for replica in stack.plan.replicas if replica.name == service)


def _serving(state: GpuState, served: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return the services that have a GPU, or a slice of it."""
    uuids = (state.uuid, *(row.uuid for row in state.slices))
    return tuple(dict.fromkeys(name for uuid in uuids if uuid is not None for name in served.get(uuid, ())))
