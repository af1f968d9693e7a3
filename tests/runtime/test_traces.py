"""Since when a service runs, on the clock of the kernel's messages."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stackwright.domain.service import Traces
from stackwright.runtime.groups import Group
from stackwright.runtime.traces import container_traces, group_traces


def test_the_time_of_day_becomes_uptime() -> None:
    began = container_traces("c0ffee", datetime.now(UTC) - timedelta(seconds=30))
    assert began.container == "c0ffee"
    assert began.began_s == pytest.approx(time.clock_gettime(time.CLOCK_MONOTONIC) - 30, abs=5)


@pytest.mark.parametrize("started", [None, datetime(1, 1, 1, tzinfo=UTC)])
def test_a_container_that_never_began_has_no_time(started: datetime | None) -> None:
    assert container_traces("c0ffee", started) == Traces(container="c0ffee")


def test_a_groups_ticks_become_uptime() -> None:
    """This process began before now, and after the machine."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    found = group_traces(Group(leader=os.getpid(), started=ticks))
    assert found.process == os.getpid()
    assert found.began_s is not None
    assert 0 < found.began_s <= time.clock_gettime(time.CLOCK_MONOTONIC)
