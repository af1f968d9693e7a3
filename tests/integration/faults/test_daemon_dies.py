"""The container engine dies while a start is under way, and comes back: an engine of the tests' own, as root."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import MakeFault
from tests.integration.faults.daemon import Daemon
from tests.integration.faults.left import find_left
from tests.integration.images import Images
from tests.integration.project import Project, wait_until

STAND_IN = "swtest/stand-in:1"


@pytest.fixture(scope="module")
def daemon(docker_host: str, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give an engine that has Redis and the place of an engine; the gateway's turn never comes."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to start a container engine")
    own = Daemon(tmp_path_factory.mktemp("engine"))
    try:
        own.start()
        own.take(images.redis, docker_host)
        own.build_stand_in(images.redis, STAND_IN)
        yield own
    finally:
        own.remove()


@pytest.fixture
def project(daemon: Daemon, images: Images, state_folder: Path, tmp_path: Path) -> Project:
    """Give a project whose engine container starts and never gets ready."""
    project = Project.new(tmp_path / "project", state_folder, daemon.host)
    images_here = [f"--set=VLLM_IMAGE={STAND_IN}", f"--set=LITELLM_IMAGE={STAND_IN}"]
    project.configure("cpu", *images_here, f"--set=REDIS_IMAGE={images.redis}")
    return project


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_daemon_dies_during_a_start(daemon: Daemon, project: Project, fault: MakeFault, how: signal.Signals) -> None:
    case = fault(f"the daemon is ended by {how.name} during a start", project)
    with Command(project, "start-environment", "dev", "--runtime=compose") as start:
        wait_until(lambda: project.remains("container"))
        start.wait_for("engine: starting")
        start.mark()
        daemon.end(how)
        ended = start.end()
    # Nobody can take a container down without the engine: that is said, and noted for the next command.
    note = "locks: compose/generated/dev/.command.json"
    says = ("daemon", "may still run: take it down with `stop-environment dev`", "start Docker")
    case.ends(ended, code=6, says=says, left=note, engine=False)
    daemon.start()
    case = fault("the daemon is back: stop-environment", project)
    ended = run(project, "stop-environment", "dev", "--runtime=compose")
    case.ends(ended, code=0, says=("was interrupted", "stopped gateway, engine"))
    assert str(find_left(project)) == "nothing"
