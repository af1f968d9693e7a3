"""A search for better settings on a stack of processes: a quick engine whose speed depends on its arguments.

Twice the tokens of a step halve the time of an answer, and more than LARGEST_STEP end the start. The tests share one
stack, and run in the order written.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MakeProject
from tests.integration.faults.command import run
from tests.integration.faults.conftest import INTERRUPTED
from tests.integration.faults.moments import signal_at
from tests.integration.project import Project
from tests.integration.quick_engine.gateway import make_gateway
from tests.integration.quick_engine.layout import make_engine

# Prompts of 512 tokens: eight at once fill two steps of 2,048, and more than one of 4,096 is of no use.
TUNE = ("tune", "dev", "--runtime=processes", "--requests=8")
EIGHT, TWELVE = "--concurrency=8", "--concurrency=12"
STEP = "VLLM_MAX_NUM_BATCHED_TOKENS"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Give a folder in which dev runs slowly; its person pinned everything but the tokens of a step."""
    folder, state = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("state")
    make_engine(state)
    make_gateway(state)
    project = Project.new(folder, state)
    slow = Path(project.variables["HF_HOME"]) / "slow"
    slow.parent.mkdir(parents=True)
    slow.touch()
    pins = ("--set=VLLM_MAX_NUM_SEQS=128", "--set=LITELLM_NUM_WORKERS=1")
    try:
        done = project.command("start-environment", "dev", "--runtime=processes", *project.pins, *pins)
        assert done.returncode == 0, done.stderr
        yield project
    finally:
        project.command("stop-environment", "dev", "--runtime=processes", "--now")


def generated(project: Project) -> Path:
    """Return the folder of the rendered files."""
    return project.folder / "compose/generated/dev"


def rendered(project: Project) -> dict[str, bytes]:
    """Return what services read."""
    files = (project.folder / "envs/.env.dev", *(generated(project) / name for name in ("override.yaml", "plan.json")))
    return {file.name: file.read_bytes() for file in files}


def running(project: Project) -> int | None:
    """Return the generation that runs and answers."""
    told = json.loads(run(project, "status", "dev", "--runtime=processes", "--json").printed)
    assert project.complete()
    number: int | None = told["generation"]
    return number


def search(project: Project) -> Any:
    """Return what is stored of the search."""
    return json.loads((generated(project) / "tune.json").read_text(encoding="utf-8"))


def test_an_interrupted_search_leaves_everything_as_it_was(project: Project) -> None:
    before = rendered(project)
    ended = signal_at(project, f"change 1 of at most 3: {STEP} 2048 → 4096", signal.SIGINT, *TUNE, EIGHT)
    assert ended.code == INTERRUPTED, ended.said
    assert "everything is as before: generation 1 runs" in ended.said
    assert rendered(project) == before
    assert running(project) == 1
    assert (search(project)["ended"], len(search(project)["baseline"]), search(project)["tried"]) == (None, 5, [])


def test_it_goes_on_and_keeps_what_is_measurably_better(project: Project) -> None:
    baseline = search(project)["baseline"]
    ended = run(project, "tune", "dev", "--runtime=processes", "--json")
    assert ended.code == 0, ended.said
    state = json.loads(ended.printed)["tune"]
    assert state["baseline"] == baseline
    [one] = state["tried"]
    assert (one["change"]["value"], one["outcome"], state["kept"]) == ("4096", "better", {STEP: "4096"})
    assert 0.5 < one["gain"] < 1.5
    shown = json.loads(run(project, "plan", "dev", "--json").printed)["settings"][STEP]
    assert (shown["value"], shown["origin"]) == ("4096", "tuned")
    assert shown["reason"].startswith("measured: tokens/s ")
    kept = sorted(entry.name for entry in (generated(project) / "generations").iterdir() if entry.name.isdecimal())
    assert kept == ["1", str(running(project))]


@pytest.mark.long
def test_what_nothing_improves_stays_as_it_is(project: Project) -> None:
    """From 4,096 on, twice as many do not start, and half as many are slower."""
    before, generation = rendered(project), running(project)
    ended = run(project, *TUNE, TWELVE, "--json")
    assert ended.code == 0, ended.said
    state = json.loads(ended.printed)["tune"]
    assert [(one["change"]["value"], one["outcome"]) for one in state["tried"]] == [
        ("8192", "did not start"),
        ("2048", "stopped early"),
    ]
    assert "a step of 8192 tokens is too large" in state["tried"][0]["note"]
    assert (state["kept"], state["ended"]) == ({}, "nothing was better: everything is as it was")
    assert rendered(project) == before
    assert running(project) == generation


@pytest.mark.long
def test_containers_are_tuned_as_processes_are(make_project: MakeProject, quick_pins: list[str]) -> None:
    """The gateway is LiteLLM, and the generator runs in a container of the engine's image."""
    project = make_project()
    slow = Path(project.variables["HF_HOME"]) / "slow"
    slow.parent.mkdir(parents=True)
    slow.touch()
    project.configure("cpu", *quick_pins, "--set=VLLM_MAX_NUM_SEQS=128", "--set=LITELLM_NUM_WORKERS=1")
    project.start()
    ended = run(project, "tune", "dev", "--runtime=compose", "--requests=8", EIGHT, "--json")
    assert ended.code == 0, ended.said
    assert json.loads(ended.printed)["tune"]["kept"] == {STEP: "4096"}
    assert project.complete()


@pytest.mark.long
def test_after_a_kill_the_files_before_come_back_and_the_search_goes_on(project: Project) -> None:
    before, generation = rendered(project), running(project)
    assert generation is not None
    trial = generated(project) / "generations" / str(generation + 1)
    with project.held():
        ended = signal_at(project, trial, signal.SIGKILL, *TUNE, TWELVE)
    assert ended.code == -signal.SIGKILL
    assert rendered(project) != before
    again = run(project, "start-environment", "dev", "--runtime=processes")
    assert again.code == 0, again.said
    assert f"the files were those of a trial; generation {generation} is put back" in again.said
    assert rendered(project) == before
    assert running(project) == generation
    went_on = run(project, "tune", "dev", "--runtime=processes", "--json")
    assert "going on with dev-tune-" in went_on.said
    assert json.loads(went_on.printed)["tune"]["kept"] == {}
    assert rendered(project) == before
