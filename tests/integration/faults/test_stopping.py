"""A stack of processes is stopped: with open requests, under a frozen supervisor, and without its files.

Under supervisor with the real gateway, and a quick engine in vLLM's place.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stackwright.runtime.process_groups import programs_with
from stackwright.watching.probe import Endpoint, count_open_requests

from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import MakeFault
from tests.integration.project import Project, wait_until

START = ("start-environment", "dev", "--runtime=processes")
STOP = ("stop-environment", "dev")
STATUS = ("status", "dev")
OPEN = 3


@pytest.fixture
def running(make_quick_project: Callable[..., Project]) -> Project:
    """Give a project whose stack runs."""
    project = make_quick_project()
    project.configure("cpu")
    assert run(project, *START).code == 0
    return project


def supervisor_of(project: Project) -> int:
    """Return the process id of a project's supervisord."""
    folder = Path(project.variables["STACKWRIGHT_STATE"]) / "run" / project.name
    (supervisor,) = programs_with(str(folder / "supervisord.conf"))
    return supervisor


def test_supervisor_is_frozen(running: Project, fault: MakeFault) -> None:
    case = fault("supervisord is frozen: status, then stop-environment", running, "processes")
    os.kill(supervisor_of(running), signal.SIGSTOP)
    seen = run(running, *STATUS)
    assert seen.code == 0
    services = seen.printed.partition("services\n")[2].partition("\n\n")[0]
    names = [line for line in services.splitlines() if not line.startswith("     ")]
    assert len(names) >= 2
    assert services.count("still runs, but its supervisor does not answer") == len(names)
    case.ends(run(running, *STOP), code=0, says=("dev: stopped gateway, engine",), engine=False)


def test_files_are_gone(running: Project, fault: MakeFault) -> None:
    os.kill(supervisor_of(running), signal.SIGSTOP)
    shutil.rmtree(running.folder / "compose/generated")
    (running.folder / "envs/.env.dev").unlink()
    case = fault("supervisord is frozen and the rendered files are gone: stop-environment", running, "processes")
    case.ends(run(running, *STOP), code=0, says=(f"dev: stopped {running.name}",), engine=False)
    again = run(running, *STOP)
    assert again.code == 5
    assert "dev is not configured" in again.said


def test_requests_are_open(running: Project, fault: MakeFault) -> None:
    case = fault("stop-environment with open requests that end in time", running, "processes")
    key = running.secrets["litellm_master_key"]
    endpoint = Endpoint(bind="127.0.0.1", port=running.port)
    with ThreadPoolExecutor(OPEN) as clients, running.unanswered() as hold:
        asked = [clients.submit(running.ask, key) for _ in range(OPEN)]
        wait_until(lambda: count_open_requests(endpoint, key) == OPEN or None)
        with Command(running, *STOP) as command:
            command.wait_for(f"draining: {OPEN} requests open, up to 30 s")
            hold.unlink()
            ended = command.end()
        assert [answer.result()[0] for answer in asked] == [200] * OPEN
    case.ends(ended, code=0, says=("dev: stopped",), engine=False)
