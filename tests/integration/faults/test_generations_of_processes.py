"""A stack of processes that runs, and the generation before: a start that is killed, and a change that fails.

Under supervisor, with a quick engine in vLLM's place. The tests share one stack and run in the order written.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.faults.command import run
from tests.integration.faults.conftest import INTERRUPTED, MakeFault
from tests.integration.faults.left import find_left
from tests.integration.faults.moments import signal_at
from tests.integration.project import Project

START = ("start-environment", "dev", "--runtime=processes")
RUNS = "runs: generation 1, every service healthy"


@pytest.fixture(scope="module")
def project(make_quick_project: Callable[..., Project]) -> Iterator[Project]:
    """Give a project configured for the CPU; nothing is left of it after the module."""
    project = make_quick_project()
    project.configure("cpu")
    yield project
    assert run(project, "stop-environment", "dev", "--runtime=processes").code == 0
    assert str(find_left(project, engine=False)) == "nothing"


def running(project: Project) -> int | None:
    """Return the generation that runs, and answers; None where nothing does."""
    told = json.loads(run(project, "status", "dev", "--runtime=processes", "--json").printed)
    assert told["generation"] is None or project.complete()
    number: int | None = told["generation"]
    return number


def test_start_after_a_killed_one_finishes_it(project: Project, fault: MakeFault) -> None:
    case = fault("kill -9 in loading, then start-environment", project, "processes")
    with project.held():
        ended = signal_at(project, "engine: starting", signal.SIGKILL, *START)
    assert ended.code == -signal.SIGKILL
    again = run(project, *START)
    case.ends(again, code=0, says=("dev is ready at",), left=RUNS, engine=False)
    assert running(project) == 1


def test_change_that_fails_is_taken_back(project: Project, fault: MakeFault, tmp_path: Path) -> None:
    """Another model is asked for, of an architecture that the engine does not know: the files come back too."""
    write_smoke_model(tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": ["NoSuchModel"]}))
    case = fault("a change that the engine refuses", project, "processes")
    ended = run(project, *START, *project.pins, f"--model={tmp_path / 'other'}")
    says = ("NoSuchModel", "generation 1, which ran before, runs again")
    case.ends(ended, code=7, says=says, left=RUNS, engine=False)
    assert running(project) == 1


def test_interrupted_smoke_test_of_what_runs(project: Project, fault: MakeFault) -> None:
    """Nothing had to be changed, so nothing is undone."""
    case = fault("SIGINT in the smoke test of what runs already", project, "processes")
    ended = signal_at(project, "gateway: asked with a wrong key", signal.SIGINT, *START)
    case.ends(ended, code=INTERRUPTED, says=("what ran before stays as it is",), left=RUNS, engine=False)
    assert running(project) == 1
