"""Models of a cloud as fallbacks: only where they are named, and no word of a key in what is rendered."""

from __future__ import annotations

import pytest
import yaml
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.cloud import CloudModel
from stackwright.domain.plan import Fallback, Plan
from stackwright.domain.role import Role
from stackwright.errors import UsageError
from stackwright.planning.cloud import problem_with_cloud
from stackwright.planning.planner import make_plan
from stackwright.rendering import render_plan

from tests.planning_requests import FIRST_MODEL, recorded, request, with_model

AWAY = CloudModel(name="away", model="openai/gpt-5-mini", key="openai")


def plan_with(fallbacks: dict[str, tuple[str, ...]], *clouds: CloudModel, role: Role = Role.CHAT) -> Plan:
    """Plan one model on one GPU with these fallbacks."""
    asked = request(recorded("1x-h200"))
    gateway = replace(asked.wishes.gateway, fallbacks=fallbacks, cloud=clouds)
    asked = replace(asked, wishes=replace(asked.wishes, gateway=gateway))
    return make_plan(with_model(asked, role=role), load_catalog())


def rendered(plan: Plan, name: str) -> dict[str, object]:
    """Return one rendered file, parsed."""
    return yaml.safe_load(next(file.text for file in render_plan(plan) if file.path.name == name))  # type: ignore[no-any-return]


def test_a_cloud_reaches_the_router_with_its_keys_name_alone() -> None:
    plan = plan_with({FIRST_MODEL: ("away",)}, AWAY)
    assert plan.gateway.fallbacks == (Fallback(model=FIRST_MODEL, to=("away",), longer=()),)
    gateway = rendered(plan, "gateway.yaml")
    assert gateway["model_list"][-1] == {  # type: ignore[index]
        "model_name": "away",
        "litellm_params": {"model": "openai/gpt-5-mini", "api_key": "os.environ/cloud_openai_key"},
    }
    assert gateway["router_settings"]["fallbacks"] == [{FIRST_MODEL: ["away"]}]  # type: ignore[index]


def test_what_is_too_long_is_not_for_a_cloud() -> None:
    """Without a chain of its own LiteLLM would take the other one for it."""
    router = rendered(plan_with({FIRST_MODEL: ("away",)}, AWAY), "gateway.yaml")["router_settings"]
    assert router["context_window_fallbacks"] == [{FIRST_MODEL: []}]  # type: ignore[index]


def test_the_gateway_gets_each_key_once_as_a_file() -> None:
    other = replace(AWAY, name="other", model="openai/gpt-5")
    override = rendered(plan_with({FIRST_MODEL: ("away", "other")}, AWAY, other), "override.yaml")
    service = override["services"]["gateway"]  # type: ignore[index]
    assert service["environment"] == {"CLOUD_KEYS": "cloud_openai_key"}
    assert service["secrets"] == ["cloud_openai_key"]
    path = "../envs/.secrets/${STACKWRIGHT_ENVIRONMENT:?}/cloud_openai_key"
    assert override["secrets"] == {"cloud_openai_key": {"file": path}}


@pytest.mark.parametrize(
    ("fallbacks", "clouds", "role", "message"),
    [
        ({FIRST_MODEL: ("elsewhere",)}, (AWAY,), Role.CHAT, f"found `elsewhere`, allowed: {FIRST_MODEL}, away"),
        ({}, (AWAY,), Role.CHAT, "gateway.cloud: `away` is in no fallback list"),
        ({"away": (FIRST_MODEL,)}, (AWAY,), Role.CHAT, f"found `away`, allowed: {FIRST_MODEL}"),
        (
            {FIRST_MODEL: ("away",)},
            (AWAY, replace(AWAY, model="openai/x")),
            Role.CHAT,
            "gateway.cloud: two models have the name `away`",
        ),
        ({FIRST_MODEL: ("away",)}, (AWAY, replace(AWAY, name=FIRST_MODEL)), Role.CHAT, "two models have the name"),
        ({FIRST_MODEL: ("away",)}, (AWAY,), Role.EMBEDDING, "which is for embedding, allowed: chat models"),
    ],
    ids=["unknown", "of-no-use", "the-wrong-way-round", "named-twice", "named-as-ours", "vectors"],
)
def test_a_cloud_that_stands_in_for_nothing_is_refused(
    fallbacks: dict[str, tuple[str, ...]], clouds: tuple[CloudModel, ...], role: Role, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_with(fallbacks, *clouds, role=role)


def test_the_hint_can_be_pasted_below_the_gateway() -> None:
    """As it stands, beside what is there already."""
    other = replace(AWAY, name="a: b")
    with pytest.raises(UsageError) as refusal:
        plan_with({FIRST_MODEL: ("away",)}, AWAY, other)
    line = (refusal.value.hint or "").split("`")[-2]
    assert yaml.safe_load(line) == {"fallbacks": {FIRST_MODEL: ["away", "a: b"]}}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({}, None),
        ({"address": "https://example.com/openai/v1/"}, None),
        ({"address": "http://10.0.0.7:8000/v1"}, None),
        ({"address": "http://localhost:8000/v1"}, None),
        ({"address": "http://8.8.8.8/v1"}, "address"),
        ({"address": "http://example.com/v1"}, "address"),
        ({"address": "https://me:secret@example.com"}, "address"),
        ({"address": "https://example.com/v1?key=secret"}, "address"),
        ({"address": "https://[::1"}, "address"),
        ({"address": "https://example.com:99999999/"}, "address"),
        ({"address": "https://example.com/a b"}, "address"),
        ({"address": ""}, "address"),
        ({"model": "gpt-5"}, "model"),
        ({"model": "bedrock/x"}, "model"),
        ({"model": "openai/"}, "model"),
        ({"model": "openai/x\nmodel_list:"}, "model"),
        ({"key": "OpenAI"}, "key"),
        ({"key": "../../passwd"}, "key"),
        ({"key": "a b"}, "key"),
        ({"key": "openai_of_the_team"}, None),
        # What was pasted where a name belongs, one in the letters that names have.
        ({"key": "sk-proj-secret"}, "key"),
        ({"key": "secret0a1b2c3d4e5f6a7b8c9d0e1f2a"}, "key"),
    ],
)
def test_an_entry_that_cannot_work_is_told_by_its_field(changed: dict[str, str], field: str | None) -> None:
    problem = problem_with_cloud(replace(AWAY, **changed))
    assert (problem and problem[0]) == field
    assert "secret" not in str(problem)
