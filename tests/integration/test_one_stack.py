"""One stack: models, gateway and everything beside them, started, proved, listed and stopped by one command each.

Without containers, with real vLLM on the CPU for a model that writes and one for vectors. The tests share one stack and
run in the order written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.models.smoke_model import write_smoke_model
from stackwright.services import additions

from tests.integration.project import Project, free_port, make_variables

NO_DOCKER = "unix:///nonexistent/docker.sock"
WISHES = """\
schema: 1
model: null
models:
  - smoke
  - {{name: {folder}/vectors, role: embedding}}
gpu_memory_utilization: 0.8
max_model_len: null
gateway: {{bind: 127.0.0.1, port: 4000}}
services: {{{services}}}
settings: {{VLLM_CPU_KVCACHE_SPACE_2: "1"{ports}}}
"""


@pytest.fixture(scope="module")
def project(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Give a project folder that wishes for everything; what was started of it is gone in the end."""
    folder = tmp_path_factory.mktemp("project")
    write_smoke_model(folder / "vectors")
    ports = "".join(f", {name}_PORT: {free_port()}" for name in PORTS)
    services = ", ".join(f"{name}: true" for name in additions())
    (folder / "envs").mkdir()
    (folder / "envs" / "dev.yaml").write_text(WISHES.format(folder=folder, services=services, ports=ports))
    variables = make_variables(NO_DOCKER, state_folder, folder / "caches")
    made = Project(folder=folder, variables=variables, port=free_port())
    yield made
    made.command("stop-environment", "dev", "--runtime=processes")


PORTS = ("WEBUI", "RETRIEVAL", "MULTIMODAL", "PROMETHEUS", "GRAFANA")


def test_a_start_is_ready_when_everything_has_proved_itself(project: Project) -> None:
    done = project.command("start-environment", "dev", "--runtime=processes", *project.pins)
    assert done.returncode == 0, done.stderr
    for name in ("webui", "retrieval", "multimodal", "prometheus"):
        assert f"{name}: answered" in done.stderr
    assert "Open WebUI" in done.stderr


def test_status_lists_all_of_it(project: Project) -> None:
    told = json.loads(project.command("status", "dev", "--runtime=processes", "--json").stdout)
    phases = {each["name"]: each["phase"] for each in told["services"]}
    assert set(phases.values()) == {"healthy"}
    named = "engine engine-2 gateway webui retrieval postgres multimodal prometheus"
    assert set(named.split()) <= set(phases)


def test_a_stop_leaves_the_data_alone(project: Project) -> None:
    plan = json.loads((project.folder / "compose/generated/dev/plan.json").read_text())
    done = project.command("stop-environment", "dev", "--runtime=processes")
    assert done.returncode == 0, done.stderr
    kept = Path(plan["settings"]["DATA_HOME"]["value"])
    assert (kept / "postgres" / "PG_VERSION").exists() or any((kept / "postgres").iterdir())
    assert (kept / "webui" / "webui.db").is_file()
