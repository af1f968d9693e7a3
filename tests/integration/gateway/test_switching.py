"""Two models that take turns, brought up by each runtime: gateway and Redis are real, and vLLM in containers.

A start asks both models through the gateway, which is one switch; each load takes as long as an engine takes to start,
so what a switch does to a queue is shown with a stand-in engine (tests/switching), and timed by
benchmarks/switching.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stackwright.models.smoke_model import write_smoke_model

from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.project import CHECKOUT, Project, wait_until

# Less would have the pinned model return between the two questions that a start has for the other.
RESIDENCE = "--set=SWITCH_MIN_RESIDENCE_S=5"


def lay_out(project: Project, *, pinned: bool) -> None:
    """Write two small models and the wish to serve them in turns."""
    for name in ("usual", "other"):
        write_smoke_model(project.folder / "models" / name)
    wishes = (CHECKOUT / "envs" / "dev.yaml").read_text(encoding="utf-8")
    entry = "  - {{name: {folder}/models/{name}, exclusive: chat, pinned: {pinned}}}\n"
    models = [
        entry.format(folder=project.folder, name=name, pinned="true" if pinned and name == "usual" else "false")
        for name in ("usual", "other")
    ]
    (project.folder / "envs").mkdir()
    (project.folder / "envs" / "dev.yaml").write_text(f"{wishes}models:\n{''.join(models)}", encoding="utf-8")


@contextmanager
def started(project: Project, runtime: str, *pins: str) -> Iterator[str]:
    """Bring the two models up, give what the start has told, and take them down."""
    project.configure("cpu", RESIDENCE, *pins)
    done = project.command("start-environment", "dev", f"--runtime={runtime}")
    try:
        assert done.returncode == 0, done.stderr + done.stdout
        yield done.stderr
    finally:
        project.command("stop-environment", "dev", f"--runtime={runtime}")


def loaded(project: Project, runtime: str) -> str | None:
    """Return what `stackwright status` tells of the one engine."""
    done = project.command("status", "dev", f"--runtime={runtime}", "--json")
    assert done.returncode == 0, done.stderr
    (engine,) = (each for each in json.loads(done.stdout)["services"] if each["name"].startswith("engine"))
    return str(engine["detail"])


def test_a_start_asks_models_in_turns_in_containers(make_project: MakeProject, images: Images) -> None:
    project = make_project()
    lay_out(project, pinned=False)
    given = {"VLLM_IMAGE": images.engine, "LITELLM_IMAGE": images.gateway, "REDIS_IMAGE": images.redis}
    with started(project, "compose", *(f"--set={key}={image}" for key, image in given.items())) as told:
        assert told.index("asked for a completion of usual") < told.index("asked for a completion of other")
        assert loaded(project, "compose") == "other is loaded"
        done = project.command("validate-environment", "dev", "--runtime=compose")
        assert done.returncode == 0, done.stderr
        assert len(project.remains("container")) == len(("engine", "gateway", "redis"))


def test_the_pinned_model_comes_back_as_processes(quick_state: Path, tmp_path: Path) -> None:
    """When it does is the switch's own affair: a quick engine has vLLM's place."""
    project = Project.new(tmp_path / "project", quick_state)
    project.folder.mkdir()
    lay_out(project, pinned=True)
    with started(project, "processes") as told:
        assert told.index("asked for a completion of usual") < told.index("asked for a completion of other")
        wait_until(lambda: loaded(project, "processes") == "usual is loaded" or None)
