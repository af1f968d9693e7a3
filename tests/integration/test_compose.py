"""The CPU stack under real Docker Compose, from rendered files to clean removal: one start, then what it must bear.

The tests of the module share one stack and run in the order written: those that end services come last.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.project.folder import load_stack
from stackwright.runtime.compose import ComposeRuntime

from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.load import check_load
from tests.integration.project import Project, wait_until

SERVICES = ("engine", "redis", "gateway")
# Whoever adds a cloud brings its key: it has to stay as unseen as those that are made. Nothing asks it: no engine
# fails.
WISHES = """\
schema: 1
model: null
gpu_memory_utilization: 0.8
max_model_len: null
gateway:
  bind: 127.0.0.1
  port: 4000
  fallbacks: {smoke: [away]}
  cloud: [{name: away, model: openai/big, key: big, address: "http://127.0.0.1:1/v1"}]
"""


@pytest.fixture(scope="module")
def pins(images: Images) -> list[str]:
    """Give the settings that put the built images in the place of the official ones."""
    return images.pins()


@pytest.fixture(scope="module")
def project(make_project: MakeProject, pins: list[str]) -> Project:
    """Give a project configured for the CPU, with a cloud to fall back to."""
    project = make_project()
    (project.folder / "envs").mkdir()
    (project.folder / "envs" / "dev.yaml").write_text(WISHES)
    project.configure("cpu", *pins)
    key = project.folder / "envs" / ".secrets" / "dev" / "cloud_big_key"
    key.touch(mode=0o600)
    key.write_text("the-key-of-the-cloud-0123456789\n")
    return project


@pytest.fixture(scope="module")
def started(project: Project) -> Iterator[str]:
    """Bring the stack up once and give what `start-environment` printed on its standard output."""
    yield project.start()
    project.stop()


def test_printed_request_works_as_pasted(project: Project, started: str) -> None:
    answer = project.run(["bash", "-euc", started])
    assert json.loads(answer.stdout)["choices"][0]["message"]["content"], answer.stderr


def test_only_the_key_opens_the_gateway(project: Project, started: str) -> None:  # noqa: ARG001
    statuses = {key: project.ask(key)[0] for key in (project.secrets["litellm_master_key"], None, "sk-" + "0" * 64)}
    assert list(statuses.values()) == [200, 401, 401]


def test_only_the_gateway_is_published_and_on_loopback(project: Project, started: str) -> None:  # noqa: ARG001
    published = {name: project.inspect(name)["HostConfig"]["PortBindings"] or {} for name in SERVICES}
    address = [{"HostIp": "127.0.0.1", "HostPort": str(project.port)}]
    assert published == {"engine": {}, "redis": {}, "gateway": {"4000/tcp": address}}


def test_services_run_without_privileges(project: Project, started: str) -> None:  # noqa: ARG001
    for name in SERVICES:
        settings = project.inspect(name)["HostConfig"]
        assert settings["CapDrop"] == ["ALL"]
        assert settings["ReadonlyRootfs"]
        assert settings["SecurityOpt"] == ["no-new-privileges:true"]
        assert settings["LogConfig"]["Config"] == {"max-size": "20m", "max-file": "5"}
        assert settings["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 0}


def test_engine_may_run_what_it_compiles(project: Project, started: str) -> None:  # noqa: ARG001
    # Triton and FlashInfer compile launchers below HOME and load them; CPU kernels need none, so this asks directly.
    project.docker("exec", project.container("engine"), "sh", "-euc", "cp /bin/true $HOME/compiled && $HOME/compiled")


def test_gateway_gives_up_an_address_where_nothing_is(project: Project, started: str) -> None:  # noqa: ARG001
    # What a container that is gone leaves behind. A minute is more than `connect` takes here, and less than by default.
    networks = project.inspect("engine")["NetworkSettings"]["Networks"]
    address = networks[f"{project.name}_inside"]["IPAddress"].rpartition(".")[0] + ".250"
    ask = f"import socket; s = socket.socket(); s.settimeout(60); print(s.connect_ex(('{address}', 8000)))"
    code = int(project.docker("exec", project.container("gateway"), "python3", "-c", ask))
    assert errno.errorcode[code] in ("ETIMEDOUT", "EHOSTUNREACH")


def test_no_secret_is_shown_anywhere(project: Project, started: str) -> None:  # noqa: ARG001
    shown = [project.docker("container", "inspect", *project.remains("container")), project.logs()]
    generated = project.folder / "compose" / "generated" / "dev"
    shown += [path.read_text() for path in generated.rglob("*") if path.is_file()]
    shown += [(project.folder / "envs" / ".env.dev").read_text(), *command_lines()]
    shown.append(project.run(["bash", "-euc", f"cd {project.folder} && {by_hand(project, 'config')}"]).stdout)
    assert len(shown) > len(SERVICES)
    assert project.secrets["cloud_big_key"]
    for name, secret in project.secrets.items():
        assert [text[:200] for text in shown if secret in text] == [], name


def test_second_start_is_harmless(project: Project, started: str) -> None:  # noqa: ARG001
    before = {name: project.inspect(name)["Id"] for name in SERVICES}
    project.start()
    assert {name: project.inspect(name)["Id"] for name in SERVICES} == before


def test_status_shows_what_runs(project: Project, started: str) -> None:  # noqa: ARG001
    assert project.complete()
    done = project.command("status", "dev", "--runtime=compose", "--json")
    told = json.loads(done.stdout)
    assert {row["name"]: row["phase"] for row in told["services"]} == dict.fromkeys(SERVICES, "healthy")
    # The engine's figures, which no port publishes.
    assert (told["drift"], told["notes"]) == ([], [])
    assert told["models"][0]["generation_tokens_per_s"] > 0


def test_figures_are_had_from_inside_too(project: Project, started: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """As where the engine's bridges are not this machine's."""
    monkeypatch.setenv("DOCKER_HOST", project.variables["DOCKER_HOST"])
    paths = EnvironmentPaths(root=project.folder, state=project.folder, environment=Environment.DEV)
    stack = load_stack(paths)
    assert stack is not None
    runtime = ComposeRuntime(stack)
    (engine,) = (glance for glance in runtime.glance(60) if glance.state.name == "engine")
    assert engine.pids
    told = runtime.fetch(replace(engine, address=None), "/metrics", 60)
    assert told is not None
    assert "vllm:num_requests_running" in told


def test_load_is_measured(project: Project, started: str) -> None:  # noqa: ARG001
    check_load(project)


def test_logs_are_told_by_service(project: Project, started: str) -> None:  # noqa: ARG001
    done = project.command("logs", "dev", "--tail=3")
    assert {line.partition(" | ")[0].strip() for line in done.stdout.splitlines()} == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_service_that_dies_is_restarted(project: Project, started: str, service: str) -> None:  # noqa: ARG001
    before = project.inspect(service)["RestartCount"]
    # The whole container dies with its first process, as it does when memory runs out.
    kill_first_process(project, service)
    wait_until(lambda: project.inspect(service)["RestartCount"] == before + 1)
    assert project.complete()


def test_service_that_has_answered_is_restarted_for_a_third_time(project: Project, started: str) -> None:  # noqa: ARG001
    """Docker never forgets a restart: with the limit of a start, the third fall of a year would be the last."""
    before = project.inspect("redis")["RestartCount"]

    def is_restarted(times: int) -> bool:
        return bool(project.inspect("redis")["RestartCount"] == before + times)

    for fall in range(3):
        wait_until(lambda: project.inspect("redis")["State"]["Health"]["Status"] == "healthy")
        kill_first_process(project, "redis")
        wait_until(partial(is_restarted, fall + 1))
    wait_until(lambda: project.inspect("redis")["State"]["Running"])


def test_gateway_answers_without_redis(project: Project, started: str) -> None:  # noqa: ARG001
    project.docker("kill", project.container("redis"))
    assert project.ask(project.secrets["litellm_master_key"])[0] == 200


def test_start_heals_what_was_killed(project: Project, started: str) -> None:  # noqa: ARG001
    # Docker takes `docker kill` for a wish and leaves the container down, whatever the restart policy
    # (observed with Engine 20.10; moby marks it as stopped by hand).
    for service in ("engine", "gateway"):
        project.docker("kill", project.container(service))
    assert project.ask(project.secrets["litellm_master_key"])[0] == 0
    with project.starting() as start:
        # And one fall on the way: Compose then gives up on the engine, the restart policy does not.
        wait_until(lambda: project.inspect("engine")["State"]["Running"])
        kill_first_process(project, "engine")
    assert start.returncode == 0
    assert project.inspect("engine")["RestartCount"] == 1
    assert project.complete()


def test_stop_leaves_nothing_and_is_harmless_twice(project: Project, started: str) -> None:  # noqa: ARG001
    project.stop()
    assert [project.remains(kind) for kind in ("container", "network", "volume")] == [[], [], []]
    project.stop()


def by_hand(project: Project, *words: str) -> str:
    """Return the plain `docker compose` command on the rendered files."""
    files = ["--env-file", "envs/.env.dev", "-f", "compose/compose.yaml", "-f", "compose/generated/dev/override.yaml"]
    assert (project.folder / files[-1]).exists()
    return " ".join(["docker", "compose", *files, *words])


def kill_first_process(project: Project, service: str) -> None:
    """Kill the first process of a container from outside, behind the engine's back; it needs the engine's own
    rights.
    """
    pid = project.inspect(service)["State"]["Pid"]
    if os.geteuid() == 0 and Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGKILL)
    else:
        # Not root here, or an engine in a machine of its own: a process of the host's namespace does it there.
        kill = ["run", "--rm", "--pid=host", "--user=0", "--entrypoint=/bin/kill", project.inspect(service)["Image"]]
        project.docker(*kill, "-KILL", str(pid))


def command_lines() -> list[str]:
    """Return the command lines of every process of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace").replace("\0", " "))
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return lines
