"""What vLLM gets where a person pinned it, and how many tokens an event of a stream has."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_flags
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Plan
from stackwright.domain.role import Role
from stackwright.errors import NoPlanError
from stackwright.planning.planner import make_plan
from stackwright.rendering import render_plan

from tests.planning_requests import joined, recorded, request, with_model

FLAG, KEY = "--stream-interval", "VLLM_STREAM_INTERVAL"
# No parser is known of the first; the second has one for tool calls and one for reasoning.
PLAIN, PARSED = "microsoft/phi-4", "Qwen/Qwen3-8B"
NO_PARSERS = {"VLLM_TOOL_CALL_PARSER": "none", "VLLM_REASONING_PARSER": "none"}
BEFORE_FLAG, FIRST_WITH_FLAG = "0.11.0", "0.11.2"


def planned(
    model: str = PLAIN,
    objective: Objective | None = Objective.THROUGHPUT,
    *,
    pins: Mapping[str, str] | None = None,
    release: str | None = None,
    role: Role = Role.CHAT,
) -> Plan:
    asked = with_model(request(recorded("1x-h200"), model=model, pins=pins), role=role)
    needs = replace(asked.needs, exact=release, allow_vulnerable=True)
    return make_plan(replace(asked, objective=objective, needs=needs), load_catalog())


def interval(plan: Plan) -> str | None:
    """Return what the argument list of the first replica says."""
    words = plan.replicas[0].args
    return words[words.index(FLAG) + 1] if FLAG in words else None


def test_for_throughput_an_event_has_eight_tokens_and_the_cost_is_told() -> None:
    plan = planned()
    assert interval(plan) == "8"
    assert "text comes in steps of 8 tokens" in plan.models[0].settings[KEY].reason
    files = {file.path.name: file.text for file in render_plan(plan)}
    assert f"{KEY}=8\n" in files[".env.prod"]
    assert FLAG in files["override.yaml"]


@pytest.mark.parametrize("objective", [None, Objective.LATENCY, Objective.CONTEXT])
def test_otherwise_the_engine_sends_each_token(objective: Objective | None) -> None:
    plan = planned(objective=objective)
    assert interval(plan) is None
    assert KEY not in plan.models[0].settings


@pytest.mark.parametrize("left", [{}, *({key: "none"} for key in NO_PARSERS)])
def test_a_parser_gets_each_token_alone(left: Mapping[str, str]) -> None:
    """Parsers lose tool calls and reasoning that come in one event."""
    plan = planned(PARSED, pins=left)
    assert interval(plan) == "1"
    assert "can lose" in plan.models[0].settings[KEY].reason
    assert interval(planned(PARSED, pins=NO_PARSERS)) == "8"


def test_a_pin_comes_first() -> None:
    assert interval(planned(pins={KEY: "1"})) == "1"
    assert interval(planned(PARSED, objective=None, pins={KEY: "4"})) == "4"


def test_a_release_without_the_flag_is_not_given_it() -> None:
    assert load_flags().has(FLAG, FIRST_WITH_FLAG)
    assert interval(planned(release=FIRST_WITH_FLAG)) == "8"
    assert interval(planned(release=BEFORE_FLAG)) is None


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [(KEY, "8", FLAG), ("VLLM_MAX_CUDAGRAPH_CAPTURE_SIZE", "64", "--max-cudagraph-capture-size")],
)
def test_a_pin_whose_flag_the_release_lacks_is_refused(key: str, value: str, flag: str) -> None:
    with pytest.raises(NoPlanError, match=f"{key} is pinned, but vLLM {BEFORE_FLAG} does not have {flag}") as refusal:
        planned(pins={key: value}, release=BEFORE_FLAG)
    assert refusal.value.hint == "remove the pin, or request another release with --engine"


def test_a_model_that_does_not_write_has_no_stream() -> None:
    embedding = "Qwen/Qwen3-Embedding-0.6B"
    assert interval(planned(embedding, role=Role.EMBEDDING)) is None
    with pytest.raises(NoPlanError, match="this mode does not use it"):
        planned(embedding, role=Role.EMBEDDING, pins={KEY: "8"})


def test_of_several_models_only_those_that_write_have_it() -> None:
    host = recorded("1x-h200")
    chat = request(host, model=PLAIN, pins={KEY: "4"})
    vectors = with_model(request(host, model="Qwen/Qwen3-Embedding-0.6B"), role=Role.EMBEDDING)
    plan = make_plan(joined(chat, vectors), load_catalog())
    assert [KEY in model.settings for model in plan.models] == [True, False]
