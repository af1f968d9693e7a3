"""One stack: models, gateway and everything beside them, started, proved, listed and stopped by one command each.

Without containers, with real vLLM on the CPU for a model that writes and one for vectors. The tests share one stack and
run in the order written.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.models.smoke_model import write_smoke_model
from stackwright.services import additions

from tests.integration.monitoring.questions import Prometheus, generated, metrics_of_rules, questions_of
from tests.integration.project import Project, free_port, wait_until
from tests.integration.testbed import run

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
settings: {{VLLM_CPU_KVCACHE_SPACE_2: "1", MONITORING_SCRAPE_S: "1"{ports}}}
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
    made = Project.new(folder, state_folder)
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


def test_every_panel_and_every_rule_has_what_it_asks_for(project: Project) -> None:
    """The whole of it on real vLLM; what a machine without GPUs has no panels of, test_questions.py asks."""
    run(["promtool", "check", "rules", generated(project) / "prometheus-rules.yml"])
    prometheus = Prometheus.of(project)
    open_ones = sorted({*questions_of(generated(project)), *metrics_of_rules(generated(project))})

    def rest() -> bool:
        nonlocal open_ones
        use_everything(project)
        open_ones = prometheus.unanswered(open_ones)
        return not open_ones

    wait_until(rest, lambda: f"without an answer: {open_ones}")
    assert prometheus.ask("up == 0") == {}


def use_everything(project: Project) -> None:
    """Do what a person would: chat, store a document, search in it, ask of it, and hand in a picture."""
    key = project.secrets["litellm_master_key"]
    for further in ({}, {"stream": True}):
        assert project.ask(key, **further)[0] == 200
    settings = json.loads((generated(project) / "plan.json").read_text())["settings"]
    for name in ("RETRIEVAL", "MULTIMODAL"):
        post(settings[f"{name}_PORT"]["value"], "/v1/self-test", key, {})
    port = settings["RETRIEVAL_PORT"]["value"]
    post(port, "/v1/collections/c/documents", key, {"texts": [{"name": "a", "text": "The answer is 42."}]})
    post(port, "/v1/search", key, {"query": "answer", "collections": ["c"]})
    messages = [{"role": "user", "content": "What is the answer?"}]
    post(port, "/v1/chat/completions", key, {"model": "smoke", "messages": messages, "collections": ["c"]})


def post(port: str, path: str, key: str, document: object) -> None:
    """Ask a service and wait for its answer."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, data=json.dumps(document).encode(), headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
        response.read()


def test_a_stop_leaves_the_data_alone(project: Project) -> None:
    plan = json.loads((project.folder / "compose/generated/dev/plan.json").read_text())
    done = project.command("stop-environment", "dev", "--runtime=processes")
    assert done.returncode == 0, done.stderr
    kept = Path(plan["settings"]["DATA_HOME"]["value"])
    assert (kept / "postgres" / "PG_VERSION").exists() or any((kept / "postgres").iterdir())
    assert (kept / "webui" / "webui.db").is_file()
