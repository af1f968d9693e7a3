"""The disk fills up: while files are rendered, and while the model is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from stackwright.models.smoke_model import write_smoke_model

from tests.integration.fake_hub import serve_hub
from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import MakeFault
from tests.integration.faults.left import files_of
from tests.integration.faults.places import fill, small_disk
from tests.integration.project import Project

MakePlainProject = Callable[..., Project]
BLOCK, BLOCKS = 4096, 512


def test_disk_full_while_rendering(make_plain_project: MakePlainProject, fault: MakeFault) -> None:
    """Every amount of room between nothing and enough: the files stand as before, or all of them are new."""
    project = make_plain_project()
    with small_disk(project.folder, BLOCKS * BLOCK):
        project.configure("cpu")
        before = files_of(project)
        wishes = project.folder / "envs" / "dev.yaml"
        wishes.write_text(wishes.read_text().replace("settings: {}", 'settings: {VLLM_MAX_MODEL_LEN: "1024"}  # mine'))
        refused = 0
        for room in range(0, BLOCKS * BLOCK, BLOCK):
            case = fault("the disk is full while files are rendered", project, "any")
            filler = fill(project.folder, leave_bytes=room)
            ended = run(project, "configure-gpu", "cpu", "--env=dev", *project.pins)
            filler.unlink()
            if ended.code == 0:
                break
            case.ends(ended, code=2, says=("No space left on device", "--out DIR"), changed=("filler",), engine=False)
            refused += 1
        assert refused > 0
        assert files_of(project) != before
        shutil.rmtree(project.folder / "envs", ignore_errors=True)


def test_disk_full_while_downloading(make_plain_project: MakePlainProject, fault: MakeFault, tmp_path: Path) -> None:
    write_smoke_model(tmp_path / "tiny")
    with serve_hub(tmp_path / "tiny", "acme/tiny") as hub, small_disk(tmp_path / "huggingface", 16 * 2**20) as disk:
        project = make_plain_project(HF_ENDPOINT=hub.url, HF_TOKEN="", HF_TOKEN_PATH="", HF_HOME=str(disk))
        project.configure("cpu", "--model=acme/tiny")
        # What validation looks at: the weights would not fit.
        case = fault("the disk has no room for the model", project, "processes")
        filler = fill(disk, leave_bytes=64 * 1024)
        ended = run(project, "start-environment", "dev", "--runtime=processes")
        case.ends(ended, code=5, says=("disk",), engine=False)
        filler.unlink()
        # And what it cannot know: somebody else fills the disk meanwhile.
        case = fault("the disk fills up while the model is downloaded", project, "processes")
        with Command(project, "start-environment", "dev", "--runtime=processes") as start:
            start.wait_for("engine: starting")
            fill(disk, leave_bytes=64 * 1024)
            start.mark()
            ended = start.end()
        case.ends(ended, code=7, says=("disk", "HF_HOME"), engine=False)
