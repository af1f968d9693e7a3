"""Bring a stack up, all or nothing: it answers, or what ran before runs again, or nothing of it is left."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.commands.generation import changed_settings, generations_of, mark, put_back, seen_to
from stackwright.commands.options import StartOptions
from stackwright.diagnosis.evidence import forget_failure, keep_failure
from stackwright.domain.service import UP, ServicePhase
from stackwright.errors import NotHealthyError, RuntimeRefusedError, StackError
from stackwright.interrupts import shielded
from stackwright.project.credentials import read_gateway_key
from stackwright.project.generations import GenerationState, Running
from stackwright.project.lock import Lock
from stackwright.runtime import Runtime, ServiceChange, Stack
from stackwright.watching.watch import await_healthy, watch

LEFT = "what was started stays as it is"


class Attempt(Struct, frozen=True, kw_only=True):
    """One start of one stack, whose files are generation `number`, None where that could not be kept.

    `runtime_of` gives the runtime of the same kind for another generation's stack. `check_fetched` raises
    ValidationError where what had to be fetched first shows that the stack cannot start.
    """

    options: StartOptions
    stack: Stack
    number: int | None
    runtime: Runtime
    lock: Lock
    runtime_of: Callable[[Stack], Runtime]
    check_fetched: Callable[[], None] = lambda: None


def bring_up(attempt: Attempt) -> None:
    """Start and watch. What does not come to answer is undone, also on Ctrl-C, unless the wreck is asked for.

    Raises:
        StackError: whatever ended the start, with what runs now.
    """
    try:
        _begin(attempt)
        with _writing(attempt.stack.state):
            reads = _start_and_watch(attempt)
        with shielded(lambda: None):  # it answers: an interruption has nothing to undo any more
            _settle(attempt, reads)
    except BaseException as failure:
        if not attempt.lock.work.starting:  # nothing has been touched yet, or all is settled
            raise
        with shielded(lambda: report.warn("still cleaning up; interrupt again to leave everything as it is")):
            logs = _keep_logs(attempt) if isinstance(failure, NotHealthyError) else None
            if isinstance(failure, StackError):
                mark(attempt.stack, attempt.number, GenerationState.FAILED)
            now = _undo(attempt)
        if isinstance(failure, StackError):
            raise _retold(failure, now, logs) from None
        report.tell(now)
        raise


def _begin(attempt: Attempt) -> None:
    """Write down what runs before anything is touched; after a command that was killed, what ran before that one."""
    held, running = attempt.lock, generations_of(attempt.stack).running()
    if not held.work.starting:
        ran = any(state.phase in UP for state in attempt.runtime.services())
        before = running.number if ran and running is not None else None
        held.note(replace(held.work, starting=True, ran=ran, before=before, runtime=attempt.runtime.name))


def _settle(attempt: Attempt, reads: dict[str, str]) -> None:
    """Note that the stack has answered and is what runs, and what its services have read."""
    attempt.runtime.prove()
    forget_failure(attempt.stack)
    mark(attempt.stack, attempt.number, GenerationState.GOOD)
    number = attempt.number
    if number is not None:
        running = Running(number=number, stack=attempt.stack.name, runtime=attempt.runtime.name, reads=reads)
        _note_running(attempt, running)
    seen_to(attempt.lock)


def _note_running(attempt: Attempt, running: Running | None) -> None:
    try:
        generations_of(attempt.stack).set_running(running)
    except OSError as failure:
        report.warn(f"{failure.filename or attempt.stack.generated}: cannot be written: {failure.strerror}")


@contextmanager
def _writing(state: Path) -> Iterator[None]:
    """Refuse to go on where the state folder takes no more: logs and start scripts stand there.

    Raises:
        RuntimeRefusedError: it does not.
    """
    try:
        yield
    except OSError as failure:
        if failure.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise RuntimeRefusedError(
            f"{failure.filename or state}: cannot be written: {failure.strerror}",
            hint="make room on its disk, or set STACKWRIGHT_STATE to a folder on another",
        ) from None


def _start_and_watch(attempt: Attempt) -> dict[str, str]:
    """Return the hashes of what the services have read once everything has answered."""
    stack, runtime = attempt.stack, attempt.runtime
    with report.Progress() as progress:
        runtime.prepare(progress.say)
    attempt.check_fetched()
    rolling = _show_what_restarts(attempt) if attempt.lock.work.ran else ()
    reads = dict(runtime.reads())
    with report.Progress() as progress:
        for name in rolling:
            runtime.up((name,), anew=True)
            await_healthy(runtime, stack, name, progress.say, limit_s=attempt.options.timeout_s)
        runtime.up()
        key = read_gateway_key(stack.secrets)
        watch(runtime, stack, key, progress.say, limit_s=attempt.options.timeout_s)
    return reads


def _show_what_restarts(attempt: Attempt) -> tuple[str, ...]:
    """Return what restarts and why; return the services that are to be restarted one at a time, in this order.

    Each alone, because `docker compose up` makes whatever depends on a changed service anew too (Compose 2.26.1): the
    gateway would go with every replica. It comes last.
    """
    stack, work = attempt.stack, attempt.lock.work
    changes = attempt.runtime.changes()
    changes = (*changes, *_changed_reads(attempt, {change.name for change in changes}))
    if not changes:
        report.tell("nothing to change: no service restarts")
        return ()
    phases = {state.name: state.phase for state in attempt.runtime.services()}
    for change in changes:
        does = "restarts" if phases.get(change.name) in UP else "starts"
        report.tell(f"{change.name} {'goes' if change.name not in phases else does}: {change.reason}")
    if work.before is not None:
        since = f"  changed since generation {work.before}"
        report.tell_first(f"{since}: {sentence}" for sentence in changed_settings(stack, work.before))
    there = {name for name, phase in phases.items() if phase is not ServicePhase.ABSENT}
    changed = [change.name for change in changes if change.name in there]
    return tuple(sorted(changed, key=lambda name: name == stack.front.name))


def _changed_reads(attempt: Attempt, named: set[str]) -> Iterator[ServiceChange]:
    """Yield the services, but those named already, that have read files, such as keys, that hold something else now."""
    running = generations_of(attempt.stack).running()
    before = {} if running is None else running.reads
    for name, now in attempt.runtime.reads().items():
        if name not in named and before.get(name, now) != now:
            yield ServiceChange(name=name, reason="a file that it uses has changed")


def _undo(attempt: Attempt) -> str:
    """Undo a start that failed, as far as there is something to undo; say what runs now."""
    work = attempt.lock.work
    if attempt.options.no_rollback:
        return LEFT
    if not work.ran:
        return _take_down(attempt)
    if work.before is None or work.before == attempt.number:
        seen_to(attempt.lock)
        return "what ran before stays as it is"
    try:
        _bring_back(attempt, work.before)
    except StackError as failure:
        return f"cannot restore generation {work.before}, which ran before: {failure.message}"
    return f"generation {work.before}, which ran before, runs again"


def _bring_back(attempt: Attempt, number: int) -> None:
    """Put the files of the generation before back, bring its stack up and watch until it answers.

    Raises:
        StackError: it cannot be, or does not answer.
    """
    report.tell(f"restoring generation {number}")
    attempt.runtime.halt()
    stack = put_back(attempt.stack.paths, number)
    runtime = attempt.runtime_of(stack)
    again = replace(attempt, stack=stack, number=number, runtime=runtime, check_fetched=lambda: None)
    _settle(again, _start_and_watch(again))


def _take_down(attempt: Attempt) -> str:
    report.tell("taking down what was started")
    try:
        attempt.runtime.down()
    except StackError as failure:
        report.warn(f"cannot take it down: {failure}")
        again = f"`stop-environment {attempt.stack.plan.environment}`"
        return f"some of it may still run: take it down with {again}"
    _note_running(attempt, None)
    seen_to(attempt.lock)
    return "everything it started is stopped"


def _retold(failure: StackError, now: str, logs: Path | None) -> StackError:
    """Return the failure with what runs now; its class, and so the exit code, stays."""
    hint = "; ".join(filter(None, (failure.hint, f"logs: {logs}" if logs else None)))
    return type(failure)(f"{failure.message}; {now}", hint=hint or None)


def _keep_logs(attempt: Attempt) -> Path | None:
    """Keep the logs of a failed start, since taking it down removes them; None where they cannot be kept."""
    try:
        return keep_failure(attempt.runtime, attempt.stack)
    except (OSError, StackError) as failure:
        report.warn(f"cannot keep the logs: {failure}")
        return None
