"""What monitors a plan: where it scrapes, who gets in, and how much it keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.bcrypt import hash_password
from stackwright.domain.environment import Environment
from stackwright.domain.host import Containers, GpuAccess
from stackwright.domain.monitoring import Alert, Monitored, Panel, Query, Unit, Urgency, metric_rows
from stackwright.domain.plan import Plan
from stackwright.domain.service import Scraped
from stackwright.planning.planner import make_plan
from stackwright.project.credentials import ensure_secrets
from stackwright.rendering import render_plan
from stackwright.rendering.compose import render_override
from stackwright.rendering.monitoring import dashboards_of, monitoring_files
from stackwright.runtime.programs import Provisions, stack_programs
from stackwright.services import SERVICES, ServiceRow, generated_files, services_of
from stackwright.services.additions import Addition
from stackwright.services.monitoring import REDIS_EXPORTER, web_configuration

from tests.planning_requests import plan_for, recorded, request
from tests.runtime.test_programs import CALLER, ENVIRONMENTS, stack_of

NO_GRAFANA = "monitoring: no container engine here, which Grafana runs in: there are Prometheus' own pages instead"


def plan_with(host: str, environment: Environment = Environment.PROD) -> Plan:
    """Plan a recorded host with monitoring."""
    asked = request(recorded(host), environment)
    return make_plan(replace(asked, additions=("monitoring",)), load_catalog())


def service_of(plan: Plan, name: str) -> dict[str, Any]:
    """Return a service of the override."""
    return dict(yaml.safe_load(render_override(plan, {}))["services"][name])


@pytest.mark.parametrize(("host", "jobs"), [("cpu-small", 5), ("2x-rtx3090-nvlink", 6)])
def test_everything_is_scraped_on_the_inner_network(host: str, jobs: int) -> None:
    plan = plan_with(host)
    targets = {
        name: json.loads(text)
        for name, text in service_of(plan, "prometheus")["environment"].items()
        if name.startswith("SCRAPE_")
    }
    assert len(targets) == jobs
    assert targets["SCRAPE_ENGINE_1"]["targets"] == ["engine:8000"]
    assert targets["SCRAPE_GATEWAY_1"]["labels"]["__metrics_path__"] == "/metrics/"
    assert targets["SCRAPE_REDIS_1"]["labels"]["__scrape_interval__"] == "${MONITORING_SCRAPE_S:?}s"
    configuration = yaml.safe_load(monitoring_files(plan)["prometheus.yml"])
    assert {f"SCRAPE_{job['job_name'].upper()}_1" for job in configuration["scrape_configs"]} == set(targets)


def test_only_what_a_person_opens_is_published_and_only_here() -> None:
    override = yaml.safe_load(render_override(plan_with("2x-rtx3090-nvlink"), {}))["services"]
    published = {name: service["ports"][0]["published"] for name, service in override.items() if "ports" in service}
    assert published == {"prometheus": "${PROMETHEUS_PORT:?}", "grafana": "${GRAFANA_PORT:?}"}
    assert {override[name]["ports"][0]["host_ip"] for name in published} == {"${SERVICES_BIND:?}"}
    inner = ("node-exporter", "redis-exporter", "gpu-exporter")
    assert [override[name]["networks"] for name in inner] == [["inside"]] * 3


@pytest.mark.parametrize(("environment", "ports"), [(Environment.DEV, (9090, 3010)), (Environment.PROD, (9092, 3012))])
def test_each_environment_has_ports_of_its_own(environment: Environment, ports: tuple[int, int]) -> None:
    settings = plan_with("cpu-small", environment).settings
    assert (int(settings["PROMETHEUS_PORT"].value), int(settings["GRAFANA_PORT"].value)) == ports
    assert settings["SERVICES_BIND"].value == "127.0.0.1"


def test_what_is_kept_is_bounded() -> None:
    words = service_of(plan_with("cpu-small"), "prometheus")["command"]
    assert "--storage.tsdb.retention.time=${MONITORING_RETENTION_DAYS:?}d" in words
    assert "--storage.tsdb.retention.size=${MONITORING_DISK_GIB:?}GB" in words


def test_the_gpu_exporter_has_the_plans_gpus_and_nothing_else() -> None:
    plan = plan_with("2x-rtx3090-nvlink")
    service = service_of(plan, "gpu-exporter")
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == [gpu.uuid for gpu in plan.host.gpus]
    assert (service["image"], service["cap_drop"], "cap_add" in service) == ("${LITELLM_IMAGE:?}", ["ALL"], False)
    assert "gpu-exporter" not in {service.name for service in services_of(plan_with("cpu-small"))}


def test_dcgm_runs_as_root_where_it_is_wished_for_alone() -> None:
    assert plan_with("8x-h100-nvswitch").settings["MONITORING_DCGM"].value == "off"
    asked = request(recorded("8x-h100-nvswitch"), pins={"MONITORING_DCGM": "on"})
    plan = make_plan(replace(asked, additions=("monitoring",)), load_catalog())
    service = service_of(plan, "dcgm-exporter")
    assert (service["user"], service["cap_add"], service["networks"]) == ("0:0", ["SYS_ADMIN"], ["inside"])
    assert "What computes" in {panel.title for board in dashboards_of(plan) for panel in board.panels}
    others = yaml.safe_load(render_override(plan, {}))["services"].items()
    assert [name for name, each in others if each.get("user") == "0:0" or "cap_add" in each] == ["dcgm-exporter"]


@pytest.mark.parametrize("host", ["cpu-small", "2x-rtx3090-nvlink", "a100-seven-slices", "wsl2-rtx5080"])
def test_grafana_has_the_dashboards_that_are_rendered(host: str) -> None:
    plan = plan_with(host)
    boards = [f"{board.name}.json" for board in dashboards_of(plan)]
    assert [word.removeprefix("/etc/stackwright/") for word in service_of(plan, "grafana")["command"]] == boards
    assert set(boards) <= set(generated_files())
    rendered = {file.path.name for file in render_plan(plan)}
    assert {*boards, "prometheus.yml", "prometheus-rules.yml"} <= rendered


def test_without_containers_the_plan_says_that_grafana_is_left_out() -> None:
    assert NO_GRAFANA in plan_with("pod-1x-l40s").warnings
    host = recorded("2x-rtx3090-nvlink")
    docker = Containers(engine="docker", version="28.2.2", compose="2.39.1", gpu_access=GpuAccess.CDI)
    asked = replace(request(replace(host, containers=docker)), additions=("monitoring",))
    assert NO_GRAFANA not in make_plan(asked, load_catalog()).warnings


def test_one_row_brings_targets_dashboard_and_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Panel(title="Toys", says="In use", unit=Unit.COUNT, queries=(Query("sum(toys)", "toys"),))
    alert = Alert(
        name="ToysGone", when="toys == 0", lasts="1m", urgency=Urgency.WARNING, says="no toys", heading="Toys"
    )
    monitored = Monitored(title="Toys", metrics=metric_rows("toys", "here", {"toys": "Toys"}), panels=(panel,))
    toys = Addition(name="toys", title="toys", decide=lambda *_: {}, memory_bytes=lambda _: 0)
    service = replace(REDIS_EXPORTER, name="toys", kind="toys", scraped=Scraped(job="toys", path="/toys"))
    row = ServiceRow(make=lambda _: (service,), addition=toys, monitored=replace(monitored, alerts=(alert,)))
    monkeypatch.setattr("stackwright.services.SERVICES", [*SERVICES, row])

    plan = replace(plan_with("cpu-small"), additions=("monitoring", "toys"))

    target = json.loads(service_of(plan, "prometheus")["environment"]["SCRAPE_TOYS_1"])
    assert (target["targets"], target["labels"]["__metrics_path__"]) == (["toys:9121"], "/toys")
    assert "/etc/stackwright/stackwright-toys.json" in service_of(plan, "grafana")["command"]
    files = monitoring_files(plan)
    assert "sum(toys)" in files["stackwright-toys.json"]
    assert "job_name: toys" in files["prometheus.yml"]
    assert "ToysGone" in files["prometheus-rules.yml"]
    assert "stackwright-toys.json" in generated_files()


def test_as_processes_what_is_not_installed_is_not_scraped() -> None:
    plan = plan_with("cpu-small")
    machine = Provisions(
        virtual_environments=ENVIRONMENTS,
        ports={"engine": 20000, "redis": 20001, "node-exporter": 20002},
        shared_memory_bytes=2**34,
        absent=frozenset({"redis-exporter", "grafana"}),
    )
    programs = {program.name: program for program in stack_programs(stack_of(plan), machine, CALLER)}
    scraped = {name for name in programs["prometheus"].environment if name.startswith("SCRAPE_")}
    assert scraped == {"SCRAPE_ENGINE_1", "SCRAPE_GATEWAY_1", "SCRAPE_HOST_1", "SCRAPE_PROMETHEUS_1"}
    target = json.loads(programs["prometheus"].environment["SCRAPE_HOST_1"])
    assert target["targets"] == ["127.0.0.1:20002"]


def test_no_password_stands_in_what_is_rendered_or_run(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    ensure_secrets(secrets, {}, tmp_path, wished=("monitoring",))
    password = (secrets / "prometheus_password").read_text()
    plan = plan_with("cpu-small")
    machine = Provisions(
        virtual_environments=ENVIRONMENTS,
        ports=dict.fromkeys(("engine", "redis", "node-exporter", "redis-exporter"), 20000),
        shared_memory_bytes=2**34,
    )
    texts = [file.text for file in render_plan(plan)]
    texts += [repr(program) for program in stack_programs(stack_of(plan), machine, CALLER)]
    assert not any(password in text for text in (*texts, (secrets / "prometheus_web").read_text()))


def test_the_hash_follows_the_password(tmp_path: Path) -> None:
    ensure_secrets(tmp_path, {}, tmp_path, wished=("monitoring",))
    password, web = tmp_path / "prometheus_password", tmp_path / "prometheus_web"
    before = (password.read_text(), web.read_text())
    assert web.stat().st_mode & 0o777 == 0o600
    ensure_secrets(tmp_path, {}, tmp_path, wished=("monitoring",))
    assert (password.read_text(), web.read_text()) == before
    password.write_text("another" * 9)
    ensure_secrets(tmp_path, {}, tmp_path, wished=("monitoring",))
    assert web.read_text().endswith(web_configuration("another" * 9))
    assert web.read_text() != before[1]


def test_without_monitoring_there_is_no_such_secret(tmp_path: Path) -> None:
    ensure_secrets(tmp_path, {}, tmp_path)
    assert not list(tmp_path.glob("prometheus*"))


@pytest.mark.parametrize(
    ("password", "salt", "hashed"),
    [
        # OpenBSD's bcrypt by way of libxcrypt 4.4 (crypt(3)), 2026-11-30.
        ("hello", bytes(range(16)), "$2b$04$..CA.uOD/eaGAOmJB.yMBuXVkvC8b09bVi1XEpxb.PqgxJfLsB4Lu"),
        ("é" * 20, b"\xff" * 16, "$2b$04$999999999999999999999uyl.nk50sSmM7Ts8h6ql240t95wByjtu"),
        ("a" * 64, b"0123456789abcdef", "$2b$04$KBCwKxOzLha2MUDgW0PjXePIMB1d/fAgnG35UeG3NI8QnUo5KjNe2"),
    ],
)
def test_passwords_are_hashed_as_others_hash_them(password: str, salt: bytes, hashed: str) -> None:
    assert hash_password(password, salt) == hashed


def test_traces_are_sent_where_a_person_says_alone() -> None:
    plain = plan_for(recorded("cpu-small"))
    plan = plan_for(recorded("cpu-small"), pins={"TRACES_ENDPOINT": "http://collector:4318/v1/traces"})
    assert "otlp" not in render_override(plain, {}).lower()
    engine, gateway = service_of(plan, "engine"), service_of(plan, "gateway")
    assert engine["command"][-2:] == ["--otlp-traces-endpoint", "${TRACES_ENDPOINT:?}"]
    variables = {"OTEL_SERVICE_NAME": "engine", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert variables.items() <= engine["environment"].items()
    assert gateway["environment"]["TRACES_ENDPOINT"] == "${TRACES_ENDPOINT:?}"
