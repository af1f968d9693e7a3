"""Other environments that run here: told by their names, replaced and never killed."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.commands.host import without_held
from stackwright.domain.environment import Environment
from stackwright.domain.machine import GpuProcess, GpuState, MemoryState, ModelFiles
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.runtime.running import RunningStack, find_running
from stackwright.validation.capacity import _check_memory
from stackwright.validation.check import Subject
from stackwright.validation.gpu_memory import check_free
from stackwright.validation.model import InspectedModel
from stackwright.validation.neighbours import GUIDE, Holders, Neighbour, stop_words
from stackwright.validation.ports import SeenPort, _check_ports

from tests.planning_requests import plan_for, recorded

GIB = 2**30
HOST = recorded("1x-rtx3090")
GPU = HOST.gpus[0].uuid or ""
MEMORY = MemoryState(available_bytes=64 * GIB, swap_bytes=0, swap_free_bytes=0)


def subject(root: Path, *leaving: Environment, host_name: str = "1x-rtx3090", used_gib: int = 20) -> Subject:
    """Return prod on a host whose GPU is in use."""
    from stackwright.catalog.load import load_catalog

    host = recorded(host_name)
    plan = plan_for(host)
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    busy = replace(host, gpus=tuple(replace(gpu, memory_used_bytes=used_gib * GIB) for gpu in host.gpus))
    stack = Stack(root=root, state=root / "state", plan=plan, env=env)
    return Subject(stack=stack, host=busy, catalog=load_catalog(), compose=False, runs=False, leaving=leaving)


def dev(root: Path, *, here: bool = True, memory_bytes: int | None = None) -> Neighbour:
    """Return dev, which runs beside it."""
    stack = RunningStack(environment=Environment.DEV, root=root, name="stackwright-dev", pids=frozenset({7}))
    return Neighbour(stack=stack, here=here, gpus=frozenset({GPU}), port=4002, memory_bytes=memory_bytes)


def state(*processes: GpuProcess) -> tuple[GpuState, ...]:
    """Return the GPU with what holds it."""
    return (GpuState(index=0, uuid=GPU, processes=processes),)


ENGINE = GpuProcess(pid=7, name="VLLM::EngineCore", memory_bytes=20 * GIB)
STRANGER = GpuProcess(pid=8, name="python", memory_bytes=20 * GIB)
OURS = Holders(by_pid={7: "dev"}, suspects={GPU: ("dev",)})


def test_what_dev_holds_is_called_devs_and_never_killed(tmp_path: Path) -> None:
    (finding,) = check_free(subject(tmp_path), state(ENGINE), MEMORY, frozenset(), OURS)
    assert "used by dev: VLLM::EngineCore (pid 7, 20 GiB)" in finding.found.replace("20.0", "20")
    assert "`start-environment prod --replace dev`" in finding.fix
    assert GUIDE in finding.fix
    assert "kill" not in finding.fix


def test_a_stranger_beside_it_is(tmp_path: Path) -> None:
    (finding,) = check_free(subject(tmp_path), state(ENGINE, STRANGER), MEMORY, frozenset(), OURS)
    assert "--replace dev" in finding.fix
    assert "`kill 8`" in finding.fix


def test_where_nobody_lists_processes_the_plan_of_what_runs_tells(tmp_path: Path) -> None:
    (finding,) = check_free(subject(tmp_path), state(), MEMORY, frozenset(), OURS)
    assert "dev runs there" in finding.found
    assert "--replace dev" in finding.fix


@pytest.mark.parametrize("processes", [(ENGINE,), ()])
def test_what_the_start_replaces_counts_as_free(processes: tuple[GpuProcess, ...], tmp_path: Path) -> None:
    on = subject(tmp_path, Environment.DEV)
    assert tuple(check_free(on, state(*processes), MEMORY, frozenset(), OURS)) == ()


def test_another_folders_stack_is_stopped_there() -> None:
    words = stop_words(["dev of /srv/a b"], "prod")
    assert words.startswith("stop dev there: `stop-environment dev --out '/srv/a b'`")


def test_a_port_that_dev_publishes_is_devs(tmp_path: Path) -> None:
    on = subject(tmp_path)
    port = SeenPort(
        service=on.stack.front,
        address="127.0.0.1:4002",
        port_key="GATEWAY_PORT",
        bind_key="GATEWAY_BIND",
        refusal=OSError(errno.EADDRINUSE, "Address already in use"),
        listener="python (pid 7)",
    )
    (finding,) = _check_ports(on, [port], (dev(tmp_path),))
    assert finding.found == "127.0.0.1:4002: dev runs and listens there"
    assert "--replace dev" in finding.fix
    assert tuple(_check_ports(replace(on, leaving=(Environment.DEV,)), [port], (dev(tmp_path),))) == ()
    (finding,) = _check_ports(on, [port], ())
    assert "python (pid 7)" in finding.found


def test_memory_that_dev_holds_is_devs(tmp_path: Path) -> None:
    on = subject(tmp_path, host_name="cpu-small")
    little = replace(MEMORY, available_bytes=GIB // 8)
    beside = (dev(tmp_path, memory_bytes=4 * GIB),)
    here = InspectedModel(location="/m", files=ModelFiles(folder="/m", complete=True, weight_bytes=0, missing_bytes=0))
    (finding, *_) = _check_memory(on, little, (here,), beside)
    assert finding.check == "memory-free"
    assert "dev runs and holds 4" in finding.found
    assert "--replace dev" in finding.fix
    assert tuple(_check_memory(replace(on, leaving=(Environment.DEV,)), little, (here,), beside)) == ()


def test_a_plan_does_not_change_with_what_runs() -> None:
    busy = replace(HOST, gpus=tuple(replace(gpu, memory_used_bytes=21 * GIB) for gpu in HOST.gpus))
    free = without_held(busy, state(ENGINE, replace(STRANGER, memory_bytes=GIB)), lambda pid: pid == 7)
    assert [gpu.memory_used_bytes for gpu in free.gpus] == [GIB]


@pytest.mark.subprocess
def test_processes_are_found_by_what_the_runtime_noted(tmp_path: Path) -> None:
    run = tmp_path / "run" / "mine"
    run.mkdir(parents=True)
    (run / "engine.sh").write_text("export SECRETS='/srv/x y/envs/.secrets/staging/engine'\n", encoding="utf-8")
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True) as service:
        began = Path(f"/proc/{service.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        (run / "engine.groups").write_text(f"{service.pid} {began}\n", encoding="utf-8")
        (found,) = find_running(tmp_path, containers=False)
        assert (found.environment, found.root, found.name) == (Environment.STAGING, Path("/srv/x y"), "mine")
        assert found.owns(service.pid)
        assert not found.owns(1)
    assert find_running(tmp_path, containers=False) == ()


@pytest.mark.subprocess
def test_containers_are_found_by_the_files_that_compose_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Docker's client, at the boundary: one line for each container, as `docker ps --format` writes."""
    rows = [
        ("a" * 64, "stackwright-dev", "/srv/one/compose/compose.yaml,/srv/one/compose/generated/dev/override.yaml"),
        ("b" * 64, "stackwright-dev", "/srv/one/compose/compose.yaml,/srv/one/compose/generated/dev/override.yaml"),
        ("c" * 64, "shop", "/srv/shop/compose.yaml"),
        ("d" * 64, "mine", "/srv/two words/compose/generated/prod/override.yaml"),
    ]
    client = tmp_path / "bin" / "docker"
    client.parent.mkdir()
    lines = "\n".join("\t".join(row) for row in rows)
    client.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n", encoding="utf-8")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:/usr/bin:/bin")
    mine, one = find_running(tmp_path, containers=True)
    assert (mine.environment, mine.root, mine.containers) == (Environment.PROD, Path("/srv/two words"), ("d" * 64,))
    assert (one.name, one.root, one.containers) == ("stackwright-dev", Path("/srv/one"), ("a" * 64, "b" * 64))
    assert find_running(tmp_path, containers=False) == ()
