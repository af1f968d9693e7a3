"""A program in the place of a service: what it has of it, and what it does not have."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from stackwright.domain.service import Joined, SettingRef, VisibleGpus
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Stack
from stackwright.runtime.compose import ComposeRuntime
from stackwright.runtime.docker import ask
from stackwright.runtime.processes import ProcessesRuntime
from stackwright.runtime.provision import MARK, environment_folder
from stackwright.runtime.trial import container_words, gpu_words, run_in_container, variables_in_container

from tests.runtime.docker import Docker

SERVICE: dict[str, Any] = {
    "image": "engine:1",
    "user": "1000:1000",
    "read_only": True,
    "shm_size": "4294967296",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": ["/tmp:exec"],
    "secrets": [{"source": "engine_key"}],
    "networks": {"inside": None},
    "environment": {"HOME": "/tmp", "HF_ENDPOINT": None, "PRICE": "5$$"},
    "volumes": [
        {"type": "bind", "source": "/data/a,b", "target": "/data/a,b"},
        {"type": "bind", "source": "/files", "target": "/etc/stackwright", "read_only": True},
        {"type": "volume", "source": "x", "target": "/x"},
    ],
}


def test_a_container_is_as_confined_as_the_services_and_has_no_secrets() -> None:
    assert container_words(SERVICE) == [
        *("--init", "--read-only", "--user=1000:1000", "--shm-size=4294967296", "--cap-drop=ALL"),
        *("--security-opt=no-new-privileges:true", "--tmpfs=/tmp:exec"),
        '--mount=type=bind,"source=/data/a,b","target=/data/a,b"',
        "--mount=type=bind,source=/files,target=/etc/stackwright,readonly",
    ]


def test_gpus_are_given_by_uuid() -> None:
    assert gpu_words(("GPU-1", "GPU-2")) == ['--gpus="device=GPU-1,GPU-2"']
    assert gpu_words(()) == []


def test_variables_are_what_compose_reads_without_its_escapes() -> None:
    assert variables_in_container(SERVICE) == {"HOME": "/tmp", "PRICE": "5$"}


@pytest.mark.subprocess
def test_variables_stand_in_a_file_of_ones_own_that_is_gone_afterwards(docker: Docker, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    look = f'for word; do case "$word" in --env-file=*) cp -p "${{word#*=}}" {kept};; esac; done; cat'
    docker.reply("'run '*", look)
    answer = run_in_container(["docker"], "x-asked", ["engine:1"], {"A": "value", "B": "x\ny"}, "question", 60)
    assert (answer.code, answer.out) == (0, "question")
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("A=value\n", 0o600)
    [call] = docker.calls
    assert "value" not in call
    assert call.startswith("run --rm --interactive --name=x-asked-")
    assert not Path(call.partition("--env-file=")[2].split()[0]).exists()


@pytest.mark.subprocess
def test_a_container_that_takes_too_long_is_removed(docker: Docker) -> None:
    docker.reply("'run '*", "exec sleep 60")
    docker.reply("'rm '*", "exit 0")
    answer = run_in_container(["docker"], "x-asked", ["engine:1"], {}, "", 0.2)
    assert answer.code is None
    assert docker.calls[-1].startswith("rm --force x-asked-")


@pytest.mark.subprocess
def test_without_its_image_a_service_has_no_place(stack: Stack, docker: Docker) -> None:
    docker.print("*' config --format json'*", '{"services": {"engine": {"image": "engine:1"}}}')
    docker.refuse("'image inspect'*", "Error: No such image: engine:1")
    assert ComposeRuntime(stack).trial(stack.services[0], ()) is None


@pytest.mark.subprocess
def test_a_process_runs_in_the_services_environment(stack: Stack) -> None:
    engine = stack.services[0]
    runtime = ProcessesRuntime(stack)
    assert runtime.trial(engine, ()) is None
    assert engine.as_process.recipe is not None
    folder = environment_folder(stack.state, engine.as_process.recipe)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / MARK).touch()
    name = SettingRef(key="VLLM_SERVED_MODEL_NAME")
    trial = runtime.trial(engine, (Joined(parts=("as ", name)), VisibleGpus(gpu_uuids=(), setting=name)))
    assert trial is not None
    assert trial.texts == (f"as {stack.value(name)}", stack.value(name))
    answer = trial.run("import os, sys; print(sys.stdin.read(), os.environ['HF_HOME'], os.getcwd())", "asked", 60)
    assert answer.out == f"asked {stack.env['HF_HOME']} /\n"
    assert not list(folder.parent.parent.glob("run/*"))


@pytest.mark.subprocess
def test_a_program_reads_what_it_is_given_and_has_only_the_variables_that_it_is_given() -> None:
    answer = ask(["/bin/sh", "-c", "cat; echo $ONE$PWD"], given="text ", variables={"ONE": "1"}, folder="/")
    assert (answer.code, answer.out) == (0, "text 1/\n")


@pytest.mark.subprocess
def test_beside_the_front_a_container_shares_its_network_and_has_no_gpu(stack: Stack, docker: Docker) -> None:
    docker.print("*' config --format json'*", '{"services": {"engine": {"image": "engine:1"}}}')
    docker.print("'image inspect'*", '[{"Id": "sha256:1"}]')
    labels = {"com.docker.compose.service": stack.front.name}
    found: dict[str, Any] = {"Id": "id-front", "State": {"Status": "running"}, "RestartCount": 0}
    found["Config"] = {"Image": "gateway:1", "Labels": labels}
    docker.print("'ps --all --quiet --no-trunc '*", "id-front")
    docker.print("'inspect id-front'", json.dumps([found]))
    docker.reply("'run '*", "cat")
    place = ComposeRuntime(stack).beside(stack.services[0])
    assert place is not None
    assert stack.front.port is not None
    assert place.port == stack.front.port.number
    assert place.run("program", "with a key", 60).out == "with a key"
    [call] = [call for call in docker.calls if call.startswith("run ")]
    assert "--network=container:id-front" in call
    assert call.endswith("--entrypoint=python3 engine:1 -c program")
    assert "with a key" not in call


@pytest.mark.subprocess
def test_beside_a_front_that_does_not_run_there_is_no_place(stack: Stack, docker: Docker) -> None:
    docker.print("'ps --all --quiet --no-trunc '*", "")
    with pytest.raises(RuntimeRefusedError, match=r": gateway does not run$"):
        ComposeRuntime(stack).beside(stack.services[0])
