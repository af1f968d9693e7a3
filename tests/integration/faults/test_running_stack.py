"""What befalls a stack that runs, under Docker Compose, with a quick engine in vLLM's place.

The tests share one stack and run in the order written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.fakes.clock import FakeClock
from tests.integration.conftest import MakeProject
from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import Fault, MakeFault
from tests.integration.faults.places import squatter
from tests.integration.faults.traffic import clients
from tests.integration.project import Project, wait_until

START = ("start-environment", "dev", "--runtime=compose")
STATUS = ("status", "dev", "--runtime=compose", "--json")
DAY_S = 86400
RUNS = "runs: all services, healthy"


@pytest.fixture(scope="module")
def project(make_project: MakeProject, quick_pins: list[str]) -> Project:
    """Give a project configured for the CPU."""
    project = make_project()
    project.configure("cpu", *quick_pins)
    return project


@pytest.fixture(scope="module")
def started(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fault]:
    """Bring the stack up once, while the wall clock jumps a day ahead and three back; give what that was."""
    case = Fault("the wall clock jumps during a start", project, "compose")
    clock = FakeClock(tmp_path_factory.mktemp("clock"))
    with project.held() as hold, Command(project, *START, **clock.variables) as start:
        start.wait_for("engine: starting")
        clock.set_ahead(DAY_S)
        wait_until(lambda: project.inspect("redis")["State"]["Health"]["Status"] == "healthy" or None)
        clock.set_ahead(-2 * DAY_S)
        hold.unlink()
        ended = start.end()
    case.ends(ended, code=0, says=("dev is ready at",), left=RUNS)
    yield case
    run(project, "stop-environment", "dev", "--runtime=compose")


@pytest.fixture
def running(project: Project, started: Fault) -> Project:  # noqa: ARG001  # what it brings up
    """Give the project with its stack whole, whatever the test before has left of it."""
    if set(phases(project).values()) != {"healthy"}:
        assert run(project, *START).code == 0
    return project


def phases(project: Project) -> dict[str, str]:
    """Return the phase of each service as `status` tells it."""
    return {row["name"]: row["phase"] for row in json.loads(run(project, *STATUS).printed)["services"]}


def signal_processes(project: Project, service: str, number: signal.Signals) -> None:
    """Send a signal to everything in a container from outside, behind the engine's back."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to signal the processes of a container")
    for line in project.docker("top", project.container(service), "-eo", "pid").splitlines()[1:]:
        with contextlib.suppress(ProcessLookupError):  # ended with the first one
            os.kill(int(line), number)


def test_wall_clock_jumps_during_a_start(started: Fault) -> None:
    assert started.name


def test_port_is_taken_between_the_checks_and_the_gateway(running: Project, fault: MakeFault) -> None:
    running.docker("rm", "--force", running.container("gateway"))
    case = fault("another program takes the port after the checks", running)
    with Command(running, *START) as start:
        start.wait_for("gateway starts")
        with squatter(running.port):
            start.mark()
            ended = start.end()
    left = "runs: engine and redis, as before"
    case.ends(ended, code=6, says=(str(running.port), "--set GATEWAY_PORT=", "stays as it is"), left=left)
    assert run(running, *START).code == 0
    assert set(phases(running).values()) == {"healthy"}


def test_status_of_an_engine_that_does_not_answer_at_once(running: Project, tmp_path: Path) -> None:
    """A busy machine, or a container that goes between two questions: the first list fails, the next does not."""
    (tmp_path / "once").touch()
    program = tmp_path / "docker"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in "ps --all --quiet"*) rm {tmp_path}/once 2>/dev/null && exit 1 ;; esac\n'
        f'exec {shutil.which("docker")} "$@"\n'
    )
    program.chmod(0o755)
    asked = replace(running, variables={**running.variables, "PATH": f"{tmp_path}:{running.variables['PATH']}"})
    assert set(phases(asked).values()) == {"healthy"}
    assert not (tmp_path / "once").exists()


def test_gateway_crashes(running: Project, fault: MakeFault) -> None:
    case = fault("kill -9 of the gateway while clients ask", running)
    with clients(running) as traffic:
        traffic.wait_for(more=3)
        signal_processes(running, "gateway", signal.SIGKILL)
        since = time.monotonic()
        traffic.wait_for(more=10)
    wait_until(lambda: set(phases(running).values()) == {"healthy"} or None)
    assert running.inspect("gateway")["RestartCount"] == 1
    status = run(running, "status", "dev", "--runtime=compose")
    back = next(at for at, answer in traffic.answers if at > since and answer == 200)
    shown = replace(status, said=status.printed)
    case.ends(shown, code=0, says=("gateway",), left=f"runs: {traffic.words()}", seconds=back - since)


def test_redis_goes_away_while_clients_ask(running: Project, fault: MakeFault) -> None:
    case = fault("Redis is killed while clients ask", running)
    with clients(running) as traffic:
        traffic.wait_for(more=3)
        running.docker("kill", running.container("redis"))
        since = time.monotonic()
        traffic.wait_for(more=20)
        seconds = time.monotonic() - since
    assert traffic.failed == 0
    doctor = run(running, "doctor", "dev", "--runtime=compose")
    assert phases(running)["redis"] == "exited"
    assert "redis" in doctor.printed
    case.ends(doctor, code=7, left=f"runs: {traffic.words()}", seconds=seconds)
    assert run(running, *START).code == 0


def test_engine_becomes_unhealthy(running: Project, fault: MakeFault) -> None:
    case = fault("the engine stops answering after it was ready", running)
    signal_processes(running, "engine", signal.SIGSTOP)
    since = time.monotonic()
    wait_until(lambda: phases(running)["engine"] == "unhealthy" or None)
    seconds = time.monotonic() - since
    doctor = run(running, "doctor", "dev", "--runtime=compose")
    says = ("engine: the service runs, but does not answer its health checks",)
    case.ends(doctor, code=7, says=says, left="runs: engine unhealthy, until it goes on", seconds=seconds)
    signal_processes(running, "engine", signal.SIGCONT)
    wait_until(lambda: phases(running)["engine"] == "healthy" or None)
    assert running.complete()


def test_wrong_key(running: Project, fault: MakeFault) -> None:
    """The key file is written anew while the gateway runs with the old one: a start makes the two agree, or says
    why.
    """
    file = running.folder / "envs" / ".secrets" / "dev" / "litellm_master_key"
    old = file.read_text()
    assert [running.ask(key)[0] for key in (old.strip(), None, "sk-" + "0" * 64)] == [200, 401, 401]
    file.write_text("sk-" + "1234567890abcdef" * 4 + "\n")
    case = fault("the gateway's key file is written anew while it runs", running)
    ended = run(running, *START)
    case.ends(ended, code=0, says=("gateway restarts",), left=RUNS)
    assert [running.ask(key)[0] for key in (old.strip(), file.read_text().strip())] == [401, 200]


def test_files_from_the_future(running: Project, fault: MakeFault) -> None:
    """A clock that was set back leaves files that are younger than now."""
    case = fault("every rendered file is a year younger than now", running)
    for path in (running.folder / "compose").rglob("*"):
        os.utime(path, (time.time() + 365 * DAY_S,) * 2, follow_symlinks=False)
    ended = run(running, *START)
    case.ends(ended, code=0, says=("dev is ready at",), left=RUNS)


def test_stop_leaves_nothing(project: Project, started: Fault) -> None:
    stopped = run(project, "stop-environment", "dev", "--runtime=compose")
    assert stopped.code == 0
    names = ("litellm_master_key", "keys/litellm_master_key")
    started.leaves(changed=tuple(f"envs/.secrets/dev/{name}" for name in names))
