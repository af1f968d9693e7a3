"""The multimodal worker in Docker Compose: a picture is described, a PDF file's pages come, a stop leaves the data.

Its real image and real LiteLLM; the engine answers at once. The tests share one stack and run in the order written.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.multimodal.clients import client_of
from tests.integration.multimodal.eyes import write_eyes
from tests.integration.project import Project, free_port
from tests.multimodal.client import Client
from tests.multimodal.files import write_bomb, write_pdf, write_picture
from tests.toy_engine.server import WORDS

RUNTIME = "--runtime=compose"
DESCRIBED = "".join(WORDS).strip()


@pytest.fixture(scope="module")
def project(make_project: MakeProject, images: Images, quick_pins: list[str]) -> Project:
    """Give a running stack with a vision model and the worker."""
    made = make_project()
    own = {
        "MULTIMODAL_IMAGE": images.multimodal,
        "MULTIMODAL_PORT": str(free_port()),
        "DATA_HOME": str(made.folder / "data"),
    }
    pins = [*made.pins, *quick_pins, *(f"--set={key}={value}" for key, value in own.items())]
    eyes = f"--model={write_eyes(made.folder / 'eyes')}"
    done = made.command("start-environment", "dev", RUNTIME, "--with=multimodal", eyes, *pins)
    assert done.returncode == 0, done.stderr + made.logs()
    assert "multimodal: asked to read a picture" in done.stderr
    return made


@pytest.fixture(scope="module")
def anna(project: Project) -> Client:
    """Give a client with a key of its own."""
    return client_of(project, "anna")


def test_a_picture_is_described(anna: Client, tmp_path: Path) -> None:
    result = anna.done(write_picture(tmp_path / "a.png"), {"captions": True, "thumbnails": True})
    assert result["text"] == DESCRIBED
    assert (result["media"]["width"], result["media"]["height"]) == (120, 80)
    assert {"thumbnail.jpg", "preview.jpg"} == {file["name"] for file in result["files"]}


def test_the_pages_of_a_pdf_file_come(anna: Client, tmp_path: Path) -> None:
    result = anna.done(write_pdf(tmp_path / "a.pdf", pages=3), {"pages": 2})
    assert result["text"] == "This is page 1\nThis is page 2\nThis is page 3"
    names = [file["name"] for file in result["files"]]
    assert names == ["page-0001.jpg", "page-0002.jpg"]


def test_a_bomb_costs_its_own_job(anna: Client, tmp_path: Path) -> None:
    job = anna.ended(anna.submit(write_bomb(tmp_path / "a.png")).document["id"])
    assert (job["state"], job["error"]) == ("failed", "it has 60000 × 60000 pixels; 50000000 are allowed")


def test_it_is_healthy_and_published_on_loopback_alone(project: Project) -> None:
    told = json.loads(project.command("status", "dev", RUNTIME, "--json").stdout)
    assert {each["name"]: each["phase"] for each in told["services"]}["multimodal"] == "healthy"
    bindings = project.inspect("multimodal")["HostConfig"]["PortBindings"].values()
    assert {each["HostIp"] for binding in bindings for each in binding} == {"127.0.0.1"}


def test_its_jobs_are_there_after_it_was_killed(project: Project, anna: Client) -> None:
    before = anna.ask("GET", "/v1/jobs").document["jobs"]
    assert len(before) == 3
    project.docker("kill", project.container("multimodal"))
    project.docker("start", project.container("multimodal"))
    assert anna.until_up()
    assert anna.ask("GET", "/v1/jobs").document["jobs"] == before


def test_a_stop_leaves_the_data_and_the_name_of_their_volume(project: Project) -> None:
    project.stop()
    assert project.remains("container") == project.remains("network") == []
    assert project.remains("volume") == [f"{project.name}_multimodal"]
    assert list((project.folder / "data").rglob("jobs.sqlite"))
