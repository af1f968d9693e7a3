"""Monitoring under real Docker Compose: every target scraped, every question answered, nothing open without a password.

Two GPUs are there as far as NVML tells; models take turns on engines that answer at once. Gateway, Redis, exporters and
Prometheus are real. Grafana cannot be had without a registry, so the wish leaves it out (MONITORING_GRAFANA=off).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.models.smoke_model import write_smoke_model

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.monitoring.images import build_gateway_with_gpus, build_program_images
from tests.integration.monitoring.questions import Prometheus, generated, metrics_of_rules, questions_of
from tests.integration.project import CHECKOUT, Project, free_port, wait_until
from tests.integration.testbed import run

HOST = CHECKOUT / "tests" / "hosts" / "2x-rtx3090-nvlink" / "nvml.txt"
FIGURES = """\
gpu 0-1 busy 97
gpu 0-1 temperature 71
gpu 0-1 power 312500 350000
gpu 0-1 clock 1695
gpu 0-1 slowed 4
gpu 0-1 traffic 1000 2000
gpu 0-1 lane_errors 0 0 0 0
gpu 0-1 ecc 0
gpu 0-1 rows_broken 0
"""
WISHES = """\
schema: 1
gpu_memory_utilization: 0.8
max_model_len: null
gateway: {{bind: 127.0.0.1, port: 4000}}
services: {{monitoring: true}}
models:
  - {{name: {folder}/usual, exclusive: chat}}
  - {{name: {folder}/other, exclusive: chat}}
settings:
  {{MONITORING_GRAFANA: "off", MONITORING_SCRAPE_S: "1", PROMETHEUS_PORT: "{port}", SWITCH_MIN_RESIDENCE_S: "5"}}
"""
JOBS = {"engine", "gateway", "gpu", "host", "prometheus", "redis"}
OF_VLLM = "vllm:"
"""What no stand-in tells: test_one_stack.py asks for it with real vLLM."""

pytestmark = pytest.mark.usefixtures("gpu_requests")


@pytest.fixture(scope="module")
def project(
    make_project: MakeProject, images: Images, docker_host: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """Give a running stack with monitoring, on two GPUs that are linked."""
    told = HOST.read_text() + FIGURES
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.txt").write_text(told)
    project = make_project(**environment(build_fake_nvml(folder), folder / "nvml.txt"))
    for name in ("usual", "other"):
        write_smoke_model(project.folder / "models" / name)
    (project.folder / "envs").mkdir()
    wishes = WISHES.format(folder=project.folder / "models", port=free_port())
    (project.folder / "envs" / "dev.yaml").write_text(wishes)
    gateway = build_gateway_with_gpus(docker_host, images.gateway, told)
    pins = [*images.pins(images.quick_engine), f"--set=LITELLM_IMAGE={gateway}", *build_program_images(docker_host)]
    project.configure("multi", f"--set=DATA_HOME={project.folder}/data", *pins)
    project.start()
    yield project
    project.stop()


@pytest.fixture(scope="module")
def prometheus(project: Project) -> Prometheus:
    """Give the stack's Prometheus."""
    return Prometheus.of(project)


def test_every_target_has_been_scraped(prometheus: Prometheus) -> None:
    def up() -> bool:
        return {json.loads(labels)["job"] for labels in prometheus.ask("up == 1")} == JOBS

    wait_until(up)
    assert prometheus.ask("up == 0") == {}


def test_without_the_password_nothing_is_told(project: Project, prometheus: Prometheus) -> None:
    told = {login: prometheus.get("/api/v1/query?query=up", login)[0] for login in ("", "stackwright:wrong", None)}
    assert list(told.values()) == [401, 401, 200]
    words = [project.inspect(name)["Config"]["Env"] for name in ("prometheus", "redis-exporter")]
    assert not [secret for secret in project.secrets.values() if secret in str(words)]


def test_only_gateway_and_prometheus_are_published_and_here(project: Project, prometheus: Prometheus) -> None:
    names = project.docker("ps", "--format={{.Names}}", f"--filter=name={project.name}").split()
    bindings = {
        name.removeprefix(f"{project.name}-").removesuffix("-1"): json.loads(
            project.docker("inspect", "--format={{json .HostConfig.PortBindings}}", name)
        )
        for name in names
    }
    here = {name: [row for rows in found.values() for row in rows] for name, found in bindings.items() if found}
    assert here == {
        "gateway": [{"HostIp": "127.0.0.1", "HostPort": str(project.port)}],
        "prometheus": [{"HostIp": "127.0.0.1", "HostPort": str(prometheus.port)}],
    }
    assert {"gpu-exporter", "node-exporter", "redis-exporter"} <= set(bindings)


def test_every_panel_and_every_rule_has_what_it_asks_for(project: Project, prometheus: Prometheus) -> None:
    run(["promtool", "check", "rules", generated(project) / "prometheus-rules.yml"])
    questions = {*questions_of(generated(project)), *metrics_of_rules(generated(project))}
    open_ones = sorted(question for question in questions if OF_VLLM not in question)
    assert len(open_ones) > len(questions) / 2

    def rest() -> bool:
        nonlocal open_ones
        ask_models(project)
        open_ones = prometheus.unanswered(open_ones)
        return not open_ones

    wait_until(rest, lambda: f"without an answer: {open_ones}")


def ask_models(project: Project) -> None:
    """Ask what a person would, with a stream and without."""
    for further in ({}, {"stream": True}):
        project.ask(project.secrets["litellm_master_key"], model="usual", **further)


def test_a_figure_outlives_a_stop(project: Project) -> None:
    assert any((Path(project.folder) / "data" / "prometheus").iterdir())
