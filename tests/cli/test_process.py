"""A command as a process: pipes that close, interruptions, faults of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.planning_requests import HOSTS

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "stackwright"]


@pytest.fixture
def nobody() -> Iterator[int]:
    """Give the end of a pipe that nobody reads, as `… | head -1` leaves one."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def run_unread(around: Path, *words: str, stdout: int, stderr: int) -> subprocess.CompletedProcess[str]:
    """Run a command for a small host."""
    host = HOSTS / "cpu-small" / "host.yaml"
    command = [*COMMAND, *words, f"--host={host}", f"--out={around}"]
    return subprocess.run(command, cwd=ROOT, text=True, stdout=stdout, stderr=stderr, timeout=60, check=False)


@pytest.mark.subprocess
def test_what_only_shows_ends_with_its_reader(around: Path, nobody: int) -> None:
    """`stackwright plan | head -1`."""
    ended = run_unread(around, "plan", stdout=nobody, stderr=subprocess.PIPE)
    assert ended.returncode == 141
    assert "error" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.subprocess
def test_what_does_something_goes_on_without_a_reader(around: Path, nobody: int) -> None:
    """`configure-gpu dev --json 2>&1 | head -1`; its failures keep their code, too."""
    ended = run_unread(around, "configure-gpu", "dev", "--json", stdout=nobody, stderr=nobody)
    assert (ended.returncode, (around / "envs" / ".env.dev").exists()) == (0, True)
    ended = run_unread(around, "configure-gpu", "dev", "multi", "--json", stdout=nobody, stderr=nobody)
    assert ended.returncode == 4


@pytest.mark.subprocess
def test_without_a_reader_of_its_messages_a_result_is_whole(around: Path, nobody: int) -> None:
    """`stackwright plan 2> >(true)`."""
    ended = run_unread(around, "plan", "--json", stdout=subprocess.PIPE, stderr=nobody)
    assert (ended.returncode, json.loads(ended.stdout)["environment"]) == (0, "dev")


@pytest.mark.subprocess
def test_an_interruption_is_exit_130_in_one_line(around: Path) -> None:
    """While the snapshot is read, which never ends."""
    program = subprocess.Popen(
        [*COMMAND, "plan", "--host=/dev/stdin", f"--out={around}"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        assert program.stdin is not None
        program.stdin.write(b"#" * 2**20)  # more than a pipe holds: some of it has been read after that
        while psutil.Process(program.pid).status() != psutil.STATUS_SLEEPING:  # until it waits for more
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        assert program.stderr is not None
        err = program.stderr.read()
        program.wait(timeout=60)
    finally:
        program.kill()
        program.communicate()
    assert (program.returncode, err) == (130, b"interrupted\n")


@pytest.mark.subprocess
def test_a_fault_of_ours_is_one_line_unless_it_is_asked_for(around: Path) -> None:
    """The stack is too small for any command to succeed."""
    code = "import sys; from stackwright.cli import main; sys.setrecursionlimit(60); sys.exit(main(sys.argv[1:]))"
    words = ["plan", f"--host={HOSTS / 'cpu-small' / 'host.yaml'}", f"--out={around}"]
    ended = [
        subprocess.run(
            [sys.executable, "-c", code, *words, *more], cwd=ROOT, capture_output=True, text=True, check=False
        )
        for more in ([], ["--debug"])
    ]
    assert [each.returncode for each in ended] == [1, 1]
    assert ended[0].stderr.startswith("error: unexpected fault: RecursionError: ")
    assert ended[0].stderr.endswith("hint: run the same command with --debug for a traceback, and report it\n")
    assert len(ended[0].stderr.splitlines()) == 2
    assert "Traceback (most recent call last):" in ended[1].stderr


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("to", "why"), [(">&-", "stdout is closed"), (">/dev/full", "No space left on device")], ids=["closed", "full"]
)
def test_an_output_that_takes_nothing_is_one_sentence(to: str, why: str, around: Path) -> None:
    words = [*COMMAND, "plan", f"--host={HOSTS / 'cpu-small' / 'host.yaml'}", f"--out={around}"]
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {to}', "sh", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    *_, error, hint = ended.stderr.splitlines()
    assert (ended.returncode, error) == (2, f"error: the output cannot be written: {why}")
    assert hint.startswith("hint: ")
