"""`rollback`, and one command at a time: on a stack that does not run, with real files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from stackwright.project.generations import Generations, Running
from stackwright.project.lock import hold

from tests.cli.commands import CPU, Image, Run, image
from tests.planning_requests import paths_of

ROLLBACK = ("rollback", "dev", "--runtime=processes")


def without_generations(project: Path) -> dict[str, bytes]:
    """Return the files of a project where they are to stand, but not what is kept of earlier ones."""
    found: Image = image(project)
    kept = ("generations", ".sets")
    return {path: content for path, (_, _, content) in found.items() if not any(word in path for word in kept)}


def configured(run: Run, project: Path, workers: int) -> dict[str, bytes]:
    """Configure with a number of workers and return the files."""
    assert run(*CPU, f"--set=LITELLM_NUM_WORKERS={workers}", host="cpu-small").code == 0
    return without_generations(project)


def mark_good(project: Path, number: int) -> None:
    """Say of a generation that it has answered, as a start does."""
    about = project / f"compose/generated/dev/generations/{number}/generation.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"state": "good"}))


@pytest.mark.subprocess
def test_an_earlier_generation_comes_back_byte_for_byte(run: Run, project: Path) -> None:
    first = configured(run, project, 1)
    second = configured(run, project, 2)
    assert first != second
    ran = run(*ROLLBACK, "--to=1")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "dev: the files of generation 1 are back; start it with `start-environment dev`\n"
    assert without_generations(project) == first
    assert run(*ROLLBACK, "--to=2").code == 0
    assert without_generations(project) == second


@pytest.mark.subprocess
def test_without_a_number_it_is_the_last_good_one_before_this(run: Run, project: Path) -> None:
    files = [configured(run, project, workers) for workers in (1, 2, 3, 4)]
    for number in (1, 2):
        mark_good(project, number)
    for expected in (files[1], files[0]):
        assert run(*ROLLBACK).code == 0
        assert without_generations(project) == expected
    ran = run(*ROLLBACK)
    assert ran.code == 2
    assert ran.told == (
        "dev: no earlier generation has answered; kept: 1 (good), 2 (good), 3 (written), 4 (written)",
        "choose a kept one with `--to N`",
    )


@pytest.mark.subprocess
def test_from_files_that_nobody_has_started_it_is_what_runs(run: Run, project: Path) -> None:
    """However many of them were written; from there, it is the one before."""
    files = [configured(run, project, workers) for workers in range(1, 11)]
    assert [each.number for each in Generations(paths_of(project)).all()] == [6, 7, 8, 9, 10]
    for number in (6, 7):
        mark_good(project, number)
    generations = Generations(paths_of(project))
    generations.set_running(Running(number=7, stack="s", runtime="processes"))
    for expected in (files[6], files[5]):
        assert run(*ROLLBACK).code == 0
        assert without_generations(project) == expected


def test_where_nothing_is_kept_the_next_step_is_a_start(run: Run) -> None:
    ran = run(*ROLLBACK)
    assert (ran.code, ran.told) == (
        2,
        ("dev: no earlier generation has answered; kept: none", "a start keeps one: `start-environment dev`"),
    )


@pytest.mark.subprocess
def test_a_number_that_is_not_kept_changes_nothing(run: Run, project: Path) -> None:
    configured(run, project, 1)
    before = image(project)
    ran = run(*ROLLBACK, "--to=7")
    assert (ran.code, ran.told) == (2, ("generation 7 is not kept; kept: 1", "choose another with `--to N`"))
    assert image(project) == before


def test_a_folder_without_an_environment_stays_empty(run: Run, project: Path) -> None:
    ran = run(*ROLLBACK)
    assert (ran.code, ran.told[0]) == (2, "dev: no earlier generation has answered; kept: none")
    assert not project.exists()


@pytest.mark.parametrize("number", ["0x1", "", "-1", "1.5", "9" * 20, "eins"])
def test_a_number_that_is_none_is_refused(number: str, run: Run) -> None:
    ran = run(*ROLLBACK, f"--to={number}")
    assert (ran.code, ran.told[0]) == (2, f"--to: found `{number}`, allowed: a generation's number")


@pytest.mark.subprocess
def test_status_tells_the_generations(run: Run, project: Path) -> None:
    for workers in (1, 2):
        configured(run, project, workers)
    mark_good(project, 1)
    told = run("status", "dev", "--runtime=processes", "--json").json
    assert told["generation"] is None
    assert [(each["number"], each["state"]) for each in told["generations"]] == [(1, "good"), (2, "written")]
    ran = run("status", "dev", "--runtime=processes")
    assert "  other generations: 1 good, 2 written\n" in ran.out


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "command",
    [
        ("configure-gpu", "cpu"),
        ("configure-gpu", "cpu", "--env=dev"),
        ("start-environment", "dev"),
        ("stop-environment", "dev"),
        ("rollback", "dev", "--to=1"),
    ],
    ids=" ".join,
)
def test_one_command_at_a_time(command: tuple[str, ...], run: Run, project: Path) -> None:
    configured(run, project, 1)
    with hold((project / "compose/generated/dev",), "start-environment dev"):
        before = without_generations(project)
        ran = run(*command)
        assert ran.code == 6
        error, hint = ran.told
        assert error.startswith(f"dev: `start-environment dev` is running, process {os.getpid()}, since ")
        assert hint == f"wait for it to end, or end it: kill {os.getpid()}"
        assert without_generations(project) == before


@pytest.mark.subprocess
@pytest.mark.parametrize("command", [("status", "dev"), ("key", "dev"), ("plan",), ("configure-gpu", "--dry-run")])
def test_looking_needs_no_hold(command: tuple[str, ...], run: Run, project: Path) -> None:
    configured(run, project, 1)
    with hold((project / "compose/generated/dev",), "start-environment dev"):
        assert run(*command).code == 0


@pytest.mark.subprocess
def test_another_environment_is_not_held(run: Run, project: Path) -> None:
    with hold((project / "compose/generated/prod",), "start-environment prod"):
        assert run(*CPU, host="cpu-small").code == 0


@pytest.mark.subprocess
def test_what_another_clone_has_started_is_left_to_it(run: Run, project: Path, around: Path) -> None:
    """Two project folders with one project name: the second would restart, or stop, what the first has started."""
    configured(run, project, 1)
    state = around / "home/.local/share/stackwright/run/stackwright-dev"
    state.mkdir(parents=True)
    other = around / "other"
    (other / "compose").mkdir(parents=True)
    (other / "compose/compose.yaml").touch()
    (state / "root").write_text(f"{other}\n")
    for command in ("start-environment", "stop-environment", "status", "validate-environment"):
        ran = run(command, "dev", "--runtime=processes")
        assert ran.code == 6
        assert ran.told[0] == f"stackwright-dev: a stack of this name was started from {other}"
        assert f"--out {other}" in ran.told[1]
    (other / "compose/compose.yaml").unlink()  # the clone is gone: nobody else can stop it
    assert run("stop-environment", "dev", "--runtime=processes").code == 0
