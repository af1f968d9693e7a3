"""What the gateway is told about replicas and limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from generator.catalog.load import load_catalog
from generator.domain.plan import Fallback, Plan
from generator.errors import NoPlanError
from generator.planning.gateway import choose_strategy, gateway_settings
from generator.planning.several import make_plan_of_all
from generator.rendering import render_plan
from tests.planning.several import PAIR, QWEN_4B, QWEN_8B, plan_of
from tests.planning_requests import gpu, plan_for, recorded, request


@pytest.mark.parametrize(
    ("groups", "strategy"),
    [
        (((),), "simple-shuffle"),
        (((gpu(0), gpu(1)),), "simple-shuffle"),
        (((gpu(0),), (gpu(1),)), "simple-shuffle"),
        (((gpu(0),), (gpu(1, name="NVIDIA GeForce RTX 4090"),)), "latency-based-routing"),
    ],
)
def test_the_strategy_follows_the_replicas(groups: tuple[tuple[object, ...], ...], strategy: str) -> None:
    """One has no choice, among equal ones chance decides, among unequal ones their speed."""
    assert choose_strategy(groups).value == strategy  # type: ignore[arg-type]


def test_as_many_are_let_in_as_the_replicas_work_on() -> None:
    """And four wait behind each."""
    found = gateway_settings(((gpu(0),), (gpu(1),)), {"VLLM_MAX_NUM_SEQS": "48", "VLLM_MAX_MODEL_LEN": "4096"})
    assert found["GATEWAY_MAX_CONCURRENT_REQUESTS"].value == "96"
    assert found["GATEWAY_MAX_QUEUED_REQUESTS"].value == "384"
    assert found["GATEWAY_MAX_INPUT_TOKENS"].value == "4095"


def test_a_length_that_the_engine_finds_is_left_to_it() -> None:
    """0 means no limit at the door."""
    found = gateway_settings(((),), {"VLLM_MAX_MODEL_LEN": "auto"})
    assert found["GATEWAY_MAX_INPUT_TOKENS"].value == "0"
    assert found["GATEWAY_MAX_CONCURRENT_REQUESTS"].value == "128"


def test_a_request_may_be_as_long_as_the_longest_input() -> None:
    """Never less than pictures need."""
    short, long = (
        gateway_settings(((),), {"VLLM_MAX_MODEL_LEN": length})["GATEWAY_MAX_BODY_BYTES"]
        for length in ("auto", "1000001")
    )
    assert (short.value, long.value) == (str(32 * 2**20), "64000000")


def test_several_models_take_the_longest_requests_of_any() -> None:
    plan = plan_of(PAIR, QWEN_8B, QWEN_4B, pins={"GATEWAY_MAX_INPUT_TOKENS_2": "2000000"})
    assert plan.settings["GATEWAY_MAX_BODY_BYTES"].value == "128000000"


def test_what_follows_from_a_pin_follows_it() -> None:
    """The engine's pins move the door's limits; a pinned limit moves the queue."""
    plan = plan_for(recorded("2x-rtx3090-pcie"), pins={"VLLM_MAX_NUM_SEQS": "8", "VLLM_MAX_MODEL_LEN": "2048"})
    assert plan.settings["GATEWAY_MAX_CONCURRENT_REQUESTS"].value == "16"
    assert plan.settings["GATEWAY_MAX_INPUT_TOKENS"].value == "2047"
    pinned = plan_for(recorded("2x-rtx3090-pcie"), pins={"GATEWAY_MAX_CONCURRENT_REQUESTS": "6"})
    assert pinned.settings["GATEWAY_MAX_QUEUED_REQUESTS"].value == "24"


def test_a_pinned_strategy_is_the_plans() -> None:
    """In the plan as in the settings."""
    plan = plan_for(recorded("2x-rtx3090-pcie"), pins={"GATEWAY_ROUTING_STRATEGY": "usage-based-routing-v2"})
    assert plan.gateway.routing_strategy == "usage-based-routing-v2"


def two_models(fallbacks: dict[str, tuple[str, ...]]) -> Plan:
    """Plan a small and a larger model on two GPUs, the small one with a short context."""
    asked = [
        request(recorded("2x-rtx3090-pcie"), model=name, pins={"VLLM_MAX_MODEL_LEN": "2048"})
        for name in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-14B-AWQ")
    ]
    wished = [replace(each.wishes, gateway=replace(each.wishes.gateway, fallbacks=fallbacks)) for each in asked]
    return make_plan_of_all(
        tuple(replace(each, wishes=wishes) for each, wishes in zip(asked, wished, strict=True)), load_catalog()
    )


def test_a_fallback_reaches_the_router_and_a_longer_context_moves_the_limit() -> None:
    """A request that is too long for the first model is for the second one to judge."""
    plan = two_models({"Qwen/Qwen3-0.6B": ("Qwen/Qwen3-14B-AWQ",)})
    chain = ("Qwen/Qwen3-14B-AWQ",)
    assert plan.gateway.fallbacks == (Fallback(model="Qwen/Qwen3-0.6B", to=chain, longer=chain),)
    rendered = next(file.text for file in render_plan(plan) if file.path.name == "gateway.yaml")
    router = yaml.safe_load(rendered)["router_settings"]
    assert router["fallbacks"] == router["context_window_fallbacks"] == [{"Qwen/Qwen3-0.6B": list(chain)}]
    limits = {each["model_name"]: each["model_info"]["limits"] for each in yaml.safe_load(rendered)["model_list"]}
    assert limits["Qwen/Qwen3-0.6B"] == {
        "concurrent_requests": "os.environ/GATEWAY_MAX_CONCURRENT_REQUESTS",
        "queued_requests": "os.environ/GATEWAY_MAX_QUEUED_REQUESTS",
        "input_tokens": "os.environ/GATEWAY_MAX_INPUT_TOKENS_2",
    }


@pytest.mark.parametrize(
    ("fallbacks", "message"),
    [
        ({"nobody": ("Qwen/Qwen3-0.6B",)}, "found `nobody`, allowed: Qwen/Qwen3-0.6B, Qwen/Qwen3-14B-AWQ"),
        ({"Qwen/Qwen3-0.6B": ("Qwen/Qwen3-0.6B",)}, "Qwen/Qwen3-0.6B would stand in for itself"),
    ],
)
def test_a_fallback_that_leads_nowhere_is_refused(fallbacks: dict[str, tuple[str, ...]], message: str) -> None:
    """Before anything is written."""
    with pytest.raises(NoPlanError, match=message):
        two_models(fallbacks)
