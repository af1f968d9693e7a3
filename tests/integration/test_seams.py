"""The seams of engines and services: a toy of each, registered by one value, goes through every stage in both runtimes.

The gateway between them is the real one. The tests of a runtime share one stack and run in the order written.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE

from tests.integration.conftest import MakeProject
from tests.integration.faults.left import find_left
from tests.integration.images import Images, build_environment, make_base, tag_of
from tests.integration.project import CHECKOUT, Project, free_port
from tests.toy_engine.engine import WHEELS
from tests.wheels import make_wheel

SERVER = CHECKOUT / "tests" / "toy_engine" / "server.py"
SERVICES = ["engine", "redis", "gateway", "toybox"]
# More than it can: its own rule names the failure.
BROKEN = "--set=TOY_CONTEXT=4096"


class ToyProject(Project, frozen=True):
    """A project folder under the command of somebody who has both toys."""

    runtime: ClassVar[str] = "compose"

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command with the toys registered."""
        return self.run([sys.executable, "-m", "tests.integration.toys", *words, f"--out={self.folder}"])

    def does(self, *words: str) -> str:
        """Run a command that is to succeed, and return all that it says."""
        done = self.command(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


class ToyProcesses(ToyProject, frozen=True):
    """The same without containers."""

    runtime: ClassVar[str] = "processes"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the toy's wheel, which its recipe installs."""
    folder = tmp_path_factory.mktemp("wheels")
    program = "#!python\nfrom toy_engine import main\nmain()\n"
    files = {"toy_engine.py": SERVER.read_text(), "toy_engine-1.0.data/scripts/toy-engine": program}
    make_wheel(folder, "toy_engine", files)
    return folder


@pytest.fixture(scope="module")
def toy_image(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give an image that holds the toy's server alone."""
    context, base = tmp_path_factory.mktemp("image"), make_base(docker_host) or "python:3.11-slim"
    shutil.copy(SERVER, context / "toy-engine")
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY toy-engine /usr/local/bin/toy-engine\n")
    tag = tag_of("toy-engine", base, SERVER.read_text())
    command: list[str | Path] = ["docker", "build", "--quiet", "--tag", tag, context]
    subprocess.run(command, check=True, capture_output=True, env=build_environment(docker_host))
    return tag


@pytest.fixture(scope="module")
def state(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a state folder with the gateway's packages; the toy's are installed there."""
    state, gateway = tmp_path_factory.mktemp("toy-state"), ensure(state_folder, RECIPE, lambda *_: None)
    (state / "venvs").mkdir()
    (state / "venvs" / gateway.name).symlink_to(gateway)
    return state


@pytest.fixture(scope="module", params=[ToyProject, ToyProcesses], ids=lambda kind: kind.runtime)
def project(
    request: pytest.FixtureRequest, make_project: MakeProject, images: Images, toy_image: str, wheels: Path, state: Path
) -> Iterator[ToyProject]:
    """Give a project whose plan is the toy's, with images that are here."""
    kind: type[ToyProject] = request.param
    plain = make_project(**{WHEELS: str(wheels), "STACKWRIGHT_STATE": str(state)})
    toy = kind(folder=plain.folder, variables=plain.variables, port=plain.port, name=plain.name)
    images_here = {"TOY": toy_image, "LITELLM": images.gateway, "REDIS": images.redis, "TOYBOX": images.gateway}
    pins = [f"{name}_IMAGE={image}" for name, image in images_here.items()]
    pins.append(f"TOYBOX_PORT={free_port()}")
    configured = ("--engine=toy", "--model=smoke", "--with=toybox", *toy.pins, *(f"--set={pin}" for pin in pins))
    toy.does("configure-gpu", "cpu", "--env=dev", *configured, BROKEN)
    yield toy
    toy.does("stop-environment", "dev", f"--runtime={toy.runtime}")
    # A volume is only the name of a folder, which outlives every stop.
    volume = f"{toy.name}_toys"
    assert str(find_left(toy)) == (f"volumes: {volume}" if toy.runtime == "compose" else "nothing")
    if toy.runtime == "compose":
        subprocess.run(["docker", "volume", "rm", volume], check=True, capture_output=True, env=toy.variables)


def test_it_is_planned_and_written_and_passes_every_check(project: ToyProject) -> None:
    plan = json.loads((project.folder / "compose/generated/dev/plan.json").read_text())
    assert (plan["engine"]["name"], plan["replicas"][0]["args"][0]) == ("toy", "--model")
    assert not [
        line for line in (project.folder / "envs/.env.dev").read_text().splitlines() if line.startswith("VLLM_")
    ]
    project.does("validate-environment", "dev", f"--runtime={project.runtime}")


def test_what_breaks_it_is_named_by_its_own_rule(project: ToyProject) -> None:
    failed = project.command("start-environment", "dev", f"--runtime={project.runtime}")
    assert (failed.returncode, "the spring of smoke is broken" in failed.stderr) == (7, True), failed.stderr
    assert "configure-gpu dev --set TOY_CONTEXT=256" in failed.stderr
    named = json.loads(project.command("doctor", "dev", f"--runtime={project.runtime}", "--json").stdout)
    assert named["environments"][0]["failures"][0]["rule"] == "toy-broken"


def test_the_doctor_mends_it_and_it_answers_through_the_gateway(project: ToyProject) -> None:
    project.does("doctor", "dev", f"--runtime={project.runtime}", "--apply")
    said = project.does("start-environment", "dev", f"--runtime={project.runtime}")
    assert "engine: healthy" in said
    assert project.complete() == "Toys answer too."


def test_the_addition_has_its_page_its_key_and_data_that_a_stop_leaves(project: ToyProject) -> None:
    settings = json.loads((project.folder / "compose/generated/dev/plan.json").read_text())["settings"]
    kept = Path(settings["DATA_HOME"]["value"], "toys", "bear.txt")
    kept.write_text("still here")
    said = project.does("open", "dev")
    url = f"http://127.0.0.1:{settings['TOYBOX_PORT']['value']}/"
    assert f"Toys: {url}" in said
    project.does("stop-environment", "dev", f"--runtime={project.runtime}")
    started = project.does("start-environment", "dev", f"--runtime={project.runtime}")
    assert "toybox: answered" in started
    with urllib.request.urlopen(f"{url}bear.txt", timeout=10) as answer:
        assert answer.read() == b"still here"
    key = (project.folder / "envs/.secrets/dev/toybox_gateway_key").read_text()
    request = urllib.request.Request(
        f"http://127.0.0.1:{project.port}/v1/models", headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "smoke" in answer.read().decode()


def test_status_lists_the_toy_service(project: ToyProject) -> None:
    told = json.loads(project.command("status", "dev", f"--runtime={project.runtime}", "--json").stdout)
    assert {each["name"]: each["phase"] for each in told["services"]} == dict.fromkeys(SERVICES, "healthy")
