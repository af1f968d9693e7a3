"""A home, a project folder, and what runs a command in it, with the real catalog and real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stackwright.cli import main

from tests.cli.commands import Ran, Run, named_alone
from tests.planning_requests import HOSTS


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home of its own, state and caches in it, and a PATH with no program on it."""
    for name in list(os.environ):
        if name.startswith(("XDG_", "HF_", "VLLM_", "CUDA_", "NVIDIA_", "STACKWRIGHT_", "LITELLM_")) or (
            name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    return tmp_path


@pytest.fixture
def project(around: Path) -> Path:
    """Name a project folder that is not there yet."""
    return around / "project"


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give what runs one command in the project folder."""

    def command(*words: str | Path, host: str | None = None) -> Ran:
        given = [] if host is None else [f"--host={HOSTS / host / 'host.yaml'}"]
        capsys.readouterr()
        code = main([*map(str, words), *given, f"--out={project}"])
        out, err = capsys.readouterr()
        return Ran(code=code, out=named_alone(out, project), err=named_alone(err, project))

    return command


@pytest.fixture
def run_plain(around: Path, capsys: pytest.CaptureFixture[str]) -> Run:  # noqa: ARG001  # for its home
    """Give what runs one command that is for no project folder."""

    def command(*words: str | Path, host: str) -> Ran:
        capsys.readouterr()
        code = main([*map(str, words), f"--host={HOSTS / host / 'host.yaml'}"])
        out, err = capsys.readouterr()
        return Ran(code=code, out=out, err=err)

    return command
