"""`init`: a project folder where there was none, and nothing of a person's overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.cli import main

from tests.cli.commands import image


def test_an_empty_place_becomes_a_project(around: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = around / "new" / "project"
    assert main(["init", str(folder)]) == 0
    assert (folder / "envs" / "prod.yaml").is_file()
    assert (folder / "compose" / "compose.yaml").is_file()
    assert "/envs/.secrets/" in (folder / ".gitignore").read_text().splitlines()
    *told, step = capsys.readouterr().err.splitlines()
    assert len(told) == 3  # two folders and a file
    assert f"write {folder / 'envs'}/ (4 files)" in told
    assert step.startswith("next: ")
    assert step.endswith(f"configure-gpu --out {folder}")
    before = image(folder)
    assert main(["init", str(folder)]) == 0
    assert f"{folder} is a project folder already; nothing was changed" in capsys.readouterr().err
    assert image(folder) == before


def test_what_is_there_stays(around: Path) -> None:
    folder = around / "project"
    (folder / "envs").mkdir(parents=True)
    (folder / "envs" / "prod.yaml").write_text("mine\n")
    (folder / ".gitignore").write_text("mine too\n")
    assert main(["init", str(folder)]) == 0
    assert (folder / "envs" / "prod.yaml").read_text() == "mine\n"
    assert (folder / ".gitignore").read_text() == "mine too\n"
    assert (folder / "envs" / "dev.yaml").is_file()


def test_a_folder_that_cannot_be_made_is_told_without_a_flag_that_init_lacks(
    around: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (around / "file").write_text("mine\n")
    assert main(["init", str(around / "file" / "project")]) == 2
    hint = capsys.readouterr().err.splitlines()[-1]
    assert "--out" not in hint
    assert "init DIR" in hint


def test_a_file_is_no_folder(around: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = around / "file"
    file.write_text("mine\n")
    assert main(["init", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}: not a folder\nhint: name a folder, there or not yet\n"
    assert file.read_text() == "mine\n"
