"""Two project folders on one machine have data of their own, and none loses what it had."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.commands import CPU, Run

WEBUI = (*CPU, "--with", "webui")


def data_of(project: Path) -> str:
    """Return the folder that the rendered file names."""
    lines = (project / "envs/.env.dev").read_text(encoding="utf-8").splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("DATA_HOME="))


def test_another_project_folder_has_data_of_its_own(project: Path, tmp_path: Path, run: Run, run_plain: Run) -> None:
    assert run(*WEBUI, host="cpu-small").code == 0
    other = tmp_path / "other"

    refused = run_plain(*WEBUI, "--out", other, host="cpu-small")
    named = run_plain(*WEBUI, "--out", other, "--set=COMPOSE_PROJECT_NAME=stackwright-dev-2", host="cpu-small")

    assert refused.code == 2
    assert f"{data_of(project)}: has the data of the project folder {project}" in refused.err
    assert f"configure-gpu dev --set COMPOSE_PROJECT_NAME=stackwright-dev-2 --out {other}" in refused.err
    assert (named.code, Path(data_of(other)).name) == (0, "stackwright-dev-2")
    assert run(*WEBUI, host="cpu-small").code == 0


def test_a_moved_project_folder_keeps_its_data(project: Path, tmp_path: Path, run: Run, run_plain: Run) -> None:
    assert run(*WEBUI, host="cpu-small").code == 0
    moved = tmp_path / "moved"
    shutil.move(project, moved)

    assert run_plain(*WEBUI, "--out", moved, host="cpu-small").code == 0
    assert (Path(data_of(moved)) / ".project").read_text(encoding="utf-8") == f"{moved}\n"


@pytest.mark.parametrize("owner", [None, ""])
def test_data_that_nobody_has_claimed_are_kept(project: Path, run: Run, owner: str | None) -> None:
    assert run(*WEBUI, host="cpu-small").code == 0
    claim = Path(data_of(project)) / ".project"
    claim.unlink() if owner is None else claim.write_text(owner, encoding="utf-8")

    assert run(*WEBUI, host="cpu-small").code == 0
    assert claim.read_text(encoding="utf-8") == f"{project}\n"


def test_data_that_stay_behind_are_named(project: Path, run: Run) -> None:
    assert run(*WEBUI, host="cpu-small").code == 0
    before = data_of(project)

    told = run(*WEBUI, "--set=COMPOSE_PROJECT_NAME=else", host="cpu-small")

    assert f"the data of dev stay in {before}; `" in told.err
    assert f"configure-gpu dev --set DATA_HOME={before}" in told.err
    assert f"--set DATA_HOME={before}" not in run(*WEBUI, "--set=COMPOSE_PROJECT_NAME=else", host="cpu-small").err
