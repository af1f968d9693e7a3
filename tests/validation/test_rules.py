"""Rules over a rendered stack: each mistake is one finding that names it, and a stack as rendered has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from generator.domain.finding import Finding, Severity
from generator.domain.host import Driver, LinkKind
from generator.domain.plan import Mode, Plan
from generator.errors import NoPlanError
from generator.validation.rules import check_environment, check_host, check_processes, check_shell
from tests.planning_requests import HOST_NAMES, plan_for, recorded


def values(plan: Plan, **changes: str) -> dict[str, str]:
    """Return the values in force: as rendered, with a person's changes over them."""
    return {key: setting.value for key, setting in plan.settings.items()} | changes


def told(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    """Return what was found and how bad it is."""
    return [(finding.check, finding.severity.value, finding.found) for finding in findings]


@pytest.mark.parametrize("name", HOST_NAMES)
def test_a_plan_as_rendered_has_no_finding_on_its_own_host(name: str) -> None:
    host = recorded(name)
    try:
        plan = plan_for(host)
    except NoPlanError:
        plan = plan_for(host, mode=Mode.CPU)
    assert check_environment(plan, values(plan)) == ()
    assert check_host(plan, host) == ()
    assert check_shell(values(plan), {}, "prod") == ()


PLAN = plan_for(recorded("2x-rtx3090-nvlink"))
SLICED = plan_for(recorded("a100-seven-slices"))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"GATEWAY_PROT": "1"}, [("env-unknown-key", "error", "GATEWAY_PROT")]),
        ({"GATEWAY_PORT": "http"}, [("env-value", "error", "GATEWAY_PORT=http")]),
        ({"GATEWAY_PORT": ""}, [("env-value", "error", "GATEWAY_PORT=")]),
        ({"VLLM_IMAGE": "x" * 5000}, [("env-value", "error", "VLLM_IMAGE=" + "x" * 80)]),
        ({"GPU_COUNT": "4"}, [("env-derived", "error", "GPU_COUNT=4")]),
        (
            {"GPU_COUNT": "4", "VLLM_TENSOR_PARALLEL_SIZE": "4"},
            [("env-derived", "error", "GPU_COUNT=4")],
        ),
        ({"STACKWRIGHT_ENVIRONMENT": "dev"}, [("env-derived", "error", "STACKWRIGHT_ENVIRONMENT=dev")]),
        ({"NVIDIA_VISIBLE_DEVICES": "0,1"}, [("env-derived", "error", "NVIDIA_VISIBLE_DEVICES=0,1")]),
        (
            {"VLLM_TENSOR_PARALLEL_SIZE": "1"},
            [("parallel-sizes", "error", "1 replica(s) × tensor parallel 1 × pipeline parallel 1 = 1 GPUs")],
        ),
        ({"VLLM_TENSOR_PARALLEL_SIZE": "1", "VLLM_PIPELINE_PARALLEL_SIZE": "2"}, []),
        ({"GATEWAY_PORT": "5000", "VLLM_GPU_MEMORY_UTILIZATION": "0.5"}, []),
        (
            {"A": "1", "GATEWAY_PORT": "0"},
            [("env-unknown-key", "error", "A"), ("env-value", "error", "GATEWAY_PORT=0")],
        ),
    ],
)
def test_a_change_in_the_local_file_is_judged(changes: dict[str, str], found: list[tuple[str, str, str]]) -> None:
    findings = check_environment(PLAN, values(PLAN, **changes))
    assert told(findings) == found
    assert all(finding.fix and finding.expected for finding in findings)


def test_a_misspelt_key_is_answered_with_the_right_one() -> None:
    (finding,) = check_environment(PLAN, values(PLAN, gateway_prot="1"))
    assert finding.fix == "did you mean `GATEWAY_PORT`? Correct it in envs/.env.prod.local"


@pytest.mark.parametrize("key", PLAN.settings)
def test_a_key_that_is_missing_is_named(key: str) -> None:
    env = values(PLAN)
    del env[key]
    assert told(check_environment(PLAN, env)) == [("env-missing-key", "error", f"no {key}")]


def test_an_empty_environment_is_told_key_by_key() -> None:
    assert len(check_environment(PLAN, {})) == len(PLAN.settings)


def test_a_gpu_that_is_gone_is_named() -> None:
    host = recorded("2x-rtx3090-nvlink")
    fewer = replace(host, gpus=host.gpus[:1], links=(), p2p=((True,),))
    assert told(check_host(PLAN, fewer)) == [("gpu-missing", "error", "1× NVIDIA GeForce RTX 3090")]
    assert len(check_host(PLAN, recorded("cpu-small"))) == 2
    (first, _) = check_host(PLAN, recorded("nvml-mismatch"))
    assert first.found.startswith("NVML failing (")


@pytest.mark.parametrize(
    ("driver", "found"),
    [
        (Driver(version="535.1", cuda="12.2"), [("driver-too-old", "error", "driver runs CUDA 12.2")]),
        (Driver(version="590.1", cuda="13.9"), []),
        (Driver(version="590.1", cuda=None), []),
        (None, []),
    ],
)
def test_a_driver_that_is_too_old_for_the_image_is_named(
    driver: Driver | None, found: list[tuple[str, str, str]]
) -> None:
    assert told(check_host(PLAN, replace(recorded("2x-rtx3090-nvlink"), driver=driver))) == found


def test_a_bridge_that_was_taken_away_is_a_warning() -> None:
    host = recorded("2x-rtx3090-nvlink")
    loose = tuple(replace(link, kind=LinkKind.PCIE_HOST, lanes=None, version=None) for link in host.links)
    assert told(check_host(PLAN, replace(host, links=loose))) == [
        ("links-changed", "warning", "links between GPUs differ")
    ]


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
    (finding,) = check_host(SLICED, replace(host, gpus=(host.gpus[0], again, *host.gpus[2:])))
    assert (finding.check, finding.severity) == ("gpu-missing", Severity.ERROR)
    assert finding.found == "1× NVIDIA A100-SXM4-40GB (MIG on), 7× NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    assert finding.expected == (
        f"MIG slice {host.gpus[1].uuid} of the plan for engine; one that is made again has another UUID"
    )


def test_a_gpu_that_was_partitioned_since_is_named() -> None:
    """It still answers by its UUID, but CUDA runs on its slices alone."""
    host = recorded("2x-rtx3090-nvlink")
    gpus = (replace(host.gpus[0], mig=True), *host.gpus[1:])
    assert told(check_host(PLAN, replace(host, gpus=gpus))) == [
        ("gpu-partitioned", "error", f"GPU 0 ({host.gpus[0].uuid}) has MIG on")
    ]


def test_without_containers_a_slice_must_be_alone() -> None:
    """vLLM cannot name one of several; a pod with a single slice has no such doubt."""
    assert told(check_processes(SLICED)) == [
        ("slice-among-others", "error", f"MIG slice {SLICED.host.gpus[1].uuid} on a machine with other GPUs or slices")
    ]
    host = recorded("a100-seven-slices")
    pod = replace(host, gpus=host.gpus[:2], p2p=((True, False), (False, True)))
    assert check_processes(plan_for(pod)) == ()


@pytest.mark.parametrize("name", ["2x-rtx3090-nvlink", "1x-h200", "cpu-small"])
def test_what_the_driver_runs_by_itself_needs_no_image(name: str) -> None:
    assert check_processes(plan_for(recorded(name))) == ()


def test_the_shell_is_compared_by_value() -> None:
    """Compose prefers what is exported; the same value does no harm."""
    env = values(PLAN)
    shell = {"GATEWAY_PORT": "1", "VLLM_DTYPE": env["VLLM_DTYPE"], "PATH": "/bin"}
    (finding,) = check_shell(env, shell, "prod")
    assert (finding.check, finding.severity) == ("shell-overrides", Severity.ERROR)
    assert finding.found == "GATEWAY_PORT is exported in this shell with another value"
    assert "`unset GATEWAY_PORT`" in finding.fix
    assert "1" not in finding.found.split()
