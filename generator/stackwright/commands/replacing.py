"""Start one environment in the place of others: fetch and check first, then stop those, then bring it up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from stackwright import report
from stackwright.commands.bring_up import Attempt, bring_up
from stackwright.commands.paths import working_folder
from stackwright.commands.stop_environment import StopArguments, stop_held
from stackwright.domain.environment import EnvironmentPaths
from stackwright.errors import StackError
from stackwright.project import folder as project
from stackwright.project.lock import Lock


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
        f"`{project.name_command('start-environment', paths.environment, root=paths.root, working=working_folder())}`"
        for paths in stopped
    )
    return f"{names} {'was' if len(stopped) == 1 else 'were'} stopped for it; to start {names} again: {commands}"
