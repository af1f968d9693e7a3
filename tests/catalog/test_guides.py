"""The claims of popular guides: the packaged rows agree with the catalog, and no reason of a plan answers them."""

from __future__ import annotations

import pytest
from stackwright.catalog.load import load_gpus, load_guides, load_llms
from stackwright.settings import declared_settings
from stackwright.units import GIB

from tests.planning_requests import plan_for, recorded

GUIDES = {row.id: row for row in load_guides()}


def test_rows_name_what_there_is() -> None:
    known = {row.id for row in load_gpus()}
    assert len(GUIDES) == len(load_guides())
    for row in GUIDES.values():
        assert row.setting in declared_settings().by_key
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


@pytest.mark.parametrize("host", ["wsl2-rtx5080", "2x-rtx3090-nvlink", "8x-h100-nvswitch", "gb10"])
def test_no_reason_answers_a_guide(host: str) -> None:
    """The claims have a page of their own; a reason is about the plan."""
    reasons = [setting.reason for setting in plan_for(recorded(host)).settings.values()]
    assert [
        reason for reason in reasons if "guide" in reason or any(row.claim in reason for row in GUIDES.values())
    ] == []
