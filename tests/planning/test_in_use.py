"""Other programs on a GPU: a warning where the plan goes on beside them, and what must be free where it does not."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace
from stackwright.domain.host import Host
from stackwright.errors import NoPlanError
from stackwright.units import GIB

from tests.planning_requests import plan_for, recorded

BUSY = "l40s-busy"


def using(gib: float) -> Host:
    """Return the host with one L40S, so much of it in use."""
    host = recorded(BUSY)
    return replace(host, gpus=(replace(host.gpus[0], memory_used_bytes=int(gib * GIB)),))


def test_a_plan_beside_another_program_says_so() -> None:
    (warning,) = [text for text in plan_for(recorded(BUSY)).warnings if "in use" in text]
    assert warning.startswith("GPU 0 (NVIDIA L40S) is in use: `nvidia-smi` counts 30.5 GiB of 45.0 GiB, ")


@pytest.mark.parametrize("gib", [0, 0.6, 4])
def test_what_a_desktop_holds_is_no_news(gib: float) -> None:
    assert not [text for text in plan_for(using(gib)).warnings if "in use" in text]


def test_a_refusal_names_what_must_be_free() -> None:
    """And with that much free there is a plan, with a little less there is none."""
    with pytest.raises(NoPlanError) as failure:
        plan_for(recorded(BUSY), model="Qwen/Qwen3-14B")
    found = re.search(
        r"other programs hold 30\.5 GiB of GPU 0: it would fit with ([\d.]+) GiB of 45\.0 GiB free$",
        failure.value.message,
    )
    assert found is not None
    assert "`nvidia-smi`" in str(failure.value.hint)
    assert "Qwen/Qwen3-14B-AWQ" in str(failure.value.hint)
    used = (recorded(BUSY).gpus[0].memory_bytes or 0) / GIB - float(found[1])
    assert plan_for(using(used - 0.1), model="Qwen/Qwen3-14B").replicas
    with pytest.raises(NoPlanError):
        plan_for(using(used + 0.5), model="Qwen/Qwen3-14B")


def test_a_pinned_share_that_is_not_free_is_explained() -> None:
    with pytest.raises(NoPlanError, match=r"it would fit with 4\d\.\d GiB of 45\.0 GiB free"):
        plan_for(recorded(BUSY), pins={"VLLM_GPU_MEMORY_UTILIZATION": "0.9"})


def test_a_full_gpu_is_explained() -> None:
    """Where not even a context fits, the refusal comes before any forecast."""
    with pytest.raises(
        NoPlanError, match=r"^GPU 0 \(NVIDIA L40S\) has 1012 MiB of 45\.0 GiB free; other programs hold 44\.0 GiB"
    ):
        plan_for(using(44))


def test_what_would_not_fit_on_a_free_gpu_blames_nobody() -> None:
    with pytest.raises(NoPlanError) as failure:
        plan_for(recorded(BUSY), model="Qwen/Qwen2.5-72B-Instruct")
    assert "other programs" not in failure.value.message
