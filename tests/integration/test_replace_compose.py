"""One environment takes another's place under Docker Compose, with the real gateway and the quick engine's image.

The tests share one project folder in which dev is started once, and run in the order written.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.project import Project, free_port, make_variables


class Two(Project, frozen=True, kw_only=True):
    """A project folder with two environments, which publish one port. `images`: what stands in for the official."""

    images: tuple[str, ...]

    def start(self, environment: str, *words: str) -> subprocess.CompletedProcess[str]:  # type: ignore[override]
        """Start one of them."""
        own = (f"--set=COMPOSE_PROJECT_NAME={self.name}-{environment}", f"--set=GATEWAY_PORT={self.port}")
        command = ("start-environment", environment, "--runtime=compose", *own, *self.images, *words)
        return self.command(*command)

    def of(self, environment: str) -> Project:
        """Return what one of them has of the container engine."""
        return Project(folder=self.folder, variables=self.variables, port=self.port, name=f"{self.name}-{environment}")


@pytest.fixture(scope="module")
def project(
    docker_host: str, state_folder: Path, quick_pins: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Two]:
    """Give a folder in which dev runs."""
    folder = tmp_path_factory.mktemp("project")
    variables = make_variables(docker_host, state_folder, folder / "caches")
    two = Two(folder=folder, variables=variables, port=free_port(), images=tuple(quick_pins))
    try:
        done = two.start("dev")
        assert done.returncode == 0, done.stderr + two.of("dev").logs()
        yield two
    finally:
        for environment in ("dev", "prod"):
            two.of(environment).remove()


def test_a_start_beside_it_names_it_and_the_way_out(project: Two) -> None:
    done = project.start("prod")
    assert done.returncode == 5, done.stderr
    assert f"127.0.0.1:{project.port}: dev runs and listens there" in done.stderr
    assert "start-environment prod --replace dev" in done.stderr
    assert project.of("dev").complete()
    assert project.of("prod").remains("container") == []


def test_it_takes_the_place(project: Two) -> None:
    before = set(project.of("dev").remains("container"))
    done = project.start("prod", "--replace=dev")
    assert done.returncode == 0, done.stderr + project.of("prod").logs()
    assert "dev: stopped " in done.stderr
    assert before
    assert project.of("dev").remains("container") == project.of("dev").remains("network") == []
    assert len(project.of("prod").remains("container")) == len(before)
    key = project.command("key", "prod").stdout.strip()
    status, body = project.ask(key)
    assert status == 200, body


def test_what_does_not_run_is_no_hindrance(project: Two) -> None:
    done = project.start("prod", "--replace=dev")
    assert done.returncode == 0, done.stderr
    assert "dev: nothing was running" in done.stderr
