"""Say why a start fails: in the words of a known failure where there is one, else in the log's own."""

from __future__ import annotations

import re
import time

from msgspec.structs import replace

from stackwright.diagnosis.evidence import Evidence, name_failures, read_events, values_of
from stackwright.diagnosis.kernel import messages_about, read_kernel
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.rules import Diagnosis, EvidenceKind, state_line
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.errors import NotHealthyError
from stackwright.runtime import Runtime, Stack
from stackwright.runtime.programs import exit_code
from stackwright.units import format_seconds
from stackwright.watching.course import Course
from stackwright.watching.health import telling_line
from stackwright.watching.limits import Limits
from stackwright.watching.probe import Answer
from stackwright.watching.steps import last_starts

# Each rank of an engine tells of its own end before the engine does.
FAILED_LOG_LINES = 2000
# 128 and SIGKILL; an engine names a child that was killed by the negative number (v1/engine/utils.py, 0.32.0).
KILLED = 137
_CHILD_KILLED = re.compile(r"core proc\(s\): .*: -9\b|died .*-9\b|SIGKILL")


class Inquiry:
    """Looks for the cause of a failure in what one start has left: logs, events, and what the kernel said meanwhile."""

    def __init__(self, runtime: Runtime, stack: Stack) -> None:
        self._runtime, self._stack = runtime, stack
        self._began_s = time.monotonic()

    def ended(self, state: ServiceState) -> NotHealthyError:
        """Return the failure of a service that ended for good."""
        code = "" if state.exit_code is None else f" with exit code {state.exit_code}"
        log = last_starts(self._log(state.name), 1)
        return self._failure(f"{state.name} ended{code} before it answered", self._causes(state, log), log)

    def fallen(self, state: ServiceState) -> NotHealthyError | None:
        """Return the failure of a service that fell and is started again, where that cannot help; else None.

        Its last two starts are looked at: the one that fell, and the one that has perhaps said something already.
        """
        code, out_of_memory = _last_end(read_events(self._runtime), state.name)
        end = replace(
            state,
            phase=ServicePhase.EXITED,
            exit_code=code,
            detail="out of memory" if out_of_memory else None,
            traces=replace(state.traces, began_s=None),  # when it began again is too late
        )
        stays = _staying(self._causes(end, last_starts(self._log(state.name), 2)))
        return self._failure(f"{state.name} ended before it answered", stays) if stays else None

    def doomed(self, state: ServiceState) -> NotHealthyError | None:
        """Return the failure of a service that still runs and has said what it cannot recover from; else None."""
        stays = _staying(self._causes(state, last_starts(self._log(state.name), 1)))
        return self._failure(f"{state.name} cannot start", stays) if stays else None

    def stuck(self, course: Course, limits: Limits) -> NotHealthyError:
        """Return the failure of a service that stands still."""
        state, limit_s = course.sample.state, limits.still_s(course.step)
        doing = f"{course.step.value}, {state.detail}" if state.detail else course.step.value
        quiet, allowed = format_seconds(course.quiet_s), format_seconds(limit_s)
        log = last_starts(self._log(state.name), 1)
        what = f"{course.name} made no progress for {quiet} ({doing}; limit: {allowed})"
        causes, line = self._causes(state, log), telling_line(log)
        return self._failure(what if causes or not line else f"{what}; its log says: {line}", causes)

    def refused(self, what: str, answer: Answer, service: str | None = None) -> NotHealthyError:
        """Return the failure of a service that runs and does not answer as it should; an engine may have said why.

        Args:
            what: the question, as the beginning of a sentence: `asked for its models`.
            service: who was asked; None: the gateway.
        """
        who = service or "the gateway"
        if answer.status is not None:
            message = f"{what}, {who} answered {answer.status}: {answer.text[:200]}"
        else:
            message = f"{what}, {who} {'' if answer.final else 'gave no answer: '}{answer.text[:200]}"
        if service is not None:
            state = ServiceState(name=service, phase=ServicePhase.HEALTHY)
            return self._failure(message, self._causes(state, last_starts(self._log(service), 1)))
        causes: tuple[Diagnosis, ...] = ()
        for replica in self._stack.plan.engines:
            engine = ServiceState(name=replica.name, phase=ServicePhase.HEALTHY)
            # A model that could not be loaded is followed by the one before it.
            starts = min(len(self._stack.plan.turns(replica)), 2)
            causes = causes or self._causes(engine, last_starts(self._log(replica.name), starts))
        return self._failure(message, causes)

    def _causes(self, state: ServiceState, log: str) -> tuple[Diagnosis, ...]:
        """Name the known failures of one service, best first."""
        kind = self._stack.kind_of(state.name)
        about = [state_line(state)] if state.phase is ServicePhase.EXITED else []
        if state.exit_code == KILLED or _CHILD_KILLED.search(log):
            kernel = read_kernel(reach_back_s=time.monotonic() - self._began_s)
            about.append(messages_about(state, log, kernel))
        evidence = (
            Evidence(service=state.name, kind=EvidenceKind.STATE, text="\n".join(about)),
            Evidence(service=state.name, kind=kind, text=log),
        )
        found = name_failures(evidence, load_rules(), values_of(self._stack))
        return tuple(named.diagnosis for named in found)

    def _log(self, service: str) -> str:
        return self._runtime.logs(service, FAILED_LOG_LINES)

    def _failure(self, what: str, causes: tuple[Diagnosis, ...], log: str = "") -> NotHealthyError:
        if causes:
            return NotHealthyError(f"{what}: {causes[0].cause}", hint=causes[0].fix)
        line = telling_line(log)
        hint = f"`stackwright doctor {self._stack.plan.environment.value}` looks for the cause"
        return NotHealthyError(f"{what}: {line}" if line else what, hint=hint)


def too_late(courses: tuple[Course, ...], limit_s: float) -> NotHealthyError:
    """Return the failure of a start that takes longer than the person allows."""
    behind = next((course for course in courses if course.sample.state.phase is not ServicePhase.HEALTHY), courses[0])
    return NotHealthyError(
        f"{behind.name} is still {behind.step.value} after {format_seconds(limit_s)}",
        hint="set a longer --timeout SECONDS; without it, a start is given up only if it makes no progress",
    )


def _staying(causes: tuple[Diagnosis, ...]) -> tuple[Diagnosis, ...]:
    return tuple(cause for cause in causes if cause.permanent)


def _last_end(events: str, service: str) -> tuple[int | None, bool]:
    """Read how a service ended last: its exit code where it is known, and whether the kernel killed in its container.

    Docker's lines are `TIME ACTION SERVICE exitCode=N`; supervisord's are its own.
    """
    code, memory_ran_out, starved = exit_code(events, service), False, False
    for line in events.splitlines():
        words = line.split()
        if len(words) < 3 or words[2] != service:
            continue
        if words[1] == "start":
            starved = False
        elif words[1] == "oom":
            starved = True
        elif words[1] == "die":
            found = re.search(r"exitCode=([0-9]{1,3})\b", line)
            code, memory_ran_out = int(found[1]) if found else None, starved
    return code, memory_ran_out
