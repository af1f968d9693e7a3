"""A start that Compose has under way: what is pulled, waited for, removed first and asked again; the `docker` program
is a stand-in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.domain.service import ServicePhase
from stackwright.errors import RuntimeRefusedError
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.runtime.compose import ComposeRuntime

from tests.planning.several import QWEN_8B, embedding, plan_of
from tests.planning_requests import recorded
from tests.runtime.docker import SERVICES, Docker, list_containers

pytestmark = pytest.mark.subprocess

# Far more looks than any of the stand-in's programs lives; a broken wait then fails instead of lasting for ever.
LOOKS = 100
PATIENCE_S = 60


def read(path: Path) -> str:
    """Return a file's text, empty until there is one."""
    return path.read_text().strip() if path.exists() else ""


def said(runtime: ComposeRuntime) -> list[tuple[str, str]]:
    """Prepare a stack and return what the person was told."""
    told: list[tuple[str, str]] = []
    runtime.prepare(lambda service, text: told.append((service, text)))
    return told


def report_until(runtime: ComposeRuntime, happened: Callable[[], bool]) -> None:
    """Ask for the services until something has happened; a machine that does much else takes its time."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        runtime.services()
        time.sleep(0.01)
        assert time.monotonic() < deadline


def test_until_compose_has_come_to_them_services_wait(stack: Stack, docker: Docker) -> None:
    list_containers(docker, "engine", "gateway")
    docker.run("engine", Status="exited", ExitCode=137, StartedAt="2026-11-21T03:00:00Z")
    docker.run("gateway", Status="running", Health={"Status": "healthy"}, StartedAt="2026-11-21T03:00:00Z")
    docker.reply("*' up '*", "exec sleep 60")
    runtime = ComposeRuntime(stack)
    runtime.up()
    assert {state.phase for state in runtime.services()} == {ServicePhase.WAITING}
    docker.reply("'stop id-'*", "exit 0")
    docker.reply("*' down '*", "exit 0")
    runtime.down()


def test_what_is_about_to_be_made_anew_waits_whatever_state_it_is_in(stack: Stack, docker: Docker) -> None:
    """Such as an engine that falls again and again, which an earlier generation takes the place of."""
    list_containers(docker, "engine", "redis")
    docker.run("engine", Status="restarting", ExitCode=1, RestartCount=2, Hash="another")
    docker.run("redis", Status="running", Health={"Status": "healthy"})
    docker.reply("*' up '*", "exec sleep 60")
    runtime = ComposeRuntime(stack)
    runtime.up(("engine",))
    assert [state.phase for state in runtime.services()] == [
        ServicePhase.WAITING,
        ServicePhase.HEALTHY,
        ServicePhase.WAITING,
    ]
    report_until(runtime, lambda: any(call.endswith(" --no-deps engine") for call in docker.calls))
    runtime.halt()


def test_what_an_ended_up_has_half_made_is_removed_first(stack: Stack, docker: Docker) -> None:
    """Its name would be taken; the container that it was to follow is still there."""
    list_containers(docker, "redis", "engine", "gateway")
    docker.run("redis", Status="running")
    docker.run("engine", Status="created", Name="0123456789ab_x-engine-1")
    docker.run("gateway", Status="created")
    docker.reply("'container rm '*", "exit 0")
    docker.reply("*' up '*", "exec sleep 60")
    runtime = ComposeRuntime(stack)
    runtime.up()
    removed = [call for call in docker.calls if call.startswith("container rm")]
    assert [call.split()[-1] for call in removed] == ["id-engine"]
    runtime.halt()


def test_down_ends_a_start_that_is_under_way(stack: Stack, docker: Docker, tmp_path: Path) -> None:
    list_containers(docker)
    # As Docker's client does: the plugin is a child, which a signal to the client alone would not reach.
    docker.reply("*' up '*", f"sleep 60 & echo $! >{tmp_path}/plugin; wait")
    docker.reply("*' down '*", "exit 0")
    runtime = ComposeRuntime(stack)
    runtime.up()
    report_until(runtime, lambda: bool(read(tmp_path / "plugin")))
    plugin = read(tmp_path / "plugin")
    runtime.down()
    status = Path("/proc") / plugin / "stat"
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_refused_start_is_told_once_compose_has_ended(stack: Stack, docker: Docker) -> None:
    list_containers(docker)
    port = "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:4000 failed: "
    docker.refuse("*' up '*", f" Container x  Starting\nError response from daemon: {port}port is already allocated\n")
    runtime = ComposeRuntime(stack)
    runtime.up()
    with pytest.raises(RuntimeRefusedError) as refusal:
        report_until(runtime, lambda: False)
    assert refusal.value.message == f"Docker refused: {port}port is already allocated"
    assert refusal.value.hint == (
        "stop what uses the port (`ss -ltnp` names it), or choose another with --set GATEWAY_PORT=..."
    )


def test_compose_is_asked_again_when_a_fallen_dependency_has_come_back(
    stack: Stack, docker: Docker, tmp_path: Path
) -> None:
    list_containers(docker, *SERVICES)
    healthy = {"Status": "running", "Health": {"Status": "healthy"}}
    docker.run("engine", Status="restarting", ExitCode=1, RestartCount=1)
    docker.run("redis", **healthy)
    docker.run("gateway", Status="exited", ExitCode=137, StartedAt="2026-11-21T03:00:00Z")
    first = f"touch {tmp_path}/again; echo 'dependency failed to start: container x is unhealthy' >&2; exit 1"
    docker.reply("*' up '*", f"if [ ! -e {tmp_path}/again ]; then {first}; fi")
    runtime = ComposeRuntime(stack)
    runtime.up()
    assert {runtime.services()[-1].phase for _ in range(LOOKS)} == {ServicePhase.WAITING}
    assert docker.count(" up ") == 1
    docker.run("engine", **healthy, RestartCount=1)
    # Once the second `up` has ended well, what it left behind is told as it is.
    report_until(runtime, lambda: runtime.services()[-1].phase is ServicePhase.EXITED)
    assert docker.count(" up ") == 2


def test_missing_images_are_pulled_with_progress(stack: Stack, docker: Docker) -> None:
    services = {"engine": {"image": "e:1"}, "redis": {"image": "r:1"}}
    docker.print("*' config '*", json.dumps({"services": services}))
    docker.print("'image inspect r:1'", json.dumps([{"Id": "sha256:1"}]))
    docker.refuse("'image inspect '*", "Error: No such image: e:1")
    layers = "1: Pulling from e\na1: Pulling fs layer\nb2: Pulling fs layer\nb2: Pull complete\na1: Pull complete\n"
    docker.print("'pull e:1'", layers)
    assert said(ComposeRuntime(stack)) == [
        ("engine", "pulling e:1"),
        ("engine", "pulling e:1: 1 of 2 layers"),
        ("engine", "pulling e:1: 2 of 2 layers"),
    ]


def test_an_image_of_ours_is_built_where_its_recipe_is(stack: Stack, docker: Docker, tmp_path: Path) -> None:
    image = "stackwright/multimodal:1"
    docker.print("*' config '*", json.dumps({"services": {"multimodal": {"image": image}}}))
    docker.refuse("'image inspect '*", f"Error: No such image: {image}")
    with pytest.raises(RuntimeRefusedError) as refusal:
        said(ComposeRuntime(stack))
    assert refusal.value.message == f"multimodal: image {image} is not here, and no registry has it"
    assert refusal.value.hint == (
        f"build it in a clone of Stackwright: `docker build -f compose/images/multimodal/Dockerfile -t {image} .`"
    )

    recipe = tmp_path / "compose" / "images" / "multimodal" / "Dockerfile"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("FROM scratch\n")
    stack = replace(stack, root=tmp_path)
    docker.print("'build --file '*", "Step 1/1 : FROM scratch\n")
    assert said(ComposeRuntime(stack)) == [("multimodal", f"building {image} (minutes, once)")]
    assert docker.count(f"build --file {recipe} --tag {image} {tmp_path}") == 1
    docker.refuse("'build --file '*", "Step 1/1 : FROM scratch\npull access denied for python\n")
    with pytest.raises(RuntimeRefusedError, match=f"multimodal: cannot build image {image}: pull access denied"):
        said(ComposeRuntime(stack))


@pytest.mark.parametrize(
    ("service", "variable"),
    [
        ("engine", "VLLM_IMAGE"),
        ("engine-2", "VLLM_IMAGE_2"),
        ("gateway", "LITELLM_IMAGE"),
        ("redis", "REDIS_IMAGE"),
    ],
)
def test_image_that_cannot_be_pulled_names_its_variable(
    stack: Stack, docker: Docker, service: str, variable: str
) -> None:
    plan = plan_of(recorded("1x-rtx3090"), QWEN_8B, embedding())  # the second on the processor, by another image
    stack = replace(stack, plan=plan, env={key: setting.value for key, setting in flat_settings(plan).items()})
    docker.print("*' config '*", json.dumps({"services": {service: {"image": "x:1"}}}))
    docker.refuse("'image inspect '*", "Error: No such image: x:1")
    docker.refuse("'pull x:1'", "Error response from daemon: manifest for x:1 not found: manifest unknown")
    with pytest.raises(RuntimeRefusedError) as refusal:
        said(ComposeRuntime(stack))
    expected = f"{service}: cannot pull image x:1: manifest for x:1 not found: manifest unknown"
    assert refusal.value.message == expected
    assert refusal.value.hint == (
        f"set an image that this machine can pull: --set {variable}=…; or build one: compose/images/"
    )


def test_a_stack_that_has_answered_may_restart_however_often(stack: Stack, docker: Docker) -> None:
    """Docker counts restarts over a container's life: the third fall within a year would be the last."""
    list_containers(docker, *SERVICES)
    for name in SERVICES:
        docker.run(name, Status="running")
    docker.reply("'update '*", "exit 0")
    ComposeRuntime(stack).prove()
    assert docker.count("update --restart=on-failure id-engine id-redis id-gateway") == 1
    docker.refuse("'container list'*", "Cannot connect to the Docker daemon")
    ComposeRuntime(stack).prove()  # what has answered is not undone for it
