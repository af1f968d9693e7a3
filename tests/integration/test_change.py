"""Changes to a running stack under real Docker Compose: what restarts, what comes back.

A quick engine has vLLM's place. The tests of the module share one stack and run in the order written.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.project import CHECKOUT, Project, write_local

SERVICES = ("engine", "redis", "gateway")


@pytest.fixture(scope="module")
def project(make_project: MakeProject, quick_pins: list[str]) -> Project:
    """Give a project that is configured for the CPU and runs."""
    project = make_project()
    project.configure("cpu", *quick_pins)
    project.start()
    return project


def containers(project: Project, services: tuple[str, ...] = SERVICES) -> dict[str, str]:
    """Return the id of each service's container and when it began."""
    found = {name: project.inspect(name) for name in services}
    return {name: f"{container['Id']} {container['State']['StartedAt']}" for name, container in found.items()}


def changed(project: Project, before: dict[str, str]) -> list[str]:
    """Name the services that are no longer the same run of the same container."""
    after = containers(project, tuple(before))
    return [name for name in before if after[name] != before[name]]


def rendered(project: Project) -> dict[str, bytes]:
    """Return the files of the development environment, the person's own among them."""
    files = [*(project.folder / "envs").glob(".env.*"), *(project.folder / "compose/generated/dev").glob("*.*")]
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def status(project: Project) -> dict[str, object]:
    """Return what `stackwright status` says."""
    told: dict[str, object] = json.loads(project.command("status", "dev", "--json").stdout)
    return told


@contextmanager
def clients(project: Project) -> Iterator[list[int]]:
    """Keep asking for completions beside a block; give the statuses of the answers."""
    statuses: list[int] = []
    ended = threading.Event()
    key = project.secrets["litellm_master_key"]

    def ask() -> None:
        while not ended.wait(0.2):
            statuses.append(project.ask(key)[0])

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield statuses
    finally:
        ended.set()
        client.join()


def test_a_start_without_a_change_restarts_nothing(project: Project) -> None:
    before = containers(project)
    done = project.command("start-environment", "dev")
    assert done.returncode == 0, done.stderr
    assert "nothing to change: no service restarts" in done.stderr
    assert changed(project, before) == []


def test_a_change_restarts_the_service_that_it_is_for(project: Project, quick_pins: list[str]) -> None:
    before = containers(project)
    words = [*project.pins, *quick_pins, "--set=GATEWAY_COOLDOWN_S=7"]
    done = project.command("start-environment", "dev", *words)
    assert done.returncode == 0, done.stderr
    assert "gateway restarts: its settings have changed\n  changed since generation 1: GATEWAY_COOLDOWN_S=5 → 7" in (
        done.stderr
    )
    assert changed(project, before) == ["gateway"]
    assert status(project)["generation"] == 2


def test_a_change_that_fails_is_taken_back(project: Project, images: Images) -> None:
    """An image that is no engine: its container ends at once."""
    local = write_local(project, f"VLLM_IMAGE={images.redis}\n")
    before, files = containers(project), rendered(project)
    done = project.command("start-environment", "dev")
    assert done.returncode == 7, done.stderr
    assert "; generation 2, which ran before, runs again\n" in done.stderr
    assert changed(project, before) == ["engine"]
    assert rendered(project) == files
    assert project.complete()
    assert status(project)["generation"] == 2
    local.unlink()


@pytest.mark.usefixtures("gpu_requests")
def test_of_two_replicas_one_always_answers(
    make_project: MakeProject, quick_pins: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = build_fake_nvml(tmp_path_factory.mktemp("nvml"))
    project = make_project(**environment(library, CHECKOUT / "tests" / "hosts" / "2x-rtx3090-pcie" / "nvml.txt"))
    words = ["--model=smoke", *quick_pins]
    project.configure("auto", "--objective=throughput", *words)
    project.start()
    services = ("engine", "engine-2", "redis", "gateway")
    before = containers(project, services)
    # Of no concern to the gateway, whose limits follow from much else that an engine is told.
    with clients(project) as statuses:
        command = [sys.executable, "-m", "stackwright", "start-environment", "dev", "--objective=throughput"]
        done = project.run([*command, *words, *project.pins, "--set=VLLM_SHM_SIZE=3gb", f"--out={project.folder}"])
    assert done.returncode == 0, done.stderr
    assert changed(project, before) == ["engine", "engine-2"]
    assert set(statuses) == {200}, statuses
    project.stop()
