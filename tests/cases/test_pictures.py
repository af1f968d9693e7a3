"""A step takes at least one picture or film that is seen in both directions (case 01 of the public reports)."""

from __future__ import annotations

import pytest
from stackwright.domain.plan import Origin
from stackwright.errors import NoPlanError

from tests.planning_requests import plan_for, recorded

ITEM = 2496
STEP = "VLLM_MAX_NUM_BATCHED_TOKENS"


@pytest.mark.parametrize(
    ("host", "model"),
    [
        ("2x-a6000-nvlink", "google/gemma-4-26B-A4B-it"),
        ("1x-rtx5090", "nvidia/Gemma-4-26B-A4B-NVFP4"),
        ("2x-rtx3090-nvlink", "RedHatAI/gemma-4-31B-it-FP8-dynamic"),
    ],
)
def test_a_step_holds_the_longest_item(host: str, model: str) -> None:
    plan = plan_for(recorded(host), model=model)
    step = plan.models[0].settings[STEP]
    assert int(step.value) >= ITEM
    # It is what the engine raises its own default to, but only where no flag says so.
    assert step.origin is Origin.ENGINE
    assert "--max-num-batched-tokens" not in plan.replicas[0].args
    with pytest.raises(NoPlanError, match=rf"a step of 2,048 tokens is shorter than one item of {ITEM:,}"):
        plan_for(recorded(host), model=model, pins={"VLLM_MAX_NUM_BATCHED_TOKENS": "2048"})


def test_a_large_gpu_keeps_the_engines_own_step() -> None:
    plan = plan_for(recorded("1x-h200"), model="google/gemma-4-26B-A4B-it")
    assert (plan.models[0].settings[STEP].value, plan.models[0].settings[STEP].origin) == ("8192", Origin.ENGINE)
    assert "--max-num-batched-tokens" not in plan.replicas[0].args


def test_a_pinned_step_below_one_item_names_the_pin() -> None:
    with pytest.raises(NoPlanError, match="a step of 2,048 tokens is shorter than one item of 2,496") as refused:
        plan_for(recorded("1x-rtx5090"), model="nvidia/Gemma-4-26B-A4B-NVFP4", pins={STEP: "2048"})
    assert refused.value.hint == f"change or remove `--set {STEP}=…`"
