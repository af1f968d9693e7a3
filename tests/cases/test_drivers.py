"""Drivers that people reported: what runs there, and what cannot (cases 06 and 07 of the public reports)."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.catalog.load import load_catalog
from stackwright.detect.snapshot import read_snapshot
from stackwright.domain.plan import Plan
from stackwright.errors import NoPlanError
from stackwright.planning.planner import make_plan

from tests.planning_requests import request

CU129 = "vllm/vllm-openai:v0.32.0-cu129"


def plan_on(host: str) -> Plan:
    """Plan a small quantized model for one of the hosts beside this file."""
    return make_plan(
        request(read_snapshot(Path(__file__).with_name(f"{host}.yaml")), model="Qwen/Qwen3-8B-AWQ"), load_catalog()
    )


@pytest.mark.parametrize("host", ["3090-r550", "4090-r570"])
def test_a_geforce_with_machine_code_runs_with_the_gate_off_and_one_warning(host: str) -> None:
    plan = plan_on(host)
    assert plan.engine.image == CU129
    assert ("NVIDIA_DISABLE_REQUIRE", "1") in plan.replicas[0].env
    assert len([warning for warning in plan.warnings if "driver" in warning]) == 1


@pytest.mark.parametrize("host", ["h100-r550", "h100-r560"])
def test_a_data_centre_gpu_without_it_takes_forward_compatibility(host: str) -> None:
    plan = plan_on(host)
    assert plan.engine.image == CU129
    assert ("VLLM_ENABLE_CUDA_COMPATIBILITY", "1") in plan.replicas[0].env


@pytest.mark.parametrize("host", ["5090-r570", "pro6000-r570"])
def test_what_has_neither_is_refused_and_told_the_least_driver(host: str) -> None:
    with pytest.raises(NoPlanError) as refused:
        plan_on(host)
    assert "driver ≥ 575.51.03 for 0.32.0-cu129" in refused.value.message
    assert (refused.value.hint or "").startswith("update the NVIDIA driver first")
    assert "--allow-vulnerable" not in refused.value.message + (refused.value.hint or "")
