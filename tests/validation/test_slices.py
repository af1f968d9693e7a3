"""Rules over MIG slices, and over what only containers give."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.finding import Finding, Severity
from stackwright.validation.containers import check_processes
from stackwright.validation.gpus import check_host

from tests.planning_requests import plan_for, recorded

PLAN = plan_for(recorded("2x-rtx3090-nvlink"))
SLICED = plan_for(recorded("a100-seven-slices"))


def told(found: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    """Return check, severity and what was found."""
    return [(finding.check, finding.severity.value, finding.found) for finding in found]


def test_compatibility_libraries_are_in_the_image_alone() -> None:
    """An H100 on R535 serves CUDA 13 by forward compatibility, which a start without containers does not have."""
    bridged = plan_for(recorded("8x-h100-driver535"))
    assert ("VLLM_ENABLE_CUDA_COMPATIBILITY", "1") in bridged.replicas[0].env
    (finding,) = check_processes(bridged)
    assert (finding.check, finding.severity) == ("image-only", Severity.ERROR)
    assert finding.found == "driver 535.183.06 runs CUDA 12.2"
    assert f"only {bridged.engine.image} has" in finding.expected
    assert "--runtime compose" in finding.fix


def test_a_slice_that_was_made_again_is_missing_by_its_uuid() -> None:
    """Its name and size are the old ones; the engine could not start on it."""
    host = recorded("a100-seven-slices")
    again = replace(host.gpus[1], uuid="MIG-a100cccc-0100-5d1e-9f00-00000000000f")
    finding, new = check_host(SLICED, replace(host, gpus=(host.gpus[0], again, *host.gpus[2:])))
    assert (finding.check, finding.severity) == ("gpu-missing", Severity.ERROR)
    assert new.check == "gpu-added"
    assert finding.found == (
        f"1 of the plan's 7 MIG slices is missing: {host.gpus[1].uuid} (for engine); "
        "this machine has 1× NVIDIA A100-SXM4-40GB (MIG on), 7× NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    )
    assert finding.expected == "the plan's GPUs; a recreated slice has a new UUID"


def test_a_gpu_that_was_partitioned_since_is_named() -> None:
    """It still answers by its UUID, but CUDA runs on its slices alone."""
    host = recorded("2x-rtx3090-nvlink")
    gpus = (replace(host.gpus[0], mig=True), *host.gpus[1:])
    assert told(check_host(PLAN, replace(host, gpus=gpus))) == [
        ("gpu-changed", "error", "GPU 0: MIG mode is on, and was off")
    ]


def test_without_containers_a_slice_must_be_alone() -> None:
    """vLLM cannot name one of several; a pod with a single slice has no such doubt."""
    assert told(check_processes(SLICED)) == [
        ("slice-among-others", "error", f"MIG slice {SLICED.host.gpus[1].uuid} beside other GPUs or slices")
    ]
    host = recorded("a100-seven-slices")
    pod = replace(host, gpus=host.gpus[:2], p2p=((True, False), (False, True)))
    assert check_processes(plan_for(pod)) == ()


@pytest.mark.parametrize("name", ["2x-rtx3090-nvlink", "1x-h200", "cpu-small"])
def test_what_the_driver_runs_by_itself_needs_no_image(name: str) -> None:
    assert check_processes(plan_for(recorded(name))) == ()


def test_pictures_on_a_processor_need_torchvision() -> None:
    """Most models that see do not start without it; which, only the engine knows."""
    (finding,) = check_processes(plan_for(recorded("cpu-large"), model="Qwen/Qwen3-VL-4B-Instruct"))
    assert (finding.check, finding.severity) == ("no-torchvision", Severity.WARNING)
    assert finding.found.startswith("Qwen/Qwen3-VL-4B-Instruct takes images")
    assert check_processes(plan_for(recorded("1x-h200"), model="Qwen/Qwen3-VL-4B-Instruct")) == ()
