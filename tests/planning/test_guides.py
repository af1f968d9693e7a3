"""What popular guides say otherwise: the packaged rows agree with the catalog, and are told where they concern the plan."""

from __future__ import annotations

import pytest
from stackwright.catalog.load import load_gpus, load_guides, load_llms
from stackwright.domain.plan import Mode
from stackwright.settings import BY_KEY
from stackwright.units import GIB

from tests.planning_requests import plan_for, recorded

GUIDES = {row.id: row for row in load_guides()}


def told(host: str, key: str, **wishes: object) -> list[str]:
    """Return the claims that the plan answers beside a setting."""
    reason = plan_for(recorded(host), **wishes).settings[key].reason  # type: ignore[arg-type]
    return [row.id for row in load_guides() if f"guides say that {row.claim}, but {row.fact}" in reason]


def test_rows_name_what_there_is() -> None:
    known = {row.id for row in load_gpus()}
    assert len(GUIDES) == len(load_guides())
    for row in GUIDES.values():
        assert row.setting in BY_KEY
        assert set(row.gpus) <= known
        assert row.gpus or row.nvlink is not None or row.memory_gb_at_most is not None


def test_facts_are_the_catalogs() -> None:
    """A row of GPUs that is corrected must not leave another figure here."""
    gpus = {row.id: row for row in load_gpus()}
    for name in GUIDES["blackwell-is-not-ada"].gpus:
        assert (gpus[name].architecture, gpus[name].compute_capability) == ("Blackwell", "12.0")
    assert gpus["gb10"].compute_capability == "12.1"
    for name in GUIDES["bridge-is-112-gb-per-s"].gpus:
        link = gpus[name].nvlink
        assert link is not None
        assert f"{link.gb_per_s:g} GB/s" in GUIDES["bridge-is-112-gb-per-s"].fact
    assert [gpus[name].nvlink for name in GUIDES["no-nvlink-on-ada"].gpus] == [None] * 6
    assert all(gpus[name].unified_memory for name in GUIDES["unified-memory-is-not-the-gpus"].gpus)
    for name in GUIDES["sold-gigabytes-are-not-allocatable"].gpus:
        assert (gpus[name].nvml_memory_mib or 0) / 1024 < 0.995 * gpus[name].memory_gb


@pytest.mark.parametrize(
    ("row", "checkpoint"),
    [
        ("72b-awq-needs-more-than-16-gb", "Qwen/Qwen2.5-72B-Instruct-AWQ"),
        ("14b-bf16-needs-more-than-16-gb", "Qwen/Qwen3-14B"),
    ],
)
def test_sizes_are_the_checkpoints_own(row: str, checkpoint: str) -> None:
    (size,) = [each.weight_bytes for llm in load_llms() for each in llm.checkpoints if each.hub_id == checkpoint]
    assert f"{(size or 0) / GIB:.1f} GiB ({checkpoint.rpartition('/')[2]})" in GUIDES[row].fact


@pytest.mark.parametrize(
    ("host", "key", "expected"),
    [
        ("1x-rtx5090", "VLLM_IMAGE", ["blackwell-is-not-ada", "geforce-blackwell-is-not-sm100"]),
        ("wsl2-rtx5080", "VLLM_IMAGE", ["blackwell-is-not-ada", "geforce-blackwell-is-not-sm100"]),
        ("wsl2-rtx5080", "VLLM_MODEL", ["72b-awq-needs-more-than-16-gb", "14b-bf16-needs-more-than-16-gb"]),
        ("2x-rtx3090-nvlink", "VLLM_TENSOR_PARALLEL_SIZE", ["bridge-is-112-gb-per-s", "p2p-off-throws-nvlink-away"]),
        ("8x-h100-nvswitch", "VLLM_TENSOR_PARALLEL_SIZE", ["p2p-off-throws-nvlink-away"]),
        ("2x-rtx4090", "VLLM_TENSOR_PARALLEL_SIZE", ["no-nvlink-on-ada"]),
        ("gb10", "VLLM_IMAGE", ["gb10-is-not-sm100"]),
        ("gb10", "VLLM_GPU_MEMORY_UTILIZATION", ["unified-memory-is-not-the-gpus"]),
        ("2x-rtx3090-pcie", "VLLM_TENSOR_PARALLEL_SIZE", []),
        ("1x-rtx3060-12gb", "VLLM_IMAGE", []),
        ("1x-h200", "VLLM_IMAGE", []),
    ],
)
def test_a_claim_is_answered_where_it_would_be_made(host: str, key: str, expected: list[str]) -> None:

    assert told(host, key) == expected


def test_one_gpu_of_a_pair_is_told_nothing_of_links() -> None:
    assert told("2x-rtx3090-nvlink", "VLLM_TENSOR_PARALLEL_SIZE", mode=Mode.SINGLE) == []


def test_the_source_of_the_fact_stands_beside_that_of_the_setting() -> None:
    setting = plan_for(recorded("2x-rtx3090-nvlink")).settings["VLLM_TENSOR_PARALLEL_SIZE"]
    assert "NCCL 2.30.7 user guide, env.rst (2026-11-21)" in setting.source
    both = plan_for(recorded("wsl2-rtx5080")).settings["VLLM_MODEL"]
    assert both.source.count("safetensors on the hub") == 1
