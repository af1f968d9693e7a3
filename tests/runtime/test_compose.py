"""The compose runtime against a stand-in for the `docker` program: what it asks for, and what it makes of the replies.

The real engine is met in tests/integration.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import structs
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Stack
from stackwright.runtime.compose import ComposeRuntime, command_by_hand

from tests.planning_requests import with_replicas
from tests.runtime.docker import SERVICES, Docker, list_containers

pytestmark = pytest.mark.subprocess


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"Status": "created"}, ServiceState(name="engine", phase=ServicePhase.WAITING)),
        (
            {"Status": "running", "Health": {"Status": "starting"}},
            ServiceState(name="engine", phase=ServicePhase.STARTING),
        ),
        (
            {"Status": "running", "Health": {"Status": "healthy"}, "RestartCount": 1},
            ServiceState(name="engine", phase=ServicePhase.HEALTHY, restarts=1),
        ),
        (
            {"Status": "running", "Health": {"Status": "unhealthy"}},
            ServiceState(name="engine", phase=ServicePhase.UNHEALTHY),
        ),
        ({"Status": "running"}, ServiceState(name="engine", phase=ServicePhase.HEALTHY)),
        (
            {"Status": "restarting", "ExitCode": 1, "RestartCount": 2},
            ServiceState(name="engine", phase=ServicePhase.STARTING, restarts=2, detail="restarting after exit code 1"),
        ),
        ({"Status": "paused"}, ServiceState(name="engine", phase=ServicePhase.UNHEALTHY, detail="paused")),
        (
            {"Status": "exited", "ExitCode": 137, "OOMKilled": True},
            ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=137, detail="out of memory"),
        ),
        (
            {"Status": "exited", "ExitCode": 127, "Error": "exec: not found"},
            ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=127, detail="exec: not found"),
        ),
        ({"Status": "dead", "ExitCode": 1}, ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=1)),
        ({"Status": "removing"}, ServiceState(name="engine", phase=ServicePhase.ABSENT)),
    ],
)
def test_container_state_becomes_a_phase(
    stack: Stack, docker: Docker, state: dict[str, object], expected: ServiceState
) -> None:
    list_containers(docker, "engine")
    docker.run("engine", **state)
    found = ComposeRuntime(stack).services()[0]
    assert structs.replace(found, traces=expected.traces) == expected


def test_every_service_is_reported_without_a_container(stack: Stack, docker: Docker) -> None:
    list_containers(docker)
    expected = tuple(ServiceState(name=name, phase=ServicePhase.ABSENT) for name in SERVICES)
    assert ComposeRuntime(stack).services() == expected


def test_only_containers_of_this_project_are_asked_for(stack: Stack, docker: Docker) -> None:
    list_containers(docker)
    ComposeRuntime(stack).services()
    assert "label=com.docker.compose.project=stackwright-dev" in docker.calls[0]


def test_container_that_vanishes_between_two_looks_is_absent(stack: Stack, docker: Docker) -> None:
    list_containers(docker, "redis")
    docker.refuse("'container inspect'*", "Error response from daemon: No such container: id-redis")
    assert {state.phase for state in ComposeRuntime(stack).services()} == {ServicePhase.ABSENT}


def test_changes_are_what_compose_would_start_or_make_anew(stack: Stack, docker: Docker) -> None:
    list_containers(docker, "engine", "gateway", "engine-2")
    docker.run("engine", Status="running", Hash="another")
    docker.run("gateway", Status="exited", ExitCode=0)
    docker.run("engine-2", Status="running")
    assert [(change.name, change.reason) for change in ComposeRuntime(stack).changes()] == [
        ("engine", "its settings have changed"),
        ("redis", "it is not running"),
        ("gateway", "it has ended"),
        ("engine-2", "the plan no longer has it"),
    ]


def test_nothing_is_changed_where_every_hash_is_the_same(stack: Stack, docker: Docker) -> None:
    list_containers(docker, *SERVICES)
    for name in SERVICES:
        docker.run(name, Status="running")
    assert ComposeRuntime(stack).changes() == ()


def test_what_a_service_reads_is_its_mounted_files_and_secrets(stack: Stack, docker: Docker, tmp_path: Path) -> None:
    key, script = tmp_path / "key", tmp_path / "start.sh"
    key.write_text("one")
    script.write_text("run")
    volumes = [{"type": "bind", "source": str(each), "target": "/x"} for each in (script, tmp_path)]
    services = {
        "gateway": {"volumes": volumes, "secrets": [{"source": "key", "target": "key"}]},
        "redis": {"volumes": volumes, "secrets": None},
    }
    docker.print("*' config '*", json.dumps({"services": services, "secrets": {"key": {"file": str(key)}}}))
    before = ComposeRuntime(stack).reads()
    key.write_text("two")
    after = ComposeRuntime(stack).reads()
    assert [name for name in services if before[name] != after[name]] == ["gateway"]


def test_owner_is_the_folder_that_the_containers_were_made_from(stack: Stack, docker: Docker, tmp_path: Path) -> None:
    list_containers(docker, "redis")
    label = {"com.docker.compose.project.working_dir": f"{tmp_path}/other/compose"}
    docker.print("'container inspect id-redis'", json.dumps([{"Id": "id-redis", "Config": {"Labels": label}}]))
    assert ComposeRuntime(stack).owner() == tmp_path / "other"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            "start Docker, or run without Docker: --runtime processes",
        ),
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
            "join the docker group, or run without Docker: --runtime processes",
        ),
        (
            'could not select device driver "nvidia" with capabilities: [[gpu]]',
            "install the NVIDIA Container Toolkit and restart Docker",
        ),
        ("something that nobody has seen", None),
    ],
)
def test_refusal_has_the_engines_words_and_a_hint(stack: Stack, docker: Docker, words: str, hint: str | None) -> None:
    docker.refuse("*", words)
    with pytest.raises(RuntimeRefusedError) as refusal:
        ComposeRuntime(stack).services()
    assert refusal.value.message == f"Docker refused: {words}"
    assert refusal.value.hint == hint


def test_machine_without_docker_is_refused(stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeRefusedError, match="no `docker` command on this machine"):
        ComposeRuntime(stack).services()


def test_logs_are_empty_without_a_container(stack: Stack, docker: Docker) -> None:
    list_containers(docker)
    assert ComposeRuntime(stack).logs("engine", 10) == ""


def test_logs_join_both_streams(stack: Stack, docker: Docker) -> None:
    list_containers(docker, "engine")
    docker.run("engine", Status="running")
    docker.reply("'container logs '*", "echo out; echo err >&2")
    assert sorted(ComposeRuntime(stack).logs("engine", 10).split()) == ["err", "out"]


def test_command_by_hand_is_relative_and_takes_the_local_file_last(stack: Stack) -> None:
    base = "-f compose/compose.yaml -f compose/generated/dev/override.yaml up -d"
    assert command_by_hand(stack) == f"docker compose --env-file envs/.env.dev {base}"
    local = stack.root / "envs" / ".env.dev.local"
    local.parent.mkdir(parents=True)
    local.touch()
    expected = f"docker compose --env-file envs/.env.dev --env-file envs/.env.dev.local {base}"
    assert command_by_hand(stack) == expected


def test_further_replicas_come_before_redis_and_gateway(stack: Stack, docker: Docker) -> None:
    list_containers(docker)
    (first,) = stack.plan.replicas
    plan = with_replicas(stack.plan, first, structs.replace(first, name="engine-2"))
    states = ComposeRuntime(structs.replace(stack, plan=plan)).services()
    assert [state.name for state in states] == ["engine", "engine-2", "redis", "gateway"]
