"""What befalls a stack that runs, under Docker Compose. The tests share one stack and run in the order written."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

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
def project(make_project: MakeProject, pins: list[str]) -> Project:
    """Give a project configured for the CPU."""
    project = make_project()
    project.configure("cpu", *pins)
    return project


@pytest.fixture(scope="module")
def started(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fault]:
    """Bring the stack up once, while the wall clock jumps a day ahead and three back; give what that was."""
    case = Fault("the wall clock jumps during a start", project, "compose")
    clock = FakeClock(tmp_path_factory.mktemp("clock"))
    with Command(project, *START, **clock.variables) as start:
        start.wait_for("engine: starting")
        clock.set_ahead(DAY_S)
        wait_until(lambda: project.inspect("redis")["State"]["Health"]["Status"] == "healthy" or None)
        clock.set_ahead(-2 * DAY_S)
        ended = start.end()
    case.ends(ended, code=0, says=("dev is ready at",), left=RUNS)
    yield case
    run(project, "stop-environment", "dev", "--runtime=compose")


def phases(project: Project) -> dict[str, str]:
    """Return the phase of each service as `status` tells it."""
    return {row["name"]: row["phase"] for row in json.loads(run(project, *STATUS).printed)["services"]}


def signal_first_process(project: Project, service: str, number: signal.Signals) -> None:
    """Send a signal to everything in a container from outside, behind the engine's back."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to signal the processes of a container")
    for line in project.docker("top", project.container(service), "-eo", "pid").splitlines()[1:]:
        os.kill(int(line), number)


def test_wall_clock_jumps_during_a_start(started: Fault) -> None:
    assert started.name


def test_port_is_taken_between_the_checks_and_the_gateway(project: Project, started: Fault, fault: MakeFault) -> None:  # noqa: ARG001
    project.docker("rm", "--force", project.container("gateway"))
    case = fault("another program takes the port after the checks", project)
    with Command(project, *START) as start:
        start.wait_for("gateway starts")
        with squatter(project.port):
            start.mark()
            ended = start.end()
    left = "runs: engine and redis, as before"
    case.ends(ended, code=6, says=(str(project.port), "--set GATEWAY_PORT=", "left as it is"), left=left)
    assert run(project, *START).code == 0
    assert set(phases(project).values()) == {"healthy"}


def test_gateway_crashes(project: Project, started: Fault, fault: MakeFault) -> None:  # noqa: ARG001
    case = fault("kill -9 of the gateway while clients ask", project)
    with clients(project) as traffic:
        traffic.wait_for(more=3)
        signal_first_process(project, "gateway", signal.SIGKILL)
        since = time.monotonic()
        traffic.wait_for(more=10)
    wait_until(lambda: set(phases(project).values()) == {"healthy"} or None)
    assert project.inspect("gateway")["RestartCount"] == 1
    status = run(project, "status", "dev", "--runtime=compose")
    back = next(at for at, answer in traffic.answers if at > since and answer == 200)
    case.ends(status, code=0, says=("gateway",), left=f"runs: {traffic.words()}", seconds=back - since)


def test_redis_goes_away_while_clients_ask(project: Project, started: Fault, fault: MakeFault) -> None:  # noqa: ARG001
    case = fault("Redis is killed while clients ask", project)
    with clients(project) as traffic:
        traffic.wait_for(more=3)
        project.docker("kill", project.container("redis"))
        since = time.monotonic()
        traffic.wait_for(more=20)
        seconds = time.monotonic() - since
    assert traffic.failed == 0
    doctor = run(project, "doctor", "dev", "--runtime=compose")
    assert phases(project)["redis"] == "exited"
    assert "redis" in doctor.printed
    case.ends(doctor, code=7, left=f"runs: {traffic.words()}", seconds=seconds)
    assert run(project, *START).code == 0


def test_engine_becomes_unhealthy(project: Project, started: Fault, fault: MakeFault) -> None:  # noqa: ARG001
    case = fault("the engine stops answering after it was ready", project)
    signal_first_process(project, "engine", signal.SIGSTOP)
    since = time.monotonic()
    wait_until(lambda: phases(project)["engine"] == "unhealthy" or None)
    seconds = time.monotonic() - since
    doctor = run(project, "doctor", "dev", "--runtime=compose")
    assert "engine" in doctor.printed
    case.ends(doctor, code=7, left="runs: engine unhealthy, until it goes on", seconds=seconds)
    signal_first_process(project, "engine", signal.SIGCONT)
    wait_until(lambda: phases(project)["engine"] == "healthy" or None)
    assert project.complete()


def test_wrong_key(project: Project, started: Fault, fault: MakeFault) -> None:  # noqa: ARG001
    """The key file is written anew while the gateway runs with the old one: a start makes the two agree, or says why."""
    file = project.folder / "envs" / ".secrets" / "dev" / "litellm_master_key"
    old = file.read_text()
    assert [project.ask(key)[0] for key in (old.strip(), None, "sk-" + "0" * 64)] == [200, 401, 401]
    file.write_text("sk-" + "1234567890abcdef" * 4 + "\n")
    case = fault("the gateway's key file is written anew while it runs", project)
    ended = run(project, *START)
    case.ends(ended, code=0, says=("gateway restarts",), left=RUNS)
    assert [project.ask(key)[0] for key in (old.strip(), file.read_text().strip())] == [401, 200]


def test_files_from_the_future(project: Project, started: Fault, fault: MakeFault) -> None:  # noqa: ARG001
    """A clock that was set back leaves files that are younger than now."""
    case = fault("every rendered file is a year younger than now", project)
    for path in (project.folder / "compose").rglob("*"):
        os.utime(path, (time.time() + 365 * DAY_S,) * 2, follow_symlinks=False)
    ended = run(project, *START)
    case.ends(ended, code=0, says=("dev is ready at",), left=RUNS)


def test_stop_leaves_nothing(project: Project, started: Fault) -> None:
    stopped = run(project, "stop-environment", "dev", "--runtime=compose")
    assert stopped.code == 0
    started.leaves(changed=("envs/.secrets/dev/litellm_master_key",))
