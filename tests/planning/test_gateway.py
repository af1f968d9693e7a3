"""What the gateway is told about replicas and limits."""

from __future__ import annotations

import pytest

from generator.planning.gateway import choose_strategy, gateway_settings
from tests.planning_requests import gpu, plan_for, recorded


@pytest.mark.parametrize(
    ("groups", "strategy"),
    [
        (((),), "simple-shuffle"),
        (((gpu(0), gpu(1)),), "simple-shuffle"),
        (((gpu(0),), (gpu(1),)), "least-busy"),
        (((gpu(0),), (gpu(1, name="NVIDIA GeForce RTX 4090"),)), "latency-based-routing"),
    ],
)
def test_the_strategy_follows_the_replicas(groups: tuple[tuple[object, ...], ...], strategy: str) -> None:
    """One has no choice, equal ones are filled evenly, unequal ones by their speed."""
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
