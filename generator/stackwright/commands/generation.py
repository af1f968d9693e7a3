"""What every command that writes or starts an environment does around it: hold it, and keep its generations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from msgspec.structs import replace

from stackwright import report
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.errors import StackError, ValidationError, unwritable
from stackwright.project import folder as project
from stackwright.project import lock
from stackwright.project.generations import Generations, GenerationState
from stackwright.project.write import check_writable
from stackwright.rendering.numbered import changed_keys, spec_of_written
from stackwright.runtime import Stack

T = TypeVar("T")


@contextmanager
def hold_environments(
    environments: tuple[EnvironmentPaths, ...], command: str, *, needs_record: bool = True
) -> Iterator[tuple[lock.Lock, ...]]:
    """Hold these environments of a project folder for one command; say what a killed one has left to be seen to.

    A command that needs no record of itself, as it only takes down, goes on where none can be written, with a warning.

    Raises:
        RuntimeRefusedError: another command is at work on one of them.
        UsageError: the project folder cannot be written, and a record is needed.
    """
    folders = tuple(paths.generated for paths in environments)
    if needs_record:
        check_writable(folder / lock.NAME for folder in folders)
    with lock.hold(folders, command, needs_record=needs_record) as locks:
        for paths, held in zip(environments, locks, strict=True):
            if held.unwritten is not None:
                failure = unwritable(paths.generated / lock.NAME, held.unwritten)
                report.warn(f"{failure.message}; going on without it")
            if held.left is not None and held.left.starting:
                report.warn(describe_left(held.left, paths.environment))
        yield locks


def describe_left(work: lock.Work, environment: Environment) -> str:
    """Return what a killed command has left, and what to do about it."""
    was = f"while generation {work.before} ran" if work.ran and work.before is not None else ""
    was = was or ("while the stack ran" if work.ran else "while nothing ran")
    return (
        f"{environment}: `{work.command}` (process {work.pid}) was interrupted, begun {was}; "
        f"continue with `start-environment {environment}`, or stop with `stop-environment {environment}`"
    )


def seen_to(held: lock.Lock) -> None:
    """Note that nothing is left half done."""
    held.note(replace(held.work, starting=False))


def keep_generation(paths: EnvironmentPaths, *, trial: bool = False) -> int | None:
    """Keep the files of an environment as they stand; return their generation's number, None where they cannot be."""
    generation = _trying(lambda: Generations(paths).record(trial=trial))
    return generation.number if generation is not None else None


def leave_trial(paths: EnvironmentPaths) -> None:
    """Put the files before a trial back, where those of one stand here: a command that tried it was killed.

    Raises:
        UsageError: they cannot be.
    """
    generations = Generations(paths)
    current = generations.current()
    if current is None or not current.trial:
        return
    before = [generation.number for generation in generations.all() if not generation.trial]
    if before:
        report.warn(f"{paths.environment}: the files were those of a trial; generation {before[-1]} is put back")
        report.warn_all(generations.put_back(before[-1]))


def mark(stack: Stack, number: int | None, state: GenerationState) -> None:
    """Note how a generation of a stack's environment has fared."""
    if number is not None:
        _trying(lambda: generations_of(stack).mark(number, state))


def generations_of(stack: Stack) -> Generations:
    """Return the generations of a stack's environment."""
    return Generations(stack.paths)


def put_back(paths: EnvironmentPaths, number: int) -> Stack:
    """Put the files of a generation back where they belong; return its stack, with the local file that it had.

    Raises:
        StackError: it is not kept, or its files cannot be written or read.
    """
    generations = Generations(paths)
    report.warn_all(generations.put_back(number))
    differs = generations.local_differs(number)
    if differs:
        report.warn(
            f"{paths.local.relative_to(paths.root)} has changed since generation {number}, which runs "
            "with the old content; the next start uses the new content"
        )
    local = generations.local_file(number) if differs else None
    stack = project.load_stack(paths, local)
    if stack is None:
        raise ValidationError(f"generation {number} has no plan", hint="choose another with `--to N`")
    return stack


def _trying(write: Callable[[], T]) -> T | None:
    """Do without a generation where the disk does not take it: the stack itself does not need it."""
    try:
        return write()
    except OSError as failure:
        report.warn(f"{failure.filename or 'its folder'}: cannot keep the generation: {failure.strerror}")
        return None


def changed_settings(stack: Stack, number: int) -> tuple[str, ...]:
    """Return which settings in force differ from those of a generation, as `KEY=old → new`.

    Of what is no setting only the key is told: a person may have written a secret beside it.
    """
    before = _environment_of(stack, number)
    changed = changed_keys(before, stack.env, stack.engine.keys.model)
    return tuple(
        f"{key}={before.get(key, '(none)')} → {stack.env.get(key, '(none)')}"
        if spec_of_written(key)
        else f"{key}, which is no setting"
        for key in changed
    )


def _environment_of(stack: Stack, number: int) -> Mapping[str, str]:
    generations = generations_of(stack)
    values: dict[str, str] = {}
    for path in (generations.environment_file(number), generations.local_file(number)):
        if path.exists():
            try:
                values |= project.read_env_file(path)
            except StackError:  # it was started with Compose alone, which may read what this does not
                return dict(stack.env)
    return values
