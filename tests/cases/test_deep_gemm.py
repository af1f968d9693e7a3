"""FP8 kernels that a release wants and its own library lacks are left out (vllm-project/vllm#47130)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.engines.protocol import EngineNeeds
from stackwright.planning.planner import make_plan

from tests.planning_requests import recorded, request


@pytest.mark.parametrize(
    ("host", "release", "without"),
    [("1x-rtx5090", "0.24.0", True), ("1x-rtx5090", "0.25.0", False), ("1x-h200", "0.24.0", False)],
)
def test_a_release_is_told_to_leave_out_kernels_that_it_does_not_have(host: str, release: str, without: bool) -> None:
    asked = request(recorded(host), model="Qwen/Qwen3-8B-FP8")
    plan = make_plan(replace(asked, needs=EngineNeeds(exact=release)), load_catalog())
    assert (("VLLM_USE_DEEP_GEMM", "0") in plan.replicas[0].env) is without
