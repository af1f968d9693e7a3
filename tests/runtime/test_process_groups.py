"""Recorded process groups, on real processes: members found, strangers spared, all of a group ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.runtime.process_groups import (
    ProcessGroup,
    end_groups,
    end_programs,
    members,
    programs_with,
    read_groups,
)

# A leader with a worker; both ignore SIGTERM where asked to.
LEADER = """
import os, signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = os.fork()
if worker:
    print(worker, flush=True)
time.sleep(600)
"""


def started_ticks(pid: int) -> int:
    """Return a process's start time as /proc tells it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


class Family:
    """A leader in a group of its own, and its worker."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-c", LEADER, *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        self.worker = int(self.process.stdout.readline())
        self.group = ProcessGroup(leader=self.process.pid, started=started_ticks(self.process.pid))

    def close(self) -> None:
        """End whatever is left of it."""
        for pid in (self.worker, self.process.pid):
            if pid in members(self.group):
                os.kill(pid, 9)
        self.process.communicate()


@pytest.fixture
def family() -> Iterator[Family]:
    """Give a leader and a worker."""
    made = Family()
    yield made
    made.close()


@pytest.mark.subprocess
def test_group_is_ended_after_its_leader_is_gone(family: Family) -> None:
    assert set(members(family.group)) == {family.process.pid, family.worker}
    family.process.kill()
    family.process.wait()
    assert members(family.group) == (family.worker,)
    end_groups([family.group], patience_s=5.0)
    assert members(family.group) == ()


@pytest.mark.subprocess
def test_number_that_is_someone_elses_now_is_spared(family: Family) -> None:
    earlier = ProcessGroup(leader=family.group.leader, started=family.group.started - 1)
    assert members(earlier) == ()
    end_groups([earlier], patience_s=0.0)
    assert set(members(family.group)) == {family.process.pid, family.worker}


@pytest.mark.subprocess
def test_what_does_not_listen_is_killed() -> None:
    stubborn = Family("stubborn")
    try:
        end_groups([stubborn.group], patience_s=0.2)
        assert members(stubborn.group) == ()
    finally:
        stubborn.close()


@pytest.mark.subprocess
def test_program_is_found_by_a_whole_word_and_ended() -> None:
    marked = Family("stubborn", "/run/stack/supervisord.conf")
    try:
        assert set(programs_with("/run/stack/supervisord.conf")) == {marked.process.pid, marked.worker}
        assert programs_with("/run/stack/supervisord") == []
        end_programs("/run/stack/supervisord.conf", patience_s=0.2)
        assert members(marked.group) == ()
    finally:
        marked.close()


@pytest.mark.parametrize("leader", [0, 1, os.getpgrp()])
def test_group_of_everyone_is_never_ended(leader: int) -> None:
    assert members(ProcessGroup(leader=leader, started=0)) == ()


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    record = tmp_path / "engine.groups"
    record.write_text("12 34\n\n56\nx y\n-1 5\n78 90\n", encoding="utf-8")
    assert read_groups(record) == (ProcessGroup(leader=12, started=34), ProcessGroup(leader=78, started=90))
    assert read_groups(tmp_path / "none") == ()
