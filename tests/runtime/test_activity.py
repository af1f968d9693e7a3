"""What processes have done, by this machine's own /proc, and since when, on the clock of the kernel's messages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stackwright.domain.service import Traces
from stackwright.runtime.activity import container_processes, container_traces, group_traces, measure
from stackwright.runtime.process_groups import ProcessGroup

GONE = 2**22 + 1  # above the greatest number that Linux gives a process


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """Give a shell with a child, which waits."""
    command = ["sh", "-c", "sleep 60 & echo there; wait"]
    with subprocess.Popen(command, process_group=0, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"there\n"
        yield shell
        os.killpg(shell.pid, 9)


def control_group(pid: int) -> str:
    """Return a word of a process's control group, as a container's id is one."""
    return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()[0]


def test_work_is_counted() -> None:
    before = measure([os.getpid()])
    assert before is not None
    deadline = before.cpu_s + 0.1
    while (now := measure([os.getpid()])) is not None and now.cpu_s < deadline:
        sum(range(10_000))
    assert now is not None
    assert now.cpu_s >= deadline


@pytest.mark.subprocess
def test_the_work_of_ended_children_is_counted() -> None:
    """A compiler's, for example, which a start calls a hundred times."""
    before = measure([os.getpid()])
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    after = measure([os.getpid()])
    assert before is not None
    assert after is not None
    assert after.cpu_s - before.cpu_s > 0.05


@pytest.mark.subprocess
def test_bytes_from_disks_are_counted_apart_from_the_processor(family: subprocess.Popen[bytes]) -> None:
    """As root, or of one's own processes; nothing is made of what cannot be read."""
    told = measure([family.pid])
    assert told is not None
    assert told.read_bytes is not None
    assert told.read_bytes >= 0
    assert told.cpu_s < 1


def test_what_is_gone_has_done_nothing_that_is_known() -> None:
    assert measure([]) is None
    assert measure([GONE]) is None
    assert measure([GONE, os.getpid()]) is not None


@pytest.mark.subprocess
def test_a_container_is_all_that_descends_from_its_first_process(family: subprocess.Popen[bytes]) -> None:
    found = container_processes(family.pid, control_group(family.pid))
    assert found[0] == family.pid
    assert len(found) == 2
    assert os.getpid() not in found


@pytest.mark.subprocess
def test_a_number_of_another_machine_is_not_taken_for_a_process_of_this_one(family: subprocess.Popen[bytes]) -> None:
    """An engine in a virtual machine numbers its own processes."""
    assert container_processes(family.pid, "5d41402abc4b2a76b9719d911017c592") == ()
    assert container_processes(GONE, "/") == ()
    assert container_processes(0, "/") == container_processes(1, "") == ()


def test_the_time_of_day_becomes_uptime() -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    began = container_traces("c0ffee", datetime.now(UTC) - timedelta(seconds=30))
    after = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert began.container == "c0ffee"
    assert began.began_s is not None
    assert before - 31 < began.began_s < after - 29


@pytest.mark.parametrize("started", [None, datetime(1, 1, 1, tzinfo=UTC)])
def test_a_container_that_never_began_has_no_time(started: datetime | None) -> None:
    assert container_traces("c0ffee", started) == Traces(container="c0ffee")


def test_a_groups_ticks_become_uptime() -> None:
    """This process began before now, and after the machine."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    found = group_traces(ProcessGroup(leader=os.getpid(), started=ticks))
    assert found.process == os.getpid()
    assert found.began_s is not None
    assert 0 < found.began_s <= time.clock_gettime(time.CLOCK_MONOTONIC)
