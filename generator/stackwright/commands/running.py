"""What commands on a running stack share: its runtime, found without a look at the whole machine, and drift."""

from __future__ import annotations

from stackwright.commands.generation import changed_settings, generations_of
from stackwright.commands.stack import reach, refuse_foreign, started_by
from stackwright.domain.machine import Unseen
from stackwright.domain.running import Drift
from stackwright.domain.service import ServicePhase
from stackwright.errors import RuntimeRefusedError, StackError, UsageError, did_you_mean
from stackwright.project.inputs import changed_inputs
from stackwright.runtime import Stack, WatchedRuntime
from stackwright.watching.look import LIMIT_S, Look


def reach_running(stack: Stack, asked: str) -> WatchedRuntime:
    """Return the runtime that a start noted for this stack, or that is asked for; where there is none, as `reach`.

    Raises:
        RuntimeRefusedError: it cannot be reached, or what runs under this name belongs to another project folder.
    """
    from stackwright.runtime.compose import ComposeRuntime
    from stackwright.runtime.processes import ProcessesRuntime

    name = started_by(stack) if asked == "auto" else asked
    if name == "processes":
        found: WatchedRuntime = ProcessesRuntime(stack)
        refuse_foreign(stack, found.owner())
        return found
    if name == "compose":
        found = ComposeRuntime(stack)
        try:
            owners = (glance.owner for glance in found.glance(LIMIT_S))
            refuse_foreign(stack, next((owner for owner in owners if owner is not None), None))
        except RuntimeRefusedError:
            return reach(stack, asked)[0]  # which says why in full
        return found
    return reach(stack, asked)[0]


def require_service(stack: Stack, name: str) -> None:
    """Refuse a service that the plan does not have. Raises UsageError."""
    names = [service.name for service in stack.services]
    if name not in names:
        hint = did_you_mean(name, names) or f"services: {', '.join(names)}"
        raise UsageError(f"{stack.plan.environment} has no service `{name[:60]}`", hint=hint)


def drift_from_files(stack: Stack, runtime: WatchedRuntime) -> tuple[Drift, ...]:
    """Compare what runs with what the rendered files and their inputs would bring up now."""
    rows: list[Drift] = []
    try:
        changes = runtime.changes()
    except StackError as failure:
        return (Drift(what=f"cannot be compared: {failure.message}"),)
    rows += (Drift(what=one.reason, service=one.name) for one in changes if one.reason != "it is not running")
    running = generations_of(stack).running()
    if running is not None:
        rows += (Drift(what=f"changed since the start: {words}") for words in changed_settings(stack, running.number))
    try:
        inputs = changed_inputs(stack.paths) or ()
    except UsageError as failure:
        return (*rows, Drift(what=f"cannot be compared with what was wished: {failure.message}"))
    return (*rows, *(Drift(what=f"changed since the files were rendered: {name}") for name in inputs))


def drift_of_look(stack: Stack, look: Look) -> tuple[Drift, ...]:
    """Compare images and GPUs with those of the plan."""
    rows = []
    for glance in look.glances:
        service = stack.service(glance.state.name)
        if service is None and glance.state.phase is not ServicePhase.ABSENT:
            rows.append(Drift(what="the plan does not have it", service=glance.state.name))
        elif service is not None and glance.image is not None and glance.image != stack.value(service.image):
            rows.append(
                Drift(what=f"runs {glance.image}, the plan has {stack.value(service.image)}", service=service.name)
            )
    if look.gpus is None or isinstance(look.gpus, Unseen):
        return tuple(rows)
    here = {uuid for state in look.gpus for uuid in (state.uuid, *(row.uuid for row in state.slices))}
    for service in stack.services:
        gone = [uuid for uuid in service.resources.gpu_uuids if uuid not in here]
        rows += (Drift(what=f"its GPU {uuid} is gone", service=service.name) for uuid in gone)
    return tuple(rows)
