"""One environment takes another's place, in the processes runtime with the quick engine and gateway.

The tests share one project folder in which dev is started once, and run in the order written.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.project import Project
from tests.integration.quick_engine.gateway import make_gateway
from tests.integration.quick_engine.layout import make_engine


class Two(Project, frozen=True, kw_only=True):
    """A project folder with two environments, which publish one port."""

    def start(self, environment: str, *words: str) -> subprocess.CompletedProcess[str]:  # type: ignore[override]
        """Start one of them."""
        pins = (f"--set=COMPOSE_PROJECT_NAME={self.name}-{environment}", f"--set=GATEWAY_PORT={self.port}")
        return self.command("start-environment", environment, "--runtime=processes", *pins, *words)

    def runs(self, environment: str) -> bool:
        """Return whether any service of an environment is up."""
        told = self.command("status", environment, "--runtime=processes").stdout
        return "healthy" in told


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Give a folder in which dev runs."""
    folder = tmp_path_factory.mktemp("project")
    state = tmp_path_factory.mktemp("state")
    make_engine(state)
    make_gateway(state)
    two = Two.new(folder, state)
    try:
        done = two.start("dev")
        assert done.returncode == 0, done.stderr
        yield two
    finally:
        for environment in ("dev", "prod"):
            two.command("stop-environment", environment, "--runtime=processes", "--now")


def test_a_start_beside_it_names_it_and_the_way_out(project: Two) -> None:
    """Not its process: nobody is told to kill our own engine."""
    done = project.start("prod")
    assert done.returncode == 5, done.stderr
    assert f"127.0.0.1:{project.port}: dev runs and listens there" in done.stderr
    assert "start-environment prod --replace dev" in done.stderr
    assert "kill" not in done.stderr
    assert project.runs("dev")


def test_what_is_found_wrong_first_touches_nothing(project: Two) -> None:
    done = project.start("prod", "--replace=dev", "--set=GATEWAY_BIND=192.0.2.1")
    assert done.returncode == 5, done.stderr
    assert "stopped" not in done.stderr
    assert project.runs("dev")


def test_what_fails_later_names_the_way_back(project: Two) -> None:
    """The engine refuses the model's architecture only when it loads it."""
    from stackwright.models.smoke_model import write_smoke_model

    model = project.folder / "broken"
    write_smoke_model(model)
    config = model / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("Qwen2ForCausalLM", "Qwen3ForCausalLM"), "utf-8")
    done = project.start("prod", "--replace=dev", "--set=GATEWAY_BIND=127.0.0.1", f"--model={model}")
    assert done.returncode == 7, done.stderr
    assert "dev was stopped for it; to start dev again: `" in done.stderr
    assert not project.runs("dev")
    back = done.stderr.rpartition("to start dev again: `")[2].partition("`")[0]
    done = project.run(["bash", "-c", f"{back} --runtime processes"])
    assert done.returncode == 0, done.stderr
    assert project.runs("dev")


def test_it_takes_the_place(project: Two) -> None:
    done = project.start("prod", "--replace=dev", "--unset=model")
    assert done.returncode == 0, done.stderr
    assert "dev: stopped " in done.stderr
    assert (project.runs("dev"), project.runs("prod")) == (False, True)


def test_what_does_not_run_is_no_hindrance(project: Two) -> None:
    done = project.start("prod", "--replace=dev")
    assert done.returncode == 0, done.stderr
    assert "dev: nothing was running" in done.stderr


def test_itself_is_refused(project: Two) -> None:
    done = project.start("prod", "--replace=prod")
    assert done.returncode == 2
    assert "--replace prod: the environment that is to be started" in done.stderr
