"""Engines that do not come up, under Docker Compose, each after all checks have passed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.conftest import MakeProject
from tests.integration.faults.command import Command
from tests.integration.faults.conftest import MakeFault
from tests.integration.project import Project, wait_until

START = ("start-environment", "dev", "--runtime=compose")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give the folder of a model of its own."""
    write_smoke_model(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def project(make_project: MakeProject, pins: list[str], model: Path) -> Project:
    """Give a project that serves that model."""
    project = make_project()
    project.configure("cpu", *pins, f"--model={model}")
    return project


def test_engine_exits_at_once(project: Project, model: Path, fault: MakeFault) -> None:
    case = fault("the engine refuses the model and exits", project)
    config = model / "config.json"
    with Command(project, *START) as start:
        wait_until(lambda: project.remains("container"))
        config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": ["NoSuchModel"]}))
        start.mark()
        ended = start.end()
    case.ends(ended, code=7, says=("does not support the architecture NoSuchModel", "--model"))
    assert "restart 2" not in ended.said


def test_engine_runs_out_of_memory(project: Project, fault: MakeFault) -> None:
    """A limit on the control group, so that the kernel itself kills."""
    case = fault("the kernel kills the engine: out of memory", project)
    with Command(project, *START) as start:
        wait_until(lambda: project.remains("container"))
        project.docker("update", "--memory=256m", "--memory-swap=256m", project.container("engine"))
        start.mark()
        ended = start.end()
    case.ends(ended, code=7, says=("memory",))
    assert "restart 2" not in ended.said


@pytest.mark.long
def test_engine_hangs_in_load(project: Project, model: Path, fault: MakeFault) -> None:
    """Its weights become a pipe that nobody writes to: it opens it, and waits for ever."""
    case = fault("the engine hangs while it loads", project)
    with Command(project, *START) as start:
        wait_until(lambda: project.remains("container"))
        (model / "model.safetensors").unlink()
        os.mkfifo(model / "model.safetensors")
        start.wait_for("engine: loading weights")
        start.mark()
        ended = start.end()
    case.ends(ended, code=7, says=("engine made no progress for", "loading weights", "limit"))
