"""Holding an environment: one command at a time, nothing left by one that ends, a note left by one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.errors import RuntimeRefusedError, UsageError
from stackwright.project.lock import NAME, Lock, hold, read_work

from tests.interrupting import interrupted_at

IN_A_PROCESS = """
import sys, time
from msgspec.structs import replace
from pathlib import Path
from stackwright.project.lock import hold
with hold((Path(sys.argv[1]),), "start-environment dev") as (lock,):
    if "starting" in sys.argv:
        lock.note(replace(lock.work, starting=True, ran=True, before=3, runtime="compose"))
    if "child" in sys.argv:
        import subprocess
        subprocess.Popen(["sleep", "60"], process_group=0, stdout=subprocess.DEVNULL)
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a process that holds a folder, and return once it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS, str(folder), *words],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], number: int) -> int:
    """End a process by a signal and return its status."""
    process.send_signal(number)
    process.communicate()
    return process.returncode


def test_a_command_leaves_nothing_not_even_the_folder_that_it_made(tmp_path: Path) -> None:
    folder = tmp_path / "compose" / "generated" / "dev"
    with hold((folder,), "configure-gpu") as (lock,):
        assert lock.left is None
        work, held = read_work(folder)
        assert work is not None
        assert (work.command, work.pid, held) == ("configure-gpu", os.getpid(), True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    folder = tmp_path / "generated" / "dev"
    with hold((folder,), "configure-gpu"):
        (folder / "plan.json").touch()
    assert list(folder.iterdir()) == [folder / "plan.json"]


@pytest.mark.subprocess
def test_a_second_command_is_told_who_holds_it_and_since_when(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(RuntimeRefusedError) as refusal, hold((tmp_path,), "stop-environment dev"):
        pass
    assert refusal.value.message.startswith(
        f"{tmp_path.name}: `start-environment dev` is running, process {process.pid}, since "
    )
    assert refusal.value.hint == f"wait for it to end, or end it: kill {process.pid}"
    assert end(process, signal.SIGTERM) != 0
    with hold((tmp_path,), "stop-environment dev") as (lock,):
        assert lock.left is None


@pytest.mark.subprocess
def test_one_that_is_refused_holds_none_of_the_others(tmp_path: Path) -> None:
    process = holder(tmp_path / "prod")
    folders = (tmp_path / "dev", tmp_path / "prod")
    with pytest.raises(RuntimeRefusedError), hold(folders, "configure-gpu"):
        pass
    assert not (tmp_path / "dev").exists()
    end(process, signal.SIGTERM)


@pytest.mark.subprocess
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_signal_ends_a_command_it_lets_go(number: int, tmp_path: Path) -> None:
    end(holder(tmp_path / "dev"), number)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.subprocess
def test_a_killed_command_is_taken_over_from_and_its_note_read(tmp_path: Path) -> None:
    process = holder(tmp_path, "starting")
    end(process, signal.SIGKILL)
    assert read_work(tmp_path) == (read_work(tmp_path)[0], False)
    with hold((tmp_path,), "stop-environment dev") as (lock,):
        assert lock.left is not None
        assert (lock.left.pid, lock.left.ran, lock.left.before) == (process.pid, True, 3)
        # Until somebody has seen to it, it stands in the next command's name.
        assert (lock.work.command, lock.work.starting, lock.work.before) == ("stop-environment dev", True, 3)
    with hold((tmp_path,), "start-environment dev") as (lock,):
        assert lock.left is not None
        lock.note(replace(lock.work, starting=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.subprocess
def test_a_child_that_lives_on_holds_nothing(tmp_path: Path) -> None:
    """Such as supervisord, or a client of the container engine."""
    end(holder(tmp_path, "child"), signal.SIGKILL)
    with hold((tmp_path,), "stop-environment dev"):
        pass


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'{"command": 1}', b"\xff\xfe", b"[" * 4000, b'{"command":"x","pid":"y"}']
)
def test_a_damaged_note_is_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(text)
    assert read_work(tmp_path) == (None, False)
    with hold((tmp_path,), "stop-environment dev") as (lock,):
        assert lock.left is None


def test_a_lock_that_its_owner_is_just_taking_away_is_not_held(tmp_path: Path) -> None:
    """Two that wait for the same file must not both get it: the second has hold of one without a name."""
    first = Lock(tmp_path, "first")
    with first:
        (tmp_path / NAME).unlink()
        with Lock(tmp_path, "second") as second:
            assert read_work(tmp_path) == (second.work, True)


def test_an_interruption_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    """While the locks are made and registered, while they are held, and while they are let go of."""
    folders = (tmp_path / "dev", tmp_path / "prod")

    def hold_both() -> None:
        with hold(folders, "configure-gpu") as locks:
            assert [read_work(folder)[1] for folder in folders] == [True, True], locks

    moment = 1
    while interrupted_at(moment, signal.SIGTERM, hold_both, ("lock.py", "interrupts.py", "contextlib.py")):
        assert list(tmp_path.iterdir()) == [], f"moment {moment}"
        moment += 1
    assert moment > 50


def test_a_command_that_needs_no_record_does_without_one_on_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to("/dev/full")
    with pytest.raises(UsageError, match="cannot be written: No space left on device"), hold((tmp_path,), "start"):
        pass
    (tmp_path / NAME).symlink_to("/dev/full")
    with hold((tmp_path,), "stop", needs_record=False) as (lock,):
        assert lock.unwritten is not None
        with pytest.raises(RuntimeRefusedError), hold((tmp_path,), "stop", needs_record=False):
            pass
        lock.note(replace(lock.work, starting=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.subprocess
def test_what_is_held_is_held_also_for_a_command_that_needs_no_record(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(RuntimeRefusedError), hold((tmp_path,), "stop-environment dev", needs_record=False):
        pass
    end(process, signal.SIGTERM)
