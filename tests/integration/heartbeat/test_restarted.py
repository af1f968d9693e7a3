"""A whole stack whose engine hangs, with a quick engine in vLLM's place: it is restarted, and people are told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stackwright.runtime.process_groups import read_groups

from tests.integration.conftest import MakeProject
from tests.integration.heartbeat.watched import members
from tests.integration.project import Project, wait_until

GRACE = "--set=ENGINE_HEARTBEAT=3"
SERVER = "vllm.entrypoints.openai.api_server"
Processes = Callable[[], list[int]]


@pytest.fixture
def as_processes(quick_state: Path, tmp_path: Path) -> Iterator[tuple[Project, Processes]]:
    """Give a stack of processes that runs, and what tells of its engine's processes."""
    project = Project.new(tmp_path, quick_state)
    project.configure("cpu", GRACE)
    groups = quick_state / "run" / project.name / "engine.groups"
    try:
        done = project.command("start-environment", "dev", "--runtime=processes")
        assert done.returncode == 0, done.stderr
        yield project, lambda: members(read_groups(groups)[-1].leader)
    finally:
        project.command("stop-environment", "dev", "--runtime=processes")


@pytest.fixture
def under_compose(make_project: MakeProject, quick_pins: list[str]) -> tuple[Project, Processes]:
    """Give the same under Compose."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to stop a process of a container")
    project = make_project()
    project.configure("cpu", *quick_pins, GRACE)
    project.start()
    top = ("top", project.container("engine"), "-eo", "pid")
    return project, lambda: [int(line) for line in project.docker(*top).splitlines()[1:]]


@pytest.mark.parametrize("runtime", ["processes", "compose"])
def test_a_hung_engine_is_restarted_and_named(runtime: str, request: pytest.FixtureRequest) -> None:
    fixture = {"processes": "as_processes", "compose": "under_compose"}[runtime]
    project, processes = request.getfixturevalue(fixture)
    (server,) = [pid for pid in processes() if is_server(pid)]
    os.kill(server, signal.SIGSTOP)

    def back() -> dict[str, Any] | None:
        told = engine_state(project, runtime)
        return told if told["phase"] == "healthy" and told["restarts"] == 1 else None

    told = wait_until(back)
    assert "hung at " in told["detail"]
    assert ": its server has not answered for " in told["detail"]
    assert project.complete()
    doctor = project.command("doctor", "dev", f"--runtime={runtime}")
    assert "the engine hung and was ended: its server has not answered" in doctor.stdout + doctor.stderr


def is_server(pid: int) -> bool:
    """Say whether a process is the engine's server itself, and not the program that watches it."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        return SERVER in words and "heartbeat.py" not in words
    return False


def engine_state(project: Project, runtime: str) -> dict[str, Any]:
    """Return what `status` tells of the engine."""
    told = json.loads(project.command("status", "dev", f"--runtime={runtime}", "--json").stdout)
    state: dict[str, Any] = next(row for row in told["services"] if row["name"] == "engine")
    return state
