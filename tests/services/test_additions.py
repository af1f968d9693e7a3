"""What may run beside the models is off until wished for, gets what the host can spare, and is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.cli import main
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Plan
from stackwright.domain.setting_spec import whole_number
from stackwright.errors import NoPlanError
from stackwright.planning.planner import make_plan
from stackwright.rendering.compose import render_override
from stackwright.rendering.summary import Canvas, NextStep, summarize_plan, text_of
from stackwright.runtime.programs import Provisions, stack_programs
from stackwright.services import SERVICES, services_of
from stackwright.services.additions import SECTION

from tests.planning_requests import HOSTS, recorded, request
from tests.runtime.test_programs import CALLER, ENVIRONMENTS, stack_of
from tests.toy_service import ADDED, addition


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """Register rows for a test."""
    before = list(SERVICES)
    yield SERVICES.extend
    SERVICES[:] = before


CPU = f"--host={HOSTS / 'cpu-small' / 'host.yaml'}"


def plan_with(host: str, *additions: str, environment: Environment = Environment.STAGING) -> Plan:
    """Plan for a recorded host with some additions wished for."""
    return make_plan(replace(request(recorded(host), environment), additions=additions), load_catalog())


def beside(plan: Plan) -> list[str]:
    """Return the services of a plan that no plan has unasked."""
    return [service.name for service in services_of(plan) if service.name not in ("engine", "gateway", "redis")]


def test_nothing_of_it_is_there_unasked(register: Callable[..., None]) -> None:
    register([ADDED])
    plan = plan_with("cpu-small")
    assert beside(plan) == []
    assert not {"TOYBOX_IMAGE", "TOYBOX_PORT", "DATA_HOME", "SERVICES_BIND"} & plan.settings.keys()


def test_a_wished_one_runs_in_both_runtimes(register: Callable[..., None]) -> None:
    register([ADDED])
    plan = plan_with("cpu-small", "toybox")
    assert (plan.additions, beside(plan)) == (("toybox",), ["toybox"])
    assert plan.settings["TOYBOX_PORT"].value == "7001"
    override: dict[str, Any] = yaml.safe_load(render_override(plan, {}))
    toy = override["services"]["toybox"]
    assert toy["networks"] == ["inside", "door"]
    assert toy["ports"] == [{"target": 8080, "published": "${TOYBOX_PORT:?}", "host_ip": "${SERVICES_BIND:?}"}]
    assert {"type": "volume", "source": "toys", "target": "/var/lib/stackwright/toys"} in toy["volumes"]
    assert toy["command"][-1] == "/var/lib/stackwright/toys"
    assert override["volumes"]["toys"]["driver_opts"]["device"] == "${DATA_HOME:?}/toys"
    machine = Provisions(
        virtual_environments=ENVIRONMENTS, ports={"engine": 20000, "redis": 20001}, shared_memory_bytes=2**34
    )
    program = stack_programs(stack_of(plan), machine, CALLER)[-1]
    assert program.arguments[-1] == "/data/stackwright-staging/toys"


def test_the_models_come_first_and_what_is_left_out_is_named(register: Callable[..., None]) -> None:
    large = replace(ADDED, settings=(), secrets={}, addition=addition("palace", 500))
    register([ADDED, large])
    for name in ("cpu-small", "2x-rtx3090-nvlink"):
        plan = plan_with(name, "palace", "toybox")
        assert plan.additions == ("toybox",)
        (told,) = (warning for warning in plan.warnings if "left out" in warning)
        assert told.startswith("palace is left out: it takes 500.0 GiB")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("WEBUI_PORT", "WEBUI_PORT is pinned, and webui, whose setting it is, is off"),
        ("SERVICES_BIND", "SERVICES_BIND is pinned, and monitoring or webui or retrieval or multimodal, whose setting"),
    ],
)
def test_a_pin_of_what_is_off_says_how_it_is_switched_on(key: str, told: str) -> None:
    asked = request(recorded("cpu-small"), pins={key: "3100"})
    with pytest.raises(NoPlanError, match=told) as refused:
        make_plan(asked, load_catalog())
    named = "webui" if key == "WEBUI_PORT" else "monitoring"
    assert str(refused.value.hint).startswith(f"switch it on with `--with {named}`")


def test_a_pin_of_what_the_host_does_not_hold_waits(register: Callable[..., None]) -> None:
    spec = whole_number("PALACE_PORT", SECTION, (1, 65535), "Port of the palace")
    register([ADDED, replace(ADDED, settings=(spec,), secrets={}, addition=addition("palace", 500))])
    asked = request(recorded("cpu-small"), pins={"PALACE_PORT": "3100"})
    plan = make_plan(replace(asked, additions=("toybox", "palace")), load_catalog())
    assert plan.additions == ("toybox",)
    assert "PALACE_PORT" not in plan.settings


def test_the_picture_says_what_runs_beside_the_models(register: Callable[..., None]) -> None:
    register([ADDED])
    lines = [text_of(line).strip() for line in summarize_plan(plan_with("cpu-small", "toybox"), Canvas(), NextStep())]
    assert "beside: toybox · 64 MiB of memory" in lines


def plan_json(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> dict[str, Any]:
    """Return the plan of dev that a command prints."""
    assert main(["plan", "dev", CPU, "--json", f"--out={folder}", *words]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a project folder, with state and caches beside it and no container engine to be asked."""
    for name in ("STACKWRIGHT_STATE", "HF_HOME", "VLLM_CACHE_ROOT", "HOME", "PATH"):
        monkeypatch.setenv(name, str(tmp_path / "around" / name.lower()))
    project = tmp_path / "project"
    project.mkdir()
    return project


def test_choices_are_remembered_and_the_newest_word_wins(
    register: Callable[..., None], capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    register([ADDED])
    assert main(["configure-gpu", "dev", CPU, "--with", "toybox", f"--out={folder}"]) == 0
    capsys.readouterr()
    assert plan_json(capsys, folder)["additions"] == ["toybox"]
    secrets = folder / "envs" / ".secrets" / "dev"
    key = (secrets / "toybox_gateway_key").read_text()
    assert [entry["name"] for entry in json.loads((secrets / "keys" / "keys.json").read_text())["keys"]] == ["toybox"]
    assert main(["configure-gpu", "dev", CPU, f"--out={folder}"]) == 0
    capsys.readouterr()
    assert (secrets / "toybox_gateway_key").read_text() == key
    assert plan_json(capsys, folder, "--without", "toybox")["additions"] == []
    assert plan_json(capsys, folder, "--unset", "with")["additions"] == []
    wishes = folder / "envs" / "dev.yaml"
    wishes.write_text(wishes.read_text() + "services: {toybox: false}\n")
    assert plan_json(capsys, folder)["additions"] == []


def test_what_nobody_knows_is_refused(
    register: Callable[..., None], capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    register([ADDED])
    for words, said in (
        (("--with", "toybux"), "did you mean `toybox`"),
        (("--with", "toybox", "--without", "toybox"), "`--with` names it as well"),
    ):
        assert main(["plan", "dev", CPU, f"--out={folder}", *words]) == 2
        assert said in capsys.readouterr().err


def test_the_key_of_a_person_is_left_to_them(
    register: Callable[..., None], capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    register([ADDED])
    assert main(["configure-gpu", "dev", CPU, f"--out={folder}"]) == 0
    assert main(["keys", "add", "toybox", "dev", f"--out={folder}"]) == 0
    keys = folder / "envs" / ".secrets" / "dev" / "keys" / "keys.json"
    before = keys.read_text()
    assert main(["configure-gpu", "dev", CPU, "--with", "toybox", f"--out={folder}"]) == 2
    assert "stackwright keys revoke toybox dev" in capsys.readouterr().err
    assert keys.read_text() == before
