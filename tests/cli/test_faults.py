"""Faults around a command, for every command: one sentence, a hint, and a documented exit code; nothing unexpected."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from stackwright.cli import COMMANDS, main

from tests.cli.commands import CPU, Run
from tests.planning_requests import HOSTS

HOST = f"--host={HOSTS / 'cpu-small' / 'host.yaml'}"
COMPOSE = HOSTS.parent / "importing" / "short-gpus" / "docker-compose.yml"
PROCESSES = "--runtime=processes"
WORDS: Mapping[str, tuple[str, ...]] = {
    "init": (),
    "detect": (),
    "configure-gpu": ("cpu", "--env=dev", HOST),
    "plan": ("cpu", HOST),
    "fit": ("--model=smoke", HOST),
    "models": ("qwen3-0.6b", HOST),
    "recommend": ("qwen3-0.6b",),
    "validate-environment": ("dev", PROCESSES),
    "start-environment": ("dev", "--runtime=compose"),
    "stop-environment": ("dev", PROCESSES),
    "rollback": ("dev",),
    "status": ("dev", PROCESSES),
    "logs": ("dev", PROCESSES),
    "restart": ("dev", PROCESSES),
    "chat": ("dev",),
    "bench": ("dev", PROCESSES),
    "tune": ("dev", PROCESSES),
    "open": ("dev",),
    "gpus": (HOST,),
    "doctor": ("dev", PROCESSES),
    "pin-images": ("dev",),
    "facts": ("--offline",),
    "key": ("dev",),
    "completion": ("bash",),
    "import": (str(COMPOSE), "dev", "--dry-run", HOST),
    "backup": ("dev", "backup.tar"),
    "restore": ("dev", "backup.tar"),
    "keys": ("list", "dev"),
}
"""A command line of each command, without its project folder."""
WITHOUT_FOLDER = ("detect", "facts", "fit", "gpus", "completion")
"""These read and write no project."""
PRINT_NOTHING = {
    *("configure-gpu", "stop-environment", "start-environment", "rollback", "keys", "doctor", "validate-environment"),
    *("init", "logs", "backup", "restore"),
}
"""In this project these have no result for stdout."""
DONE, USAGE, INVALID, REFUSED = 0, 2, 5, 6


def words_of(command: str, project: Path) -> list[str]:
    """Return a whole command line."""
    named = [str(project)] if command == "init" else [f"--out={project}"]
    out = [] if command in WITHOUT_FOLDER else named
    return [command, *WORDS[command], *out]


@pytest.fixture(autouse=True)
def _configured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a project that is configured for the processor, and a person who says nothing."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(*CPU, host="cpu-small").code == 0


def each(project: Path, capsys: pytest.CaptureFixture[str], commands: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """Yield how each command ends, and what it says on stderr, which is for a person."""
    for command in commands:
        capsys.readouterr()
        code = main(words_of(command, project))
        told = capsys.readouterr().err
        assert "Traceback" not in told, told
        assert "unexpected fault" not in told, told
        assert code in (DONE, USAGE, INVALID, REFUSED), (command, told)
        if code not in (DONE, INVALID):
            errors = re.findall(r"^error: .*\n(.*)", told, re.MULTILINE)
            assert len(errors) == 1, told
            assert errors[0].startswith("hint: "), told
        yield command, code, told


def test_every_command_is_tried() -> None:
    assert WORDS.keys() == COMMANDS.keys()


@pytest.mark.subprocess
@pytest.mark.parametrize("place", ["state", "state/below", "state/run"])
def test_the_state_path_is_a_file(
    place: str, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Itself, a folder above it, or one below it that we make."""
    file = project.parent / ("state/run" if place == "state/run" else "state")
    file.parent.mkdir(exist_ok=True)
    file.touch()
    monkeypatch.setenv("STACKWRIGHT_STATE", str(project.parent / place.removesuffix("/run")))
    for command, code, told in each(project, capsys, sorted(COMMANDS.keys() - set(WITHOUT_FOLDER))):
        assert (code, f"error: {file}: not a folder\n" in told) == (USAGE, True), (command, told)


@pytest.mark.subprocess
def test_the_output_is_closed(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has no stdout then. A command that prints nothing there does not need it."""
    monkeypatch.setattr(sys, "stdout", None)
    ends = {command: code for command, code, _ in each(project, capsys, COMMANDS)}
    assert {command for command, code in ends.items() if code == DONE} <= PRINT_NOTHING


@pytest.mark.subprocess
def test_the_working_folder_is_deleted(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the project folder is named, nothing needs it."""
    whole = {command: code for command, code, _ in each(project, capsys, COMMANDS)}
    gone = project.parent / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert {command: code for command, code, _ in each(project, capsys, COMMANDS)} == whole
    assert main(["plan", HOST]) == USAGE
    assert "error: no folder to work in: No such file or directory\nhint: " in capsys.readouterr().err


@pytest.mark.subprocess
@pytest.mark.parametrize("command", ["configure-gpu", "status", "plan"])
def test_all_streams_are_closed(command: str, project: Path) -> None:
    """No file that is opened takes the number of one, and the exit code is as if they were open."""
    words = [sys.executable, "-P", "-m", "stackwright", *words_of(command, project)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words], env=variables, check=False)
    assert ended.returncode == (DONE if command in PRINT_NOTHING else USAGE)
