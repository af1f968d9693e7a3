"""What Compose makes of the files, compared with the plan: the JSON form that `docker compose config` prints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from stackwright.project.credentials import ensure_secrets
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.validation.compose_config import check_container_limits, check_merged, read_secret_texts, size_bytes

from tests.planning_requests import plan_for, recorded
from tests.runtime.test_programs import in_force


def stack_of(name: str) -> Stack:
    """Return the stack of a recorded host."""
    plan = plan_for(recorded(name))
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    return Stack(root=Path("/nowhere"), state=Path("/nowhere"), plan=plan, env=env)


def merged(stack: Stack) -> dict[str, Any]:
    """Return the merged file as Compose 2.26.1 prints it, as far as it is read."""
    services: dict[str, Any] = {
        replica.name: {
            "command": in_force(stack, replica),
            "shm_size": str(size_bytes(stack.env["VLLM_SHM_SIZE"])),
            "environment": {"HOME": "/tmp", "HF_ENDPOINT": None},
            "ulimits": {"nofile": {"soft": 16384, "hard": 16384}},
            "deploy": {
                "resources": {
                    "reservations": {
                        "devices": [
                            {"driver": "nvidia", "capabilities": ["gpu"], "device_ids": list(replica.gpu_uuids)}
                        ]
                    }
                }
            },
        }
        for replica in stack.plan.replicas
    }
    services["gateway"] = {"ports": [{"target": 4000, "published": "4000", "host_ip": "127.0.0.1"}]}
    services["gateway"]["ulimits"] = {"nofile": 65536}
    services["gateway"]["volumes"] = [{"type": "bind", "source": "/x/gateway.yaml", "target": "/etc/gateway.yaml"}]
    services["redis"] = {"command": None, "environment": None}
    return {"name": "stackwright-prod", "services": services}


NVLINK = stack_of("2x-rtx3090-nvlink")
PCIE = stack_of("2x-rtx3090-pcie")


@pytest.mark.parametrize("stack", [NVLINK, PCIE], ids=["one", "two"])
def test_what_the_plan_says_has_no_finding(stack: Stack) -> None:
    assert check_merged(stack, merged(stack), read_secret_texts(stack)) == ()


def test_a_stack_without_gpus_reserves_none() -> None:
    stack = stack_of("cpu-small")
    file = merged(stack)
    forms: list[dict[str, Any]] = [{}, {"deploy": {}}, {"deploy": {"resources": {"reservations": {"devices": None}}}}]
    for form in forms:
        given = {"command": in_force(stack, stack.plan.replicas[0]), "shm_size": "4294967296"}
        file["services"]["engine"] = {**given, **form}
        assert check_merged(stack, file, read_secret_texts(stack)) == ()


def drop_gpus(services: dict[str, Any]) -> None:
    """Do what python-on-whales' typed form does."""
    del services["engine"]["deploy"]


def one_gpu(services: dict[str, Any]) -> None:
    """Reserve the first GPU only."""
    services["engine"]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"].pop()


def other_words(services: dict[str, Any]) -> None:
    """Start the engine with a flag more."""
    services["engine"]["command"].append("--trust-remote-code")


def no_capability(services: dict[str, Any]) -> None:
    """Reserve devices, but no GPU of them."""
    services["engine"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] = ["tpu"]


def little_shared_memory(services: dict[str, Any]) -> None:
    """Leave the shared memory at the engine's default."""
    del services["engine"]["shm_size"]


def to_everyone(services: dict[str, Any]) -> None:
    """Publish the gateway on every address."""
    services["gateway"]["ports"][0].pop("host_ip")


def publish(services: dict[str, Any]) -> None:
    """Open the engine to the world."""
    services["engine"]["ports"] = [{"target": 8000}]


@pytest.mark.parametrize(
    ("harm", "check", "found"),
    [
        (lambda services: services.pop("engine"), "compose-service", "no service engine"),
        (drop_gpus, "compose-gpus", "engine reserves no GPU"),
        (one_gpu, "compose-gpus", f"engine reserves ['{NVLINK.plan.replicas[0].gpu_uuids[0]}']"),
        (other_words, "compose-command", "engine has other arguments"),
        (publish, "compose-ports", "engine publishes a port"),
        (no_capability, "compose-gpus", "engine reserves devices without the capability `gpu`"),
        (little_shared_memory, "compose-shared-memory", "engine has Docker's default of 64 MB"),
        (to_everyone, "compose-ports", "the gateway is published on every address"),
    ],
)
def test_what_differs_from_the_plan_is_an_error(
    harm: Callable[[dict[str, Any]], object], check: str, found: str
) -> None:
    file = copy.deepcopy(merged(NVLINK))
    harm(file["services"])
    (finding,) = check_merged(NVLINK, file, read_secret_texts(NVLINK))
    assert (finding.check, finding.severity.value, finding.found) == (check, "error", found)
    assert "configure-gpu prod`" in finding.fix or "compose/compose.yaml" in finding.fix


def test_the_second_replica_is_compared_too() -> None:
    file = merged(PCIE)
    del file["services"]["engine-2"]
    assert [finding.found for finding in check_merged(PCIE, file, read_secret_texts(PCIE))] == ["no service engine-2"]


@pytest.mark.parametrize(
    ("service", "key", "value", "found"),
    [
        ("engine", "privileged", True, "engine has `privileged`"),
        ("gateway", "network_mode", "host", "gateway has `network_mode: host`"),
        ("redis", "pid", "host", "redis has `pid: host`"),
        ("engine", "volumes", [{"source": "/var/run/docker.sock"}], "engine has Docker's socket"),
    ],
)
def test_what_opens_a_container_is_a_warning(service: str, key: str, value: object, found: str) -> None:
    file = merged(NVLINK)
    file["services"][service][key] = value
    (finding,) = check_merged(NVLINK, file, read_secret_texts(NVLINK))
    assert (finding.check, finding.severity.value, finding.found) == ("compose-privileges", "warning", found)


def test_a_secret_in_a_variable_is_found_and_not_quoted(tmp_path: Path) -> None:
    stack = replace(NVLINK, root=tmp_path)
    ensure_secrets(stack.secrets, {"HF_TOKEN": "hf-" + "a1b2" * 8}, tmp_path)
    file = merged(stack)
    assert check_merged(stack, file, read_secret_texts(stack)) == ()
    key = (stack.secrets / "litellm_master_key").read_text()
    file["services"]["gateway"]["environment"] = {"LITELLM_MASTER_KEY": key}
    file["services"]["redis"]["command"] = [
        "redis-server",
        "--requirepass",
        (stack.secrets / "redis_password").read_text(),
    ]
    findings = check_merged(stack, file, read_secret_texts(stack))
    assert [(each.check, each.found) for each in findings] == [
        ("compose-secret", "gateway has litellm_master_key in a variable or an argument"),
        ("compose-secret", "redis has redis_password in a variable or an argument"),
    ]
    assert key not in repr(findings)


@pytest.mark.parametrize(
    ("ulimits", "infiniband", "found"),
    [
        ({"nofile": 16384}, False, []),
        ({"nofile": {"soft": 16384, "hard": 16384}, "memlock": -1}, True, []),
        ({"nofile": 16384}, True, ["engine has a limit of locked memory"]),
        ({"nofile": {"soft": 1024, "hard": 16384}}, False, ["engine may open 1024"]),
        (None, False, ["engine may open the Docker default of files (1024 since version 29)"]),
    ],
)
def test_limits_of_containers(ulimits: object, infiniband: bool, found: list[str]) -> None:
    file = merged(NVLINK)
    assert list(check_container_limits(NVLINK, file, infiniband=False)) == []
    file["services"]["engine"]["ulimits"] = ulimits
    findings = check_container_limits(NVLINK, file, infiniband=infiniband)
    assert [(each.severity.value, each.found) for each in findings] == [("warning", words) for words in found]
