"""A step takes at least one picture or film that is seen in both directions (case 01 of the public reports)."""

from __future__ import annotations

import pytest
from stackwright.errors import NoPlanError

from tests.planning_requests import plan_for, recorded

ITEM = 2496


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
    replica = plan.replicas[0]
    step = int(replica.args[replica.args.index("--max-num-batched-tokens") + 1])
    assert step >= ITEM
    with pytest.raises(NoPlanError, match=rf"a step of 2048 tokens is shorter than one item of {ITEM}"):
        plan_for(recorded(host), model=model, pins={"VLLM_MAX_NUM_BATCHED_TOKENS": "2048"})


def test_a_large_gpu_keeps_the_engines_own_step() -> None:
    replica = plan_for(recorded("1x-h200"), model="google/gemma-4-26B-A4B-it").replicas[0]
    assert replica.args[replica.args.index("--max-num-batched-tokens") + 1] == "8192"
