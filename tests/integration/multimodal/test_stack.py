"""The multimodal worker in a stack of processes: speech is heard by a real model, and kept through a restart.

Real LiteLLM; the engine answers at once. The tests share one stack and run in the order written.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.runtime.provision import ensure_all
from stackwright.services import gateway, multimodal

from tests.integration.multimodal.clients import client_of
from tests.integration.multimodal.speech import say, speech_model
from tests.integration.project import Project, free_port, make_variables
from tests.integration.quick_engine.layout import make_state
from tests.multimodal.client import Client
from tests.multimodal.files import write_picture

NO_DOCKER = "unix:///nonexistent/docker.sock"
RUNTIME = "--runtime=processes"


@pytest.fixture(scope="module")
def state(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a state folder of its own with real LiteLLM, the worker's libraries and a quick engine."""
    state = tmp_path_factory.mktemp("multimodal-state")
    made = ensure_all(state_folder, {row.name: row for row in (gateway.RECIPE, multimodal.RECIPE)}, lambda *_: None)
    make_state(state, made["gateway"])
    (state / "venvs" / made["multimodal"].name).symlink_to(made["multimodal"])
    return state


@pytest.fixture(scope="module")
def project(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Give a project whose stack has the worker, and stop it in the end."""
    folder = tmp_path_factory.mktemp("project")
    made = Project(folder=folder, variables=make_variables(NO_DOCKER, state, folder / "caches"), port=free_port())
    settings = {
        "MULTIMODAL_PORT": str(free_port()),
        "MULTIMODAL_SPEECH_MODEL": str(speech_model()),
        "DATA_HOME": str(folder / "data"),
    }
    pins = [*made.pins, *(f"--set={key}={value}" for key, value in settings.items())]
    done = made.command("start-environment", "dev", RUNTIME, "--with", "multimodal", *pins)
    assert done.returncode == 0, done.stderr
    assert "multimodal: asked to read a picture" in done.stderr
    yield made
    made.command("stop-environment", "dev", RUNTIME)


@pytest.fixture(scope="module")
def anna(project: Project) -> Client:
    """Give a client with a key of its own."""
    return client_of(project, "anna")


def test_speech_is_stored_and_found_by_a_word(anna: Client, tmp_path: Path) -> None:
    spoken = say("The meeting is about the elephant. The answer is forty two.", tmp_path / "a.wav")
    result = anna.done(spoken, {"transcript": True})

    assert "elephant" in result["text"].lower()
    (segment, *_) = result["segments"]
    assert 0 <= segment["start_s"] < segment["end_s"] <= result["media"]["duration_s"] + 0.5
    assert result["left_out"] == []


def test_one_key_never_sees_anothers_jobs(project: Project, anna: Client, tmp_path: Path) -> None:
    job_id = anna.submit(write_picture(tmp_path / "a.png"), ["thumbnails"]).document["id"]
    other = client_of(project, "ben")

    assert anna.ended(job_id)["state"] == "done"
    assert other.ask("GET", f"/v1/jobs/{job_id}").status == 404
    assert other.ask("GET", f"/v1/jobs/{job_id}/files/thumbnail.jpg").status == 404
    assert other.ask("GET", "/v1/jobs").document == {"jobs": []}


def test_a_killed_service_comes_back_with_every_job(project: Project, anna: Client) -> None:
    before = [job["id"] for job in anna.ask("GET", "/v1/jobs").document["jobs"]]
    found = [path for path in Path("/proc").glob("[0-9]*/environ") if is_of(path, project)]
    (server,) = [int(path.parent.name) for path in found if b"multimodal.serve" in cmdline(path)]
    os.kill(server, signal.SIGKILL)

    assert anna.until_up()
    assert [job["id"] for job in anna.ask("GET", "/v1/jobs").document["jobs"]] == before
    status = project.command("status", "dev", RUNTIME)
    assert "multimodal" in status.stdout + status.stderr


def is_of(environ: Path, project: Project) -> bool:
    """Return whether a process runs for this project's stack."""
    try:
        return f"STACKWRIGHT_STACK={project.name}".encode() in environ.read_bytes()
    except OSError:
        return False


def cmdline(environ: Path) -> bytes:
    """Return a process's words."""
    try:
        return environ.with_name("cmdline").read_bytes()
    except OSError:
        return b""
