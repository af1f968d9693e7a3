"""What a service is called in the kernel's messages, and since when. Reads clocks.

The kernel stamps its messages with seconds of uptime, sleep left out (CLOCK_MONOTONIC); Docker tells the time of day, /proc
the uptime with sleep. A machine that has slept since makes a service look older than it is, never younger.
"""

from __future__ import annotations

import os
import time
from datetime import datetime

from stackwright.domain.service import Traces
from stackwright.runtime.groups import Group


def container_traces(identity: str, started: datetime | None) -> Traces:
    """Return the traces of a container by its id and the time of its last start; Docker's year 1 is none."""
    if started is None or started.year < 1970:
        return Traces(container=identity)
    return Traces(
        container=identity, began_s=time.clock_gettime(time.CLOCK_MONOTONIC) - time.time() + started.timestamp()
    )


def group_traces(group: Group) -> Traces:
    """Return the traces of a recorded process group."""
    slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return Traces(process=group.leader, began_s=group.started / os.sysconf("SC_CLK_TCK") - slept_s)
