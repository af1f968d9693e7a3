"""A home of its own, and a copy of a case's files to work in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from msgspec import Struct
from stackwright.cli import main

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/case.yaml"))
HOSTS = HERE.parent / "hosts"


class Imported(Struct, frozen=True, kw_only=True):
    """What one import did: its exit code, what it printed, and the folder of the project."""

    code: int
    out: str
    err: str
    project: Path
    environment: str = "dev"

    @property
    def wishes(self) -> str:
        """What was written."""
        return (self.project / "envs" / f"{self.environment}.yaml").read_text("utf-8")


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an environment in which no variable of the machine tells a setup anything."""
    keep = ("PATH", "PYTHONPATH", "LANG", "TMPDIR", "PYTEST_CURRENT_TEST")
    for name in list(os.environ):
        if name not in keep:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The library reads the variable when it is imported, which another test may have caused before.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    return tmp_path


class Importer:
    """Runs the command in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.project = folder.parent / "project"
        self._capsys = capsys

    def run(self, *words: str, environment: str = "dev") -> Imported:
        """Run `stackwright import` with these words, for a host without GPUs where none is named."""
        words = words if "--host" in words else (*words, "--host", host_file("cpu-small"))
        return self.command("import", *words, "--out", str(self.project), environment=environment)

    def command(self, *words: str, environment: str = "dev") -> Imported:
        """Run any command."""
        self._capsys.readouterr()
        code = main(list(words))
        printed = self._capsys.readouterr()
        return Imported(code=code, out=printed.out, err=printed.err, project=self.project, environment=environment)


@pytest.fixture
def importer(around: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Importer:
    """Work in an empty folder."""
    folder = around / "setup"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Importer(folder, capsys)


def lay_out_case(case: Path, importer: Importer) -> dict[str, Any]:
    """Copy a case's files, and return what its case.yaml says."""
    shutil.copytree(case, importer.folder, dirs_exist_ok=True)
    told: dict[str, Any] = yaml.safe_load((case / "case.yaml").read_text("utf-8"))
    return told


def host_file(name: str) -> str:
    """Return the snapshot of a recorded host, or the case's own."""
    return name if name.endswith(".yaml") else str(HOSTS / name / "host.yaml")
