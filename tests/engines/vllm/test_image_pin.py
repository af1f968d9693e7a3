"""A pinned engine image: nothing about images is refused, and what was not checked is said."""

from __future__ import annotations

import pytest
from stackwright.domain.plan import Plan
from stackwright.errors import NoPlanError

from tests.planning_requests import plan_for, recorded


def pinned(host: str, image: str) -> Plan:
    """Plan with a pinned image."""
    return plan_for(recorded(host), pins={"VLLM_IMAGE": image})


def said(plan: Plan) -> str:
    """Return the warning of the pin."""
    (warning,) = [text for text in plan.warnings if text.startswith("VLLM_IMAGE is pinned to ")]
    return warning


@pytest.mark.parametrize("host", ["4x-t4-driver470"])
def test_what_no_published_image_serves_is_taken_with_a_pin(host: str) -> None:
    with pytest.raises(NoPlanError) as failure:
        plan_for(recorded(host))
    plan = pinned(host, "registry.example/vllm:ours")
    assert (plan.engine.image, plan.engine.cuda) == ("registry.example/vllm:ours", None)
    assert "hardware and driver; set another release with `--engine vllm==…`" in said(plan)
    assert f"a published image would be refused: {failure.value.message}" in said(plan)


def test_a_copy_of_a_published_image_keeps_what_it_needs() -> None:
    """Forward compatibility is switched on in a mirror's image as well."""
    plan = pinned("8x-h100-driver535", "mirror.example/vllm:v0.33.0")
    assert (plan.engine.version, plan.engine.cuda) == ("0.33.0", "13.0")
    assert ("VLLM_ENABLE_CUDA_COMPATIBILITY", "1") in plan.replicas[0].env
    assert said(plan).endswith("assumed to be vllm 0.33.0: not checked against this model, hardware and driver")


def test_the_image_that_would_be_chosen_needs_no_warning() -> None:
    free = plan_for(recorded("1x-h200"))
    same = pinned("1x-h200", free.engine.image)
    assert (same.warnings, same.engine) == (free.warnings, free.engine)


def test_the_tags_release_decides_on_flags_and_memory() -> None:
    plan = pinned("1x-h200", "mirror.example/vllm:v0.19.1")
    assert plan.engine.version == "0.19.1"
    assert any("has known vulnerabilities" in text and "CVE-2026-48746" in text for text in plan.warnings)


def test_a_release_older_than_the_model_is_a_warning() -> None:
    plan = pinned("1x-h200", "mirror.example/vllm:v0.6.0")
    assert "Qwen/Qwen3-0.6B needs vllm 0.8.5 or newer; the pinned image is 0.6.0" in plan.warnings


def test_a_digest_tells_no_release() -> None:
    plan = pinned("cpu-small", "mirror.example/engine@sha256:" + "0" * 64)
    assert (plan.engine.version, plan.engine.cuda) == ("0.32.0", None)
    assert "set another release with" in said(plan)
