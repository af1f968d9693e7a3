"""What is asked of the container engine, with a program named `docker` on PATH in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from stackwright.domain.machine import ContainerAnswer, Unseen
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.validation.containers import (
    find_images_folder,
    find_missing_images,
    list_containers,
    probe_container,
)

from tests.planning_requests import plan_for, recorded

PLAN = plan_for(recorded("2x-rtx3090-nvlink"))
STACK = Stack(
    root=Path("/nowhere"),
    state=Path("/nowhere"),
    plan=PLAN,
    env={key: setting.value for key, setting in flat_settings(PLAN).items()},
)

pytestmark = pytest.mark.subprocess
Docker = Callable[[str], Path]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Give what puts a script in the place of the client; each call is kept in `calls`, one argument a line."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("DOCKER_HOST", raising=False)

    def write(script: str) -> Path:
        program = tmp_path / "docker"
        calls = tmp_path / "calls"
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {calls}\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        return calls

    return write


def test_images_that_are_here_are_none_missing(docker: Docker) -> None:
    docker("echo sha256:1; echo sha256:2")
    assert find_missing_images(("a:1", "b:2")) == ()


@pytest.mark.parametrize("words", ["Error: No such image: b:2", "Error response from daemon: No such image: b:2"])
def test_a_missing_image_is_named(words: str, docker: Docker) -> None:
    docker(f"echo sha256:1; echo '{words}' >&2; exit 1")
    assert find_missing_images(("a:1", "b:2", "b:22")) == ("b:2",)


def test_an_engine_that_refuses_is_unseen_in_its_words(docker: Docker) -> None:
    docker("echo 'permission denied.' >&2; exit 1")
    assert find_missing_images(("a:1",)) == Unseen(why="permission denied")
    assert list_containers(STACK) == Unseen(why="permission denied")
    assert find_images_folder() == Unseen(why="permission denied")


def test_without_a_client_nothing_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isinstance(find_missing_images(("a:1",)), Unseen)


def test_the_images_folder_is_one_of_this_machine(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(f"echo {tmp_path}")
    assert find_images_folder() == str(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2376")
    assert isinstance(find_images_folder(), Unseen)
    monkeypatch.delenv("DOCKER_HOST")
    docker("echo /nowhere/docker")
    assert find_images_folder() == Unseen(why="/nowhere/docker is on another or a virtual machine")


def test_a_container_is_started_closed_with_the_gpus_and_the_user(docker: Docker) -> None:
    calls = docker("echo 'GPU 0: X (UUID: GPU-a)'; echo 'GPU 1: X (UUID: MIG-b/1/2)'; echo /dev/nvidiactl")
    seen = probe_container(STACK, ("GPU-a", "MIG-b"))
    assert seen == ContainerAnswer(refusal=None, uuids=("GPU-a", "MIG-b/1/2"), has_devices=True, named=True)
    words = calls.read_text(encoding="utf-8").splitlines()
    assert words[0] == "run"
    assert '--gpus="device=GPU-a,MIG-b"' in words
    assert {"--rm", "--pull=never", "--network=none", "--read-only", "--cap-drop=ALL", "--user=1000:1000"} <= set(words)
    assert STACK.env["VLLM_IMAGE"] in words


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("true", ContainerAnswer(refusal=None, uuids=(), has_devices=False, named=False)),
        ("echo /dev/dxg", ContainerAnswer(refusal=None, uuids=(), has_devices=True, named=False)),
        (
            "echo 'docker: Error response from daemon: could not select device driver \"\".' >&2; exit 125",
            ContainerAnswer(
                refusal='Error response from daemon: could not select device driver ""',
                uuids=(),
                has_devices=False,
                named=False,
            ),
        ),
    ],
    ids=["nothing", "windows", "refused"],
)
def test_what_a_container_saw(script: str, answer: ContainerAnswer, docker: Docker) -> None:
    docker(script)
    assert probe_container(STACK, ("GPU-a",)) == answer


def test_a_container_that_does_not_come_is_removed(docker: Docker) -> None:
    calls = docker('[ "$1" = rm ] || exec sleep 60')
    assert probe_container(STACK, ("GPU-a",), limit_s=0.2) == Unseen(why="no answer in 0.2 seconds")
    words = calls.read_text(encoding="utf-8").splitlines()
    name = f"{STACK.name}-gpu-check-{os.getpid()}"
    assert words[-3:] == ["rm", "--force", name]
    # A busy machine may end the client before it has written down how it was called.
    assert {word for word in words if word.startswith("--name=")} <= {f"--name={name}"}
