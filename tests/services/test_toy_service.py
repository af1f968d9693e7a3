"""A service that is registered by one value is rendered for both runtimes, and no other line knows its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from stackwright.domain.plan import Plan
from stackwright.project.pins import parse_pin
from stackwright.rendering import render_plan
from stackwright.rendering.compose import render_base
from stackwright.runtime.programs import Provisions, render_start, stack_programs
from stackwright.services import SERVICES

from tests.planning_requests import plan_for, recorded
from tests.runtime.test_programs import CALLER, ENVIRONMENTS, stack_of
from tests.toy_service import ROW


@pytest.fixture
def plan() -> Iterator[Plan]:
    """Give a plan of a small host, with the toy registered."""
    SERVICES.append(ROW)
    yield plan_for(recorded("cpu-small"))
    SERVICES.remove(ROW)


def test_its_settings_stand_among_all_others(plan: Plan) -> None:
    assert plan.settings["TOYBOX_IMAGE"].value == "toybox:1"
    keys = list(plan.settings)
    assert keys.index("STACKWRIGHT_GID") < keys.index("TOYBOX_IMAGE") < keys.index("GATEWAY_BIND")
    (text,) = (file.text for file in render_plan(plan) if file.path.name.startswith(".env"))
    assert "TOYBOX_IMAGE=toybox:1\n" in text
    assert parse_pin("TOYBOX_IMAGE=mine:2") == ("TOYBOX_IMAGE", "mine:2")


def test_compose_gets_it_whole_in_the_override(plan: Plan) -> None:
    (override,) = (yaml.safe_load(file.text) for file in render_plan(plan) if file.path.name == "override.yaml")
    toy = override["services"]["toybox"]
    assert "toybox" not in yaml.safe_load(render_base())["services"]
    assert (toy["image"], toy["entrypoint"]) == ("${TOYBOX_IMAGE:?}", ["python3"])
    assert toy["command"] == ["-m", "http.server", "--bind", "0.0.0.0", "8080"]
    assert toy["environment"] == {"GATEWAY": "http://gateway:4000"}
    assert toy["depends_on"] == {"gateway": {"condition": "service_started"}}
    assert "http://127.0.0.1:8080/" in toy["healthcheck"]["test"][-1]
    assert toy["networks"] == ["inside"]
    assert (toy["read_only"], toy["cap_drop"], toy["ulimits"]) == (
        True,
        ["ALL"],
        {"nofile": {"soft": 16384, "hard": 16384}},
    )
    assert override["secrets"]["toy_key"]["file"].endswith("/toy_key")


def test_as_a_process_it_listens_on_loopback(plan: Plan) -> None:
    stack = stack_of(plan)
    ports = {"engine": 20000, "redis": 20001, "toybox": 20002}
    machine = Provisions(virtual_environments=ENVIRONMENTS, ports=ports, shared_memory_bytes=2**34)
    toy = stack_programs(stack, machine, CALLER)[-1]
    assert (toy.name, toy.files) == ("toybox", (Path("/project/envs/.secrets/prod/toy_key"),))
    assert render_start(toy).splitlines()[-1] == "exec python3 -m http.server --bind 127.0.0.1 20002"
    assert toy.environment["GATEWAY"] == f"http://127.0.0.1:{stack.env['GATEWAY_PORT']}"
