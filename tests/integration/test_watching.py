"""A start under watch, with a real engine: what cannot become right is not tried again.

What Compose makes of it is shown where a failed start is looked at afterwards, too: in test_doctor.py. That a good
start is remembered shows in test_processes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stackwright.runtime.process_groups import programs_with

from tests.integration.project import (
    TOO_MUCH,
    Project,
    write_local,
    write_long_model,
)

BANNER = "█  version "


@pytest.fixture
def own_state(tmp_path: Path, state_folder: Path) -> Iterator[Path]:
    """Give a state folder of its own that shares only the virtual environments, which take minutes to make."""
    state = tmp_path / "state"
    state.mkdir()
    (state_folder / "venvs").mkdir(parents=True, exist_ok=True)
    (state / "venvs").symlink_to(state_folder / "venvs")
    yield state
    (state / "venvs").unlink()


@pytest.fixture
def without_engine(tmp_path: Path, own_state: Path) -> Iterator[Callable[[], Project]]:
    """Give a maker of projects that no container engine answers to."""
    made: list[Project] = []

    def make() -> Project:
        made.append(Project.new(tmp_path / "project", own_state))
        return made[-1]

    yield make
    for project in made:
        project.command("stop-environment", "dev", "--runtime=processes")


def starts_in_log(project: Project) -> int:
    """Return how often the engine was started, by the log that a failed start keeps."""
    log = Path(project.variables["STACKWRIGHT_STATE"]) / "failures" / project.name / "engine.log"
    return log.read_text(encoding="utf-8").count(BANNER)


def check_refusal(project: Project, runtime: str) -> Path:
    """Start, and check that the first fall ended it, with the cause and the setting that mends it.

    Return the person's file that asked for too much.
    """
    local = write_local(project, TOO_MUCH)
    done = project.command("start-environment", "dev", f"--runtime={runtime}")
    assert done.returncode == 7, done.stderr
    assert "error: engine " in done.stderr
    assert ": the KV cache is too small for one request of the set length; 2097" in done.stderr
    assert "--set VLLM_MAX_MODEL_LEN=2097" in done.stderr
    # The runtime may have begun the next start in the second before the fall was seen; never the last one.
    assert starts_in_log(project) <= 2
    return local


def test_a_setting_that_the_engine_refuses_is_not_tried_again_by_supervisor(
    without_engine: Callable[[], Project], tmp_path: Path
) -> None:
    project = without_engine()
    project.configure("cpu", f"--model={write_long_model(tmp_path)}")
    check_refusal(project, "processes")
    assert programs_with(str(Path(project.variables["STACKWRIGHT_STATE"]) / "run" / project.name)) == []
