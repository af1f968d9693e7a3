"""What the kernel said lately, and which of it is about one service. Touches /dev/kmsg, for reading."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from stackwright.domain.service import ServiceState, Traces

# The kernel's buffer reaches back to the boot; what it said before has nothing to do with a start that is asked about.
KERNEL_REACHES_BACK_S = 600.0
KERNEL_MESSAGES = Path("/dev/kmsg")
# The two clocks of `Traces` and of messages are read one after the other, and Docker notes a start once it is done.
LEEWAY_S = 2.0

# Linux 5.0 and newer, mm/oom_kill.c and mm/memcontrol.c: a line with the control group and the number of the process
# that has to go, then one that it is killed. The numbers are those of the host; the path has the container's id, be it
# `/docker/ID` or `/system.slice/docker-ID.scope`.
_CHOSEN = re.compile(r"\] oom-kill:.*\btask_memcg=(?P<group>[^,]*),.*\bpid=(?P<process>[0-9]+)")
_KILLED = re.compile(r"\bKilled process (?P<process>[0-9]+) ")
_AT = re.compile(r"\[ *(?P<at_s>[0-9]+\.[0-9]+)\] ")
# An engine may write the process before each line: `(EngineCore pid=5305) INFO ...`.
_OWN = re.compile(r"\bpid=([0-9]+)\)")


def read_kernel(path: Path = KERNEL_MESSAGES, *, reach_back_s: float = KERNEL_REACHES_BACK_S) -> str:
    """Return what the kernel said lately, a line each as `dmesg` shows it; empty where this user may not read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    records: list[str] = []
    try:
        while True:
            try:
                record = os.read(descriptor, 8192)
            except BrokenPipeError:  # overwritten before it was read; the next one is whole
                continue
            if not record:
                break
            records.append(record.decode(errors="replace"))
    except OSError:  # EAGAIN: nothing more for now
        pass
    finally:
        os.close(descriptor)
    since = time.clock_gettime(time.CLOCK_MONOTONIC) - reach_back_s
    return "\n".join(filter(None, (_message(record, since) for record in "".join(records).splitlines())))


def _message(record: str, since: float) -> str | None:
    """Return the message of one record, `priority,sequence,microseconds,flags;message` (kernel ABI, dev-kmsg)."""
    head, _, message = record.partition(";")
    fields = head.split(",")
    if not message or len(fields) < 3 or not fields[2].isdecimal():
        return None
    at_s = int(fields[2]) / 1e6
    return f"[{at_s:12.6f}] {message}" if at_s >= since else None


def messages_about(state: ServiceState, log: str, kernel: str) -> str:
    """Return the kernel's lines about the killing of one service's processes, since it began last.

    Told by its container's control group; without one by the numbers of its processes, of which its `log` has more than
    the first. What memory ran out for elsewhere on the machine says nothing about this service.
    """
    return "\n".join(_about(state.traces, log, kernel))


def _about(traces: Traces, log: str, kernel: str) -> Iterator[str]:
    own = set() if traces.process is None else {str(traces.process), *_OWN.findall(log)}
    for line in kernel.splitlines():
        at = _AT.match(line)
        if at is not None and traces.began_s is not None and float(at["at_s"]) < traces.began_s - LEEWAY_S:
            continue
        chosen, killed = _CHOSEN.search(line), _KILLED.search(line)
        if chosen is not None and traces.container is not None and traces.container in chosen["group"]:
            own.add(chosen["process"])
        found = chosen or killed
        if found is not None and found["process"] in own:
            yield line
