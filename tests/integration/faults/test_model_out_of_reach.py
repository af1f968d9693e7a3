"""The model is damaged, before the checks of a start or after them, or its hub does not answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.fake_hub import serve_hub
from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import MakeFault
from tests.integration.project import Project

MakePlainProject = Callable[..., Project]
HUB = {"HF_TOKEN": "", "HF_TOKEN_PATH": ""}
UNREACHABLE = "http://127.0.0.1:1"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give the folder of a model of its own."""
    write_smoke_model(tmp_path / "tiny")
    return tmp_path / "tiny"


def truncate(file: Path) -> None:
    """Cut a file in half."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def test_truncated_weights_are_found_before_the_start(
    make_plain_project: MakePlainProject, fault: MakeFault, model: Path
) -> None:
    project = make_plain_project()
    project.configure("cpu", f"--model={model}")
    truncate(model / "model.safetensors")
    for command in ("validate-environment", "start-environment"):
        case = fault(f"the weights are truncated: {command}", project, "processes")
        ended = run(project, command, "dev", "--runtime=processes")
        case.ends(
            ended, code=5, says=("model-incomplete", "model.safetensors", "download the model again"), engine=False
        )


def test_weights_truncated_after_the_checks(
    make_plain_project: MakePlainProject, fault: MakeFault, model: Path
) -> None:
    project = make_plain_project()
    project.configure("cpu", f"--model={model}")
    case = fault("the weights are truncated after the checks", project, "processes")
    with Command(project, "start-environment", "dev", "--runtime=processes") as start:
        start.wait_for("engine: starting")
        truncate(model / "model.safetensors")
        start.mark()
        ended = start.end()
    case.ends(
        ended,
        code=7,
        says=("weights are incomplete or damaged", "`validate-environment dev` names"),
        engine=False,
    )


def test_hub_out_of_reach(make_plain_project: MakePlainProject, fault: MakeFault, model: Path) -> None:
    project = make_plain_project(HF_ENDPOINT=UNREACHABLE, **HUB)
    case = fault("the model hub is out of reach: configure-gpu", project, "any")
    ended = run(project, "configure-gpu", "cpu", "--env=dev", "--model=acme/tiny")
    case.ends(ended, code=2, says=("acme/tiny", UNREACHABLE), engine=False)
    # Configured while the hub still answered; only the weights are missing.
    with serve_hub(model, "acme/tiny") as hub:
        project = make_plain_project(HF_ENDPOINT=hub.url, **HUB)
        project.configure("cpu", "--model=acme/tiny")
    case = fault("the model hub is out of reach: start-environment", project, "processes")
    ended = run(project, "start-environment", "dev", "--runtime=processes")
    case.ends(ended, code=5, says=("model-unreachable", hub.url, "HF_ENDPOINT"), engine=False)
