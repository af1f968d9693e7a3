"""Say why a start fails: in the words of a known failure where there is one, else in the log's own."""

from __future__ import annotations

from dataclasses import replace

from generator.diagnosis.evidence import Evidence, gather, name_failures, read_kernel
from generator.diagnosis.load import load_rules
from generator.diagnosis.rules import Diagnosis, diagnose_log, place_of
from generator.domain.service import ServicePhase, ServiceState
from generator.errors import NotHealthyError
from generator.runtime import Runtime, Stack
from generator.units import format_seconds
from generator.watching.course import Course
from generator.watching.health import telling_line
from generator.watching.limits import Limits
from generator.watching.probe import Answer
from generator.watching.steps import last_starts

# Each rank of an engine tells of its own end before the engine does.
FAILED_LOG_LINES = 2000


def ended(runtime: Runtime, stack: Stack, state: ServiceState) -> NotHealthyError:
    """Tell of a service that ended for good."""
    code = "" if state.exit_code is None else f" with exit code {state.exit_code}"
    what = f"{state.name} ended{code} before it answered"
    return _failure(what, next(iter(_causes(runtime, stack, state.name)), None), _line(runtime, state.name), stack)


def fallen(runtime: Runtime, stack: Stack, service: str) -> NotHealthyError | None:
    """Tell of a service that fell and is started again, where starting again cannot help; else return None.

    Its last two starts are looked at: the one that fell, and the one that has perhaps said something already.
    """
    causes = _causes(runtime, stack, service, starts=2)
    cause = next((cause for cause in causes if cause.permanent), None)
    return None if cause is None else _failure(f"{service} ended before it answered", cause, None, stack)


def doomed(runtime: Runtime, stack: Stack, service: str) -> NotHealthyError | None:
    """Tell of a service that still runs and has said what it cannot recover from; else return None."""
    log = last_starts(runtime.logs(service, FAILED_LOG_LINES), 1)
    causes = diagnose_log(log, load_rules(), place=place_of(service), values=_values(stack))
    cause = next((cause for cause in causes if cause.permanent), None)
    return None if cause is None else _failure(f"{service} cannot start", cause, None, stack)


def stuck(runtime: Runtime, stack: Stack, course: Course, limits: Limits) -> NotHealthyError:
    """Tell of a service that stands still."""
    state = course.look.state
    doing = f"{course.step.value}, {state.detail}" if state.detail else course.step.value
    what = f"{course.name} has not moved for {format_seconds(course.quiet_s)} ({doing}; allowed: "
    what += f"{format_seconds(limits.still_s(course.step))})"
    return _failure(what, next(iter(_causes(runtime, stack, course.name)), None), _line(runtime, course.name), stack)


def too_late(courses: tuple[Course, ...], limit_s: float) -> NotHealthyError:
    """Tell of a start that takes longer than the person allows."""
    behind = next((course for course in courses if course.look.state.phase is not ServicePhase.HEALTHY), courses[0])
    return NotHealthyError(
        f"{behind.name} is still {behind.step.value} after {format_seconds(limit_s)}",
        hint="`--timeout SECONDS` waits longer; without it, a start is given up only where it stands still",
    )


def refused(runtime: Runtime, stack: Stack, what: str, answer: Answer) -> NotHealthyError:
    """Tell of a gateway that runs and does not answer as it should; an engine may have said why.

    Args:
        what: the question, as the beginning of a sentence: `asked for its models`.
    """
    if answer.status is not None:
        message = f"{what}, the gateway answered {answer.status}: {answer.text[:200]}"
    else:
        message = f"{what}, the gateway {'' if answer.final else 'gave no answer: '}{answer.text[:200]}"
    services = [replica.name for replica in stack.plan.replicas]
    found = (cause for service in services for cause in _causes(runtime, stack, service, starts=1))
    return _failure(message, next(found, None), None, stack)


def _causes(runtime: Runtime, stack: Stack, service: str, *, starts: int | None = None) -> tuple[Diagnosis, ...]:
    """Name the known failures of one service, best first, in its last `starts` starts or all that its log has."""
    gathered = gather(runtime, stack, read_kernel())
    about = [each for each in gathered.evidence if each.service in (service, "")]
    log = last_starts(runtime.logs(service, FAILED_LOG_LINES), starts) if starts else None
    if log is not None:
        about = [replace(each, text=log) if each.place is place_of(service) else each for each in about]
        about += [] if any(each.text == log for each in about) else [_own(service, log)]
    return tuple(named.diagnosis for named in name_failures(about, load_rules(), _values(stack)))


def _own(service: str, log: str) -> Evidence:
    return Evidence(service=service, place=place_of(service), text=log)


def _values(stack: Stack) -> dict[str, str]:
    return {**stack.env, "environment": stack.plan.environment.value}


def _line(runtime: Runtime, service: str) -> str | None:
    return telling_line(runtime.logs(service, FAILED_LOG_LINES))


def _failure(what: str, cause: Diagnosis | None, line: str | None, stack: Stack) -> NotHealthyError:
    if cause is not None:
        return NotHealthyError(f"{what}: {cause.cause}", hint=cause.fix)
    hint = f"`stackwright doctor {stack.plan.environment.value}` shows what is known"
    return NotHealthyError(f"{what}: {line}" if line else what, hint=hint)
