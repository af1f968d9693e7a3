"""Gather what services, their runtime and the kernel have written about a stack: what the rules are matched against.

Touches the runtime that it is given, the logs of failed starts in the state folder, and the kernel's messages.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from stackwright.diagnosis.heartbeat import read_heartbeat
from stackwright.diagnosis.kernel import messages_about, read_kernel
from stackwright.diagnosis.moments import last_runs, without_requests
from stackwright.diagnosis.rules import Diagnosis, EvidenceKind, Rule, diagnose_log, state_line
from stackwright.domain.environment import Environment
from stackwright.domain.finding import Finding, Severity
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.errors import StackError
from stackwright.runtime import Runtime, Stack

LOG_LINES = 5000


class Evidence(Struct, frozen=True, kw_only=True):
    """A text, where it was written, and the service that it is about; `service` is empty for the host."""

    service: str
    kind: str
    text: str


class Named(Struct, frozen=True, kw_only=True):
    """A failure that was named, and the service, or `runtime` or `host`, that it befell."""

    service: str
    kind: str
    diagnosis: Diagnosis


class Gathered(Struct, frozen=True, kw_only=True):
    """Everything about one stack. `failed_s_ago`: the logs are kept ones, of a start that failed so long ago."""

    states: tuple[ServiceState, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    logs: tuple[tuple[str, str], ...] = ()
    events: str = ""
    failed_s_ago: float | None = None

    @property
    def fallen(self) -> tuple[ServiceState, ...]:
        """The services that ended, also where they have been started again since, or that no longer answer."""
        ill = (ServicePhase.EXITED, ServicePhase.UNHEALTHY)
        return tuple(
            state
            for state in self.states
            if state.phase in ill or (state.phase is ServicePhase.STARTING and state.restarts)
        )


NOTHING = Gathered()


class Examination(Struct, frozen=True, kw_only=True):
    """What was found out about one environment. `unreadable`: why its rendered files cannot be taken up.

    `unknown` holds, for each service that fell and that no rule explains, the line of its log that tells most.
    """

    environment: Environment
    stack: Stack | None = None
    runtime: Runtime | None = None
    gathered: Gathered = NOTHING
    named: tuple[Named, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    unreadable: StackError | None = None

    @property
    def errors(self) -> int:
        """Count the findings that would stop a start."""
        return sum(1 for finding in self.findings if finding.severity is Severity.ERROR)


def gather(runtime: Runtime, stack: Stack, kernel: str) -> Gathered:
    """Gather from a running stack, else from the logs of its last failed start. `kernel`: what the kernel said.

    A service that is healthy and never fell tells of no failure, whatever stands in its log; one that has recovered
    tells of its own only where no other is ill now. Of the others only what can be the cause of this fall is evidence.
    """
    states: tuple[ServiceState, ...] = ()
    refusal: tuple[Evidence, ...] = ()
    try:
        states = runtime.services()
    except StackError as failure:
        refusal = (evidence_of(failure),)
    if all(state.phase is ServicePhase.ABSENT for state in states):
        kept = read_kept(stack, configured=_configured(stack))
        return Gathered(
            states=states, evidence=(*refusal, *kept.evidence), logs=kept.logs, failed_s_ago=kept.failed_s_ago
        )
    logs = tuple((state.name, _log(runtime, state.name)) for state in states if state.phase is not ServicePhase.ABSENT)
    ill = {state.name: state for state in states if state.phase is not ServicePhase.HEALTHY}
    ill = ill or {state.name: state for state in states if state.restarts}
    events = read_events(runtime)
    return Gathered(
        states=states,
        logs=logs,
        events=events,
        evidence=(
            *(
                Evidence(service=name, kind=stack.kind_of(name), text=_of_fall(text, ill[name]))
                for name, text in logs
                if name in ill
            ),
            *lost_gpus(stack, {name for name, _ in logs}),
            *(
                _about_state(state, events, messages_about(state, dict(logs).get(state.name, ""), kernel))
                for state in ill.values()
                if state_line(state)
            ),
        ),
    )


def lost_gpus(stack: Stack, names: Container[str]) -> Iterator[Evidence]:
    """Yield the engines that go on without GPUs which they had at their start; they look healthy."""
    for service in stack.services:
        gpus = read_heartbeat(stack, service).gpus if service.name in names else ()
        if gpus:
            yield Evidence(service=service.name, kind=service.kind, text=f"heartbeat: GPU fault: {'; '.join(gpus)}")


def evidence_of(failure: StackError) -> Evidence:
    """Take what a runtime refused with for evidence."""
    return Evidence(service="", kind=EvidenceKind.RUNTIME, text=f"{failure.message}\n{failure.hint or ''}")


def _of_fall(text: str, state: ServiceState) -> str:
    """Return what of a log can be the cause: of this run, and of the one before where that has fallen."""
    runs = 2 if state.restarts or state.phase is ServicePhase.EXITED else 1
    return without_requests(last_runs(text, runs))


def _about_state(state: ServiceState, events: str, kernel: str) -> Evidence:
    """Put a service's state before what the runtime and the kernel said about its end."""
    about = [line for line in events.splitlines() if state.name in line.split()]
    # What was noted of an earlier run of the service does not tell how this one ended.
    started = [position for position, line in enumerate(about) if line.split()[1:2] == ["start"]]
    about = about[started[-1] :] if started else about
    return Evidence(service=state.name, kind=EvidenceKind.STATE, text="\n".join((state_line(state), *about, kernel)))


def _log(runtime: Runtime, service: str) -> str:
    try:
        return runtime.logs(service, LOG_LINES)
    except StackError as failure:  # gone meanwhile, or without a log driver that can be read
        return f"the log cannot be read: {failure.message}"


def read_events(runtime: Runtime) -> str:
    """Return what the runtime noted; empty where it cannot tell: it helps, and is not needed."""
    try:
        return runtime.events()
    except StackError:
        return ""


def failures_of(stack: Stack) -> Path:
    """Return the folder that keeps the logs of a stack's last failed start."""
    return stack.state / "failures" / stack.name


def keep_failure(runtime: Runtime, stack: Stack) -> Path:
    """Keep the logs and the ends of a start that failed, since taking it down removes them; return their folder.

    Raises:
        OSError: the folder cannot be written.
        StackError: the runtime does not tell.
    """
    folder = failures_of(stack)
    runtime.services()  # refuses here, before what is kept of an earlier start goes
    forget_failure(stack)
    gathered = gather(runtime, stack, read_kernel())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for service, text in gathered.logs:
        (folder / f"{service}.log").write_text(text, encoding="utf-8", errors="backslashreplace")
    for evidence in gathered.evidence:
        if evidence.kind == EvidenceKind.STATE:
            (folder / f"{evidence.service}.state").write_text(
                evidence.text, encoding="utf-8", errors="backslashreplace"
            )
    return folder


def forget_failure(stack: Stack) -> None:
    """Remove what is kept of the last failed start: the stack has answered since, or the next one has failed."""
    for path in _kept(failures_of(stack)):
        with suppress(OSError):
            path.unlink()


def _kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in (".log", ".state")) if folder.is_dir() else []


def _configured(stack: Stack) -> float:
    """Return when the stack's files were last rendered, in seconds of the epoch; 0 where that cannot be told."""
    try:
        return (stack.generated / "plan.json").stat().st_mtime
    except OSError:
        return 0.0


def read_kept(stack: Stack, *, configured: float) -> Gathered:
    """Read what was kept of the last failed start; nothing where the stack was `configured` anew since."""
    texts: dict[Path, str] = {}
    newest = 0.0
    for path in _kept(failures_of(stack)):
        with suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
            texts[path] = path.read_text(encoding="utf-8", errors="replace")
    if not texts or newest < configured:
        return Gathered()
    evidence = tuple(
        Evidence(
            service=path.stem,
            kind=EvidenceKind.STATE if path.suffix == ".state" else stack.kind_of(path.stem),
            text=text,
        )
        for path, text in texts.items()
    )
    logs = tuple((path.stem, text) for path, text in texts.items() if path.suffix == ".log")
    return Gathered(evidence=evidence, logs=logs, failed_s_ago=max(time.time() - newest, 0.0))


def values_of(stack: Stack) -> dict[str, str]:
    """Return what a rule may name of a stack: settings in force, `environment`, and whose each published port is."""
    whose = {}
    for service in stack.services:
        if service.published is not None:
            _, setting = service.published
            whose[f":{stack.value(setting)}"] = f"{setting.key} {service.name}"
    return {**stack.env, **whose, "environment": stack.plan.environment.value}


def name_failures(
    evidence: Iterable[Evidence], rules: tuple[Rule, ...], values: Mapping[str, str]
) -> tuple[Named, ...]:
    """Name each known failure once for each service, best first: in the order of the rules.

    A failure that two engines share is told for the first of them.
    """
    found = [
        Named(service=item.service or str(item.kind), kind=item.kind, diagnosis=diagnosis)
        for item in evidence
        for diagnosis in diagnose_log(item.text, rules, kind=item.kind, values=values)
    ]
    order = {rule.id: position for position, rule in enumerate(rules)}
    found.sort(key=lambda named: order[named.diagnosis.rule])
    once: dict[tuple[str, str], Named] = {}
    for named in found:
        once.setdefault((named.diagnosis.rule, named.diagnosis.cause), named)
    return tuple(once.values())
