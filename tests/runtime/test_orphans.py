"""What a killed command leaves at work is ended; what works for a living one, or for nobody that we know, is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.runtime.process_groups import OWNER, end_orphans, owned

pytestmark = pytest.mark.subprocess

COMMAND = """
import os, subprocess, sys, time
from stackwright.runtime.process_groups import owned
child = subprocess.Popen(["sleep", "60"], env={**os.environ, **owned()}, process_group=0, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def command() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give a command at work and the process id of its client."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        client = int(process.stdout.readline())
        yield process, client
        process.kill()
        end_orphans()


def lives(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_living_commands_client_is_left_alone(command: tuple[subprocess.Popen[str], int]) -> None:
    end_orphans()
    assert lives(command[1])


def test_a_killed_commands_client_is_ended(command: tuple[subprocess.Popen[str], int]) -> None:
    process, client = command
    process.send_signal(signal.SIGKILL)
    process.wait()
    end_orphans()
    assert not lives(client)


@pytest.mark.parametrize("owner", ["", "x", ":", "me:1"])
def test_an_owner_that_makes_no_sense_is_no_licence_to_kill(owner: str) -> None:
    with subprocess.Popen(["sleep", "60"], env={**os.environ, OWNER: owner}) as process:
        end_orphans()
        assert process.poll() is None
        process.kill()


def test_a_number_that_someone_else_has_now_is_not_the_owner() -> None:
    """This process is there, but began at another time than the owner did."""
    with subprocess.Popen(["sleep", "60"], env={**os.environ, OWNER: f"{os.getpid()}:1"}) as process:
        end_orphans()
        assert process.wait() == -signal.SIGTERM


def test_a_process_that_is_its_own_owner_lives() -> None:
    (value,) = owned().values()
    assert value.startswith(f"{os.getpid()}:")
