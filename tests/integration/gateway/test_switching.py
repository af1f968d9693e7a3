"""Two models that take turns, brought up by each runtime: real engines on the processor, gateway and Redis.

One start of each runtime: a start has asked both models by itself, which is one switch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from generator.smoke_model import SENTENCE, write_smoke_model
from tests.integration.conftest import MakeProject
from tests.integration.gateway.exchange import Answer, chat, exchange
from tests.integration.images import Images
from tests.integration.project import CHECKOUT, Project, free_port, make_variables, wait_until

MODELS = """\
models:
  - {{name: {0}/other, exclusive: chat}}
  - {{name: {0}/usual, exclusive: chat, pinned: true, aliases: [gpt-4o]}}
"""
# As short as makes sense here: each switch takes the time of a start.
RESIDENCE = "--set=SWITCH_MIN_RESIDENCE_S=2"


def lay_out(project: Project) -> None:
    """Write two small models and the wish to serve them in turns."""
    for name in ("usual", "other"):
        write_smoke_model(project.folder / "models" / name)
    wishes = (CHECKOUT / "envs" / "dev.yaml").read_text(encoding="utf-8")
    (project.folder / "envs").mkdir()
    models = MODELS.format(project.folder / "models")
    (project.folder / "envs" / "dev.yaml").write_text(wishes + models, encoding="utf-8")


@contextmanager
def started(project: Project, runtime: str, *pins: str) -> Iterator[str]:
    """Bring the two models up, give what the start has told, and take them down."""
    lay_out(project)
    project.configure("cpu", RESIDENCE, *pins)
    done = project.command("start-environment", "dev", f"--runtime={runtime}")
    try:
        assert done.returncode == 0, done.stderr + done.stdout
        yield done.stderr
    finally:
        project.command("stop-environment", "dev", f"--runtime={runtime}")


def loaded(project: Project, runtime: str) -> str:
    """Return what `stackwright status` tells of the engine."""
    done = project.command("status", "dev", f"--runtime={runtime}", "--json")
    assert done.returncode == 0, done.stderr
    return next(str(each["detail"]) for each in json.loads(done.stdout)["services"] if each["name"] == "engine")


def check_turns(project: Project, runtime: str, told: str) -> None:
    """Ask for both models at once: each is answered, and the pinned one comes back by itself."""
    assert "asked for a completion of usual" in told
    assert told.index("a completion of usual") < told.index("a completion of other")
    wait_until(lambda: "usual is loaded" in loaded(project, runtime))
    key = project.secrets["litellm_master_key"]
    asked = ("usual", "other", "gpt-4o", "other")

    async def ask_all() -> list[Answer]:
        return await asyncio.gather(*(exchange(project.port, chat(key, model=model)) for model in asked))

    answers = asyncio.run(ask_all())
    assert [(answer.status, answer.body[:200]) for answer in answers if answer.status != 200] == []
    words = [json.loads(answer.body)["choices"][0]["message"]["content"] for answer in answers]
    assert all(SENTENCE.startswith(each.strip()) for each in words), words
    done = project.command("validate-environment", "dev", f"--runtime={runtime}")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: "usual is loaded" in loaded(project, runtime))


def test_models_take_turns_in_containers(make_project: MakeProject, images: Images) -> None:
    project = make_project()
    given = {"VLLM_IMAGE": images.engine, "LITELLM_IMAGE": images.gateway, "REDIS_IMAGE": images.redis}
    with started(project, "compose", *(f"--set={key}={image}" for key, image in given.items())) as told:
        check_turns(project, "compose", told)


def test_models_take_turns_as_processes(state_folder: Path, tmp_path: Path) -> None:
    variables = make_variables("unix:///nonexistent/docker.sock", state_folder, tmp_path / "caches")
    project = Project(folder=tmp_path / "project", variables=variables, port=free_port())
    project.folder.mkdir()
    with started(project, "processes") as told:
        check_turns(project, "processes", told)
