"""The seam holds: an engine that the package has never heard of is planned, rendered, checked, watched and
diagnosed.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.cli import parse
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.rules import diagnose_log
from stackwright.domain.environment import Folders
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.service import Step
from stackwright.engines import ENGINES
from stackwright.errors import NoPlanError, UsageError
from stackwright.planning.planner import make_plan
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.settings import all_settings
from stackwright.validation.environment import check_environment
from stackwright.watching.health import telling_line
from stackwright.watching.steps import engine_step, last_starts

from tests.planning_requests import recorded, request, with_model
from tests.toy_engine.engine import TOY
from tests.toy_engine.server import serve

LOG = (
    "TOY toy engine 1.0 begins\nTOY winding up bear\nTOY ready to play\n"
    "TOY toy engine 1.0 begins\nTOY winding up bear\nTOY Error: the spring of bear is broken\n"
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the toy: one value, nothing else."""
    monkeypatch.setitem(ENGINES, TOY.name, TOY)


def plan_with_toy(host: str, **wishes: object) -> Plan:
    """Plan for a recorded host with the toy as its engine."""
    folders = Folders(hf_home="/cache/huggingface", engine_caches={"toy": "/cache/toy"}, data="/data")
    asked = request(recorded(host), **wishes)  # type: ignore[arg-type]
    return make_plan(replace(asked, engine=TOY, folders=folders), load_catalog())


@pytest.mark.parametrize("host", ["cpu-small", "1x-rtx3090", "2x-rtx3090-nvlink"])
def test_it_is_planned_and_rendered_under_its_own_keys(host: str) -> None:
    plan = plan_with_toy(host)
    values = {key: setting.value for key, setting in flat_settings(plan).items()}
    files = {file.path.name: file.text for file in render_plan(plan)}

    assert (plan.engine.name, plan.engine.image, values["TOY_CONTEXT"]) == ("toy", "example.org/toy:1.0", "512")
    assert not [key for key in values if key.startswith("VLLM_")]
    assert plan.replicas[0].args[:4] == ("--model", values["TOY_MODEL"], "--served-model-name", values["TOY_NAME"])
    assert f"TOY_IMAGE={plan.engine.image}\n" in files[".env.prod"]
    assert "${TOY_CONTEXT:?}" in files["override.yaml"]
    assert f"openai/{plan.models[0].name}" in files["gateway.yaml"]


def test_it_is_checked_by_its_own_declarations() -> None:
    plan = plan_with_toy("cpu-small", mode=Mode.CPU)
    values = {key: setting.value for key, setting in flat_settings(plan).items()}

    assert check_environment(plan, values, load_catalog()) == ()
    (finding,) = check_environment(plan, values | {"TOY_CONTEXT": "9999"}, load_catalog())
    assert "TOY_CONTEXT" in finding.found


def test_its_settings_stand_in_the_sections_that_all_share() -> None:
    keys = [spec.key for spec in all_settings()]
    assert keys.index("TOY_IMAGE") < keys.index("LITELLM_IMAGE") < keys.index("TOY_MODEL") < keys.index("TOY_CACHE")


def test_it_is_pinned_by_its_own_keys_alone() -> None:
    assert plan_with_toy("cpu-small", pins={"TOY_CONTEXT": "128"}).models[0].settings["TOY_CONTEXT"].value == "128"
    with pytest.raises(NoPlanError, match="VLLM_DTYPE is pinned, but this mode does not use it"):
        plan_with_toy("cpu-small", pins={"VLLM_DTYPE": "float16"})


def test_it_refuses_a_role_that_it_does_not_have() -> None:
    from stackwright.domain.role import Role

    asked = with_model(request(recorded("cpu-small"), mode=Mode.CPU), role=Role.EMBEDDING)
    with pytest.raises(NoPlanError, match="a toy only chats"):
        make_plan(replace(asked, engine=TOY), load_catalog())


def test_the_command_line_names_it_and_lists_it() -> None:
    assert parse(["plan", "--engine", "toy"]) != parse(["plan"])
    with pytest.raises(UsageError, match="unknown engine `top`, allowed: vllm, toy"):
        parse(["plan", "--engine", "top"])


def test_its_start_is_watched_by_its_own_words() -> None:
    assert engine_step(LOG, TOY.start_log) is Step.LOADING
    assert engine_step(LOG.partition("TOY toy engine 1.0 begins\nTOY winding up bear\nTOY E")[0], TOY.start_log) is (
        Step.OPENING
    )
    assert last_starts(LOG, 1).count("begins") == 1
    assert telling_line(LOG) == "Error: the spring of bear is broken"


def test_its_failures_are_named_by_its_own_rules() -> None:
    values = {"environment": "prod"}
    (named,) = diagnose_log(LOG, load_rules(), kind="engine", values=values)
    assert (named.rule, named.cause) == ("toy-broken", "the spring of bear is broken")
    assert named.settings == (("TOY_CONTEXT", "256"),)


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """Serve the toy on a port of this machine."""
    server = serve("127.0.0.1", 0, "bear")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield "127.0.0.1", server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.subprocess
def test_its_server_answers_as_openai_does(address: tuple[str, int]) -> None:
    def ask(method: str, path: str, body: dict[str, object] | None = None) -> str:
        connection = http.client.HTTPConnection(*address, timeout=10)
        connection.request(method, path, body=json.dumps(body) if body else None)
        answer = connection.getresponse().read().decode()
        connection.close()
        return answer

    assert json.loads(ask("GET", TOY.health_path)) == {}
    assert json.loads(ask("GET", "/v1/models"))["data"][0]["id"] == "bear"
    whole = json.loads(ask("POST", "/v1/chat/completions", {"model": "bear"}))
    assert whole["choices"][0]["message"]["content"] == "Toys answer too."
    streamed = ask("POST", "/v1/chat/completions", {"model": "bear", "stream": True})
    assert streamed.count("data: ") == 5
    assert streamed.endswith("data: [DONE]\n\n")
