"""The compose runtime against a stand-in for the `docker` program: what it asks for, and what it makes of the replies.

The stand-in is the boundary itself, a script on the PATH; python-on-whales in between is real. Its replies are those of
Docker 28.2 with Engine 20.10.24 and Compose 2.26.1, shortened. The real engine is met in tests/integration.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from generator.domain.environment import Environment
from generator.domain.service import ServicePhase, ServiceState
from generator.errors import RuntimeRefusedError
from generator.runtime import Stack
from generator.runtime.compose import ComposeRuntime, command_by_hand
from tests.planning_requests import plan_for, recorded

pytestmark = pytest.mark.subprocess

SERVICES = ("engine", "redis", "gateway")
# Far more looks than any of the stand-in's programs lives; a broken wait then fails instead of lasting for ever.
LOOKS = 100
# What the stand-in does with a command that the test gives no reply for.
UNEXPECTED = 'echo "unexpected: $*" >&2; exit 99'


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Give a stack whose files do not matter: nobody but the stand-in is asked to read them."""
    plan = plan_for(recorded("cpu-small"), Environment.DEV)
    env = {key: setting.value for key, setting in plan.settings.items()}
    return Stack(root=tmp_path / "project", state=tmp_path / "state", plan=plan, env=env)


class Docker:
    """A `docker` program that answers from a table of shell patterns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._program = folder / "bin" / "docker"
        self._program.parent.mkdir()
        self._calls = folder / "calls"
        self._replies: dict[str, str] = {}
        monkeypatch.setenv("PATH", f"{self._program.parent}:/usr/bin:/bin")

    def reply(self, pattern: str, action: str) -> None:
        """Run `action` for the commands that match a pattern of `case`, from now on; the first that matches wins."""
        self._replies[pattern] = action
        cases = "\n".join(f"{pattern}) {action} ;;" for pattern, action in self._replies.items())
        self._program.write_text(
            f'#!/bin/sh\necho "$*" >>{self._calls}\ncase "$*" in\n{cases}\n*) {UNEXPECTED} ;;\nesac\n'
        )
        self._program.chmod(0o755)

    def print(self, pattern: str, text: str) -> None:
        """Print a text for the commands that match."""
        self.reply(pattern, f"cat <<'END'\n{text}\nEND\n")

    def refuse(self, pattern: str, words: str) -> None:
        """Fail with these words for the commands that match."""
        self.reply(pattern, f"cat >&2 <<'END'\n{words}\nEND\nexit 1")

    def run(self, name: str, **state: object) -> None:
        """Have a container of a service, in the state that the engine reports of it."""
        restarts = state.pop("RestartCount", 0)
        label = {"service": name, "config-hash": state.pop("Hash", f"hash-of-{name}")}
        config = {"Labels": {f"com.docker.compose.{key}": value for key, value in label.items()}}
        found = {
            "Id": f"id-{name}",
            "Name": f"/{state.pop('Name', f'x-{name}-1')}",
            "State": state,
            "RestartCount": restarts,
            "Config": config,
        }
        self.print(f'"container inspect id-{name}"', json.dumps([found]))

    @property
    def calls(self) -> list[str]:
        """Every command so far."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def count(self, word: str) -> int:
        """Return how many commands so far had a word."""
        return sum(word in call for call in self.calls)


def read(path: Path) -> str:
    """Return a file's text, empty until there is one."""
    return path.read_text().strip() if path.exists() else ""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Give the only `docker` program that the test will find."""
    return Docker(tmp_path, monkeypatch)


def list_containers(docker: Docker, *names: str) -> None:
    """Let the engine list the containers of these services."""
    docker.print("'container list'*", "\n".join(f"id-{name}" for name in names))
    docker.print("*' config --hash '*", "\n".join(f"{name} hash-of-{name}" for name in SERVICES))


def said(runtime: ComposeRuntime) -> list[tuple[str, str]]:
    """Prepare a stack and return what the person was told."""
    told: list[tuple[str, str]] = []
    runtime.prepare(lambda service, text: told.append((service, text)))
    return told


def report_often(runtime: ComposeRuntime) -> None:
    """Ask for the services far more often than a start under way needs."""
    for _ in range(LOOKS):
        runtime.services()


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
    assert ComposeRuntime(stack).services()[0] == expected


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


def test_until_compose_has_come_to_them_services_wait(stack: Stack, docker: Docker) -> None:
    list_containers(docker, "engine", "gateway")
    docker.run("engine", Status="exited", ExitCode=137, StartedAt="2026-11-21T03:00:00Z")
    docker.run("gateway", Status="running", Health={"Status": "healthy"}, StartedAt="2026-11-21T03:00:00Z")
    docker.reply("*' up '*", "exec sleep 60")
    runtime = ComposeRuntime(stack)
    runtime.up()
    assert {state.phase for state in runtime.services()} == {ServicePhase.WAITING}
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
    assert any(call.endswith(" --no-deps engine") for _ in range(LOOKS) if runtime.services() for call in docker.calls)
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


def test_changes_are_what_compose_would_start_or_make_anew(stack: Stack, docker: Docker) -> None:
    list_containers(docker, "engine", "gateway", "engine-2")
    docker.run("engine", Status="running", Hash="another")
    docker.run("gateway", Status="exited", ExitCode=0)
    docker.run("engine-2", Status="running")
    assert [(change.name, change.reason) for change in ComposeRuntime(stack).changes()] == [
        ("engine", "its settings have changed"),
        ("redis", "it does not run"),
        ("gateway", "it has ended"),
        ("engine-2", "the plan has lost it"),
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


def test_down_ends_a_start_that_is_under_way(stack: Stack, docker: Docker, tmp_path: Path) -> None:
    list_containers(docker)
    # As Docker's client does: the plugin is a child, which a signal to the client alone would not reach.
    docker.reply("*' up '*", f"sleep 60 & echo $! >{tmp_path}/plugin; wait")
    docker.reply("*' down '*", "exit 0")
    runtime = ComposeRuntime(stack)
    runtime.up()
    plugin = next(text for _ in range(LOOKS) if runtime.services() and (text := read(tmp_path / "plugin")))
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
        report_often(runtime)
    assert refusal.value.message == f"Docker refused: {port}port is already allocated"
    assert refusal.value.hint == "stop what uses the port, or choose another with --set GATEWAY_PORT=..."


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
    report_often(runtime)
    assert docker.count(" up ") == 2
    # The second `up` has ended well; only now is what it left behind told as it is.
    assert runtime.services()[-1].phase is ServicePhase.EXITED


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


@pytest.mark.parametrize(
    ("service", "variable"), [("engine-2", "VLLM_IMAGE"), ("gateway", "LITELLM_IMAGE"), ("redis", "REDIS_IMAGE")]
)
def test_image_that_cannot_be_pulled_names_its_variable(
    stack: Stack, docker: Docker, service: str, variable: str
) -> None:
    docker.print("*' config '*", json.dumps({"services": {service: {"image": "x:1"}}}))
    docker.refuse("'image inspect '*", "Error: No such image: x:1")
    docker.refuse("'pull x:1'", "Error response from daemon: manifest for x:1 not found: manifest unknown")
    with pytest.raises(RuntimeRefusedError) as refusal:
        said(ComposeRuntime(stack))
    expected = f"{service}: image x:1 cannot be pulled: manifest for x:1 not found: manifest unknown"
    assert refusal.value.message == expected
    assert refusal.value.hint == (
        f"name one that this machine can reach: --set {variable}=...; or build one: compose/images/"
    )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            "start Docker, or run without it: --runtime processes",
        ),
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
            "join the docker group, or run without it: --runtime processes",
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
    plan = dataclasses.replace(stack.plan, replicas=(first, dataclasses.replace(first, name="engine-2")))
    states = ComposeRuntime(dataclasses.replace(stack, plan=plan)).services()
    assert [state.name for state in states] == ["engine", "engine-2", "redis", "gateway"]
