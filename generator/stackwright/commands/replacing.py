"""Start one environment in the place of others: fetch and check first, then stop those, then bring it up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from stackwright import report
from stackwright.commands.bring_up import Attempt, bring_up
from stackwright.commands.paths import working_folder
from stackwright.commands.running import choose_running
from stackwright.commands.stack import load_stack, refuse_foreign
from stackwright.commands.stop_environment import StopArguments, stop_held
from stackwright.domain.environment import EnvironmentPaths
from stackwright.errors import StackError
from stackwright.project.location import name_command
from stackwright.project.lock import Lock


def check_leaving(leaving: Iterable[EnvironmentPaths]) -> None:
    """Check that each of these environments can be stopped, before any is.

    Raises:
        StackError: one is not configured here and does not run, or what runs under its name is another folder's.
    """
    from stackwright.runtime.unrendered import find_unrendered

    for paths in leaving:
        try:
            stack = load_stack(paths)
        except StackError as failure:
            if not find_unrendered(paths):
                without = f"leave `--replace {paths.environment}` out: nothing of it runs"
                raise type(failure)(failure.message, hint=without) from None
        else:
            runtime = choose_running(stack, "auto")
            refuse_foreign(stack, None if runtime is None else runtime.owner())


def fetch(attempt: Attempt) -> None:
    """Fetch what a stack needs and check it, while the others still run. Raises StackError where it cannot start."""
    with report.Progress() as progress:
        attempt.runtime.prepare(progress.say)
    attempt.check_fetched()


def bring_up_instead(attempt: Attempt, leaving: Sequence[tuple[EnvironmentPaths, Lock]]) -> None:
    """Stop the environments that are held, open requests first, and bring the stack up.

    Raises:
        StackError: whatever ended that, with how to get back what was stopped.
    """
    stopped: list[EnvironmentPaths] = []
    with _telling_the_way_back(stopped):
        for paths, lock in leaving:
            stopped.append(paths)
            if not stop_held(paths, StopArguments(environment=paths.environment), lock):
                stopped.remove(paths)
        bring_up(replace(attempt, check_fetched=lambda: None))


@contextmanager
def _telling_the_way_back(stopped: Sequence[EnvironmentPaths]) -> Iterator[None]:
    try:
        yield
    except BaseException as failure:
        if stopped:
            told = _way_back(stopped)
            if isinstance(failure, StackError):
                hint = "; ".join(filter(None, (failure.hint, told)))
                raise type(failure)(failure.message, hint=hint) from None
            report.tell(told)
        raise


def _way_back(stopped: Sequence[EnvironmentPaths]) -> str:
    names = " and ".join(paths.environment.value for paths in stopped)
    commands = " and ".join(
        f"`{name_command('start-environment', paths.environment, root=paths.root, working=working_folder())}`"
        for paths in stopped
    )
    return f"{names} {'was' if len(stopped) == 1 else 'were'} stopped for it; to start {names} again: {commands}"
