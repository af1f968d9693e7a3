"""What commands on a running stack share: its runtime, found without a look at the whole machine, and drift."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from stackwright.commands.generation import changed_settings, generations_of
from stackwright.commands.stack import reach, refuse_foreign, started_by
from stackwright.domain.machine import Unseen
from stackwright.domain.running import Drift
from stackwright.domain.service import UP
from stackwright.errors import RuntimeRefusedError, StackError, UsageError, did_you_mean
from stackwright.project.inputs import changed_inputs
from stackwright.project.write import read_manifest
from stackwright.runtime import Glance, Stack, WatchedRuntime
from stackwright.watching.look import LIMIT_S, Look


def choose_running(stack: Stack, asked: str) -> WatchedRuntime | None:
    """Return the runtime that a start noted for this stack, or that is asked for; None where neither names one."""
    from stackwright.runtime.compose import ComposeRuntime
    from stackwright.runtime.processes import ProcessesRuntime

    name = started_by(stack) if asked == "auto" else asked
    if name == "compose":
        return ComposeRuntime(stack)
    return ProcessesRuntime(stack) if name == "processes" else None


def reach_running(stack: Stack, asked: str) -> WatchedRuntime:
    """Return the runtime of a stack, without a look at the whole machine where a start has noted it.

    Raises:
        RuntimeRefusedError: it cannot be reached, or what runs under this name belongs to another project folder.
    """
    found = choose_running(stack, asked)
    if found is None:
        return reach(stack, asked)[0]
    try:
        refuse_foreign(stack, owner_of(found.glance(LIMIT_S)))
    except RuntimeRefusedError:
        return reach(stack, asked)[0]  # which says why in full
    return found


def owner_of(glances: Iterable[Glance]) -> Path | None:
    """Return the project folder that what runs was started from; None where it is unknown."""
    return next((glance.owner for glance in glances if glance.owner is not None), None)


def require_service(stack: Stack, name: str) -> None:
    """Refuse a service that the plan does not have. Raises UsageError."""
    names = [service.name for service in stack.services]
    if name not in names:
        hint = did_you_mean(name, names) or f"services: {', '.join(names)}"
        raise UsageError(f"{stack.plan.environment} has no service `{name[:60]}`", hint=hint)


class Wanted(Struct, frozen=True, kw_only=True):
    """What a start would bring up now: the revision of each service, and what has changed of its files and inputs."""

    revisions: Mapping[str, str] = {}
    changed: tuple[Drift, ...] = ()


def read_wanted(stack: Stack, runtime: WatchedRuntime) -> Wanted:
    """Read what the rendered files and their inputs would bring up now."""
    rows: list[Drift] = []
    revisions: Mapping[str, str] = {}
    try:
        revisions = runtime.revisions()
    except StackError as failure:
        rows.append(Drift(what=f"the files cannot be compared: {failure.message}"))
    gone = (path for path in read_manifest(stack.generated) if not (stack.root / path).is_file())
    rows += (Drift(what=f"missing: {path}; `configure-gpu {stack.plan.environment}` writes it again") for path in gone)
    running = generations_of(stack).running()
    if running is not None:
        rows += (Drift(what=f"changed since the start: {words}") for words in changed_settings(stack, running.number))
    try:
        inputs = changed_inputs(stack.paths) or ()
    except UsageError as failure:
        inputs = ()
        rows.append(Drift(what=f"the wishes cannot be compared: {failure.message}"))
    rows += (Drift(what=f"changed since the files were rendered: {name}") for name in inputs)
    return Wanted(revisions=revisions, changed=tuple(rows))


def drift_of(stack: Stack, look: Look, wanted: Wanted) -> tuple[Drift, ...]:
    """Compare what runs with the plan and with what a start would bring up now."""
    return (
        *(row for glance in look.glances for row in _drift_of_service(stack, glance, wanted)),
        *_lost(stack, look),
        *wanted.changed,
    )


def _drift_of_service(stack: Stack, glance: Glance, wanted: Wanted) -> Iterator[Drift]:
    name, service = glance.state.name, stack.service(glance.state.name)
    if glance.state.phase not in UP:
        return
    if service is None:
        yield Drift(what="the plan does not have it", service=name)
        return
    planned = stack.value(service.image)
    if glance.image is not None and glance.image != planned:
        yield Drift(what=f"runs {glance.image}, the plan has {planned}", service=name)
    elif glance.revision is not None and wanted.revisions.get(name, glance.revision) != glance.revision:
        yield Drift(what="its settings have changed", service=name)


def _lost(stack: Stack, look: Look) -> Iterator[Drift]:
    if look.gpus is None or isinstance(look.gpus, Unseen):
        return
    here = {uuid for state in look.gpus for uuid in (state.uuid, *(row.uuid for row in state.slices))}
    for service in stack.services:
        for uuid in service.resources.gpu_uuids:
            if uuid not in here:
                yield Drift(what=f"its GPU {uuid} is gone", service=service.name)
