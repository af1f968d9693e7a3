"""What the kernel said: how far back it is read, and which of its lines are about a service."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from stackwright.diagnosis.evidence import Evidence, name_failures
from stackwright.diagnosis.kernel import messages_about, read_kernel
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.rules import EvidenceKind
from stackwright.domain.service import ServicePhase, ServiceState, Traces

CONTAINER = "c0ffee" + "0" * 58
# As Linux 6.8 writes them when a container's own limit, and when the whole machine's memory, is used up.
IN_CONTAINER = (
    f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={CONTAINER},mems_allowed=0,"
    f"oom_memcg=/docker/{CONTAINER},task_memcg=/docker/{CONTAINER},task=VLLM::EngineCor,pid=5305,uid=1000"
)
BY_SYSTEMD = (
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    f"task_memcg=/system.slice/docker-{CONTAINER}.scope,task=VLLM::EngineCor,pid=5305,uid=1000"
)
OF_A_BROWSER = (
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    "task_memcg=/user.slice/user-1000.slice/app.scope,task=python3,pid=5306,uid=1000"
)
KILLED = "Out of memory: Killed process 5305 (VLLM::EngineCor) total-vm:1427548kB, anon-rss:394456kB"
OTHER = "Out of memory: Killed process 5306 (python3) total-vm:1427548kB, anon-rss:394456kB"


def at(second: float, *messages: str) -> str:
    """Write messages as they are read, all of one second of uptime."""
    return "\n".join(f"[{second:12.6f}] {message}" for message in messages)


def ended(traces: Traces) -> ServiceState:
    """Return the state of an engine that has ended."""
    return ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=137, traces=traces)


@pytest.mark.parametrize("line", [IN_CONTAINER, BY_SYSTEMD])
def test_a_kill_is_told_by_the_containers_control_group(line: str) -> None:
    kernel = at(50, line, KILLED, OF_A_BROWSER, OTHER, "NVRM: Xid (PCI:0000:01:00): 79")
    assert messages_about(ended(Traces(container=CONTAINER)), "", kernel) == at(50, line, KILLED)
    assert messages_about(ended(Traces(container="f" * 64)), "", kernel) == ""
    assert messages_about(ended(Traces()), "", kernel) == ""


def test_numbers_inside_a_container_are_none_of_the_hosts() -> None:
    """Its log names process 5306, which is another one outside."""
    kernel = at(50, OF_A_BROWSER, OTHER)
    assert messages_about(ended(Traces(container=CONTAINER)), "(EngineCore pid=5306) INFO", kernel) == ""


def test_without_a_container_the_numbers_of_the_processes_tell() -> None:
    """The first is in the runtime's record, its children are in the log."""
    kernel = at(50, OF_A_BROWSER, KILLED, OTHER)
    assert messages_about(ended(Traces(process=5305)), "", kernel) == at(50, KILLED)
    log = "(EngineCore pid=5305) INFO loading"
    assert messages_about(ended(Traces(process=17)), log, kernel) == at(50, KILLED)
    assert messages_about(ended(Traces(process=17)), "", kernel) == ""


@pytest.mark.parametrize(("began_s", "told"), [(None, True), (49.0, True), (51.0, True), (60.0, False)])
def test_a_kill_before_the_service_began_is_another_ones(began_s: float | None, told: bool) -> None:
    state = ended(Traces(container=CONTAINER, began_s=began_s))
    assert bool(messages_about(state, "", at(50, IN_CONTAINER, KILLED))) is told


def test_the_kernel_is_read_as_far_as_it_matters(tmp_path: Path) -> None:
    """Records as /dev/kmsg gives them: `priority,sequence,microseconds,flags;message`."""
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
    old = max(now - 3_000_000, 0)
    records = (
        f"6,1,{old},-;an old one\n6,2,{now},-;NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus\nbroken\n6,3\n"
    )
    kernel = tmp_path / "kmsg"
    kernel.write_text(records, encoding="utf-8")
    (line,) = read_kernel(kernel, reach_back_s=1.0).splitlines()
    stamp, _, message = line.partition("] ")
    assert (float(stamp.strip("[ ")), message) == (
        now / 1e6,
        "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus",
    )
    assert read_kernel(kernel, reach_back_s=3600.0).splitlines()[0].endswith("] an old one")
    host = Evidence(service="host", kind=EvidenceKind.KERNEL, text=read_kernel(kernel))
    assert [each.diagnosis.rule for each in name_failures((host,), load_rules(), {})] == ["gpu-off-bus"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_kernel_that_may_not_be_read_says_nothing(tmp_path: Path) -> None:
    locked = tmp_path / "kmsg"
    locked.touch(mode=0)
    assert read_kernel(locked) == ""


def test_a_kernel_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert read_kernel(tmp_path / "none") == ""
