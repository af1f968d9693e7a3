"""The processes runtime under the real supervisor.

Only the programs are stand-ins: small servers with a worker each.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs
from stackwright.domain.environment import Environment
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.errors import RuntimeRefusedError
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import LogRequest, Stack
from stackwright.runtime.process_groups import members, programs_with, read_groups
from stackwright.runtime.processes import ProcessesRuntime
from stackwright.runtime.provision import MARK, environment_folder
from stackwright.runtime.unrendered import find_unrendered

from tests.planning_requests import plan_for, recorded

pytestmark = pytest.mark.subprocess

SERVER = """
import http.server, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
if (here / "broken").exists():
    sys.exit("ERROR: broken on purpose")
if os.fork() == 0:  # a worker, as vLLM and LiteLLM have: it does not notice that its parent is gone
    time.sleep(3600)
def end(*_):
    with open(here.parent / "ended", "a") as ended:
        print(here.name, file=ended)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if (here / "sick").exists() else 200)
        self.end_headers()
    def log_message(self, *words):
        pass
print("listening", flush=True)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
START = '#!/bin/sh\nexec "$PYTHON" "$(dirname "$0")/server.py" "$@"\n'
CHECKOUT = Path(__file__).parents[2]
SECRETS = ("litellm_master_key", "litellm_salt_key", "engine_key", "redis_password", "hf_token")


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_stack(folder: Path) -> Stack:
    """Return the plan of a small host in a project whose programs are the stand-ins."""
    plan = plan_for(recorded("cpu-small"), Environment.DEV)
    environment = {key: setting.value for key, setting in flat_settings(plan).items()}
    environment |= {"COMPOSE_PROJECT_NAME": "stack-under-test", "GATEWAY_PORT": str(free_port())}
    stack = Stack(root=folder / "project", state=folder / "state", plan=plan, env=environment)
    for service in ("engine", "gateway"):
        scripts = stack.root / "compose" / service
        scripts.mkdir(parents=True)
        (scripts / "server.py").write_text(SERVER)
        (scripts / "start.sh").write_text(START.replace("$PYTHON", sys.executable))
    # Redis is the real one where it is installed, started by its real script.
    shutil.copytree(CHECKOUT / "compose" / "redis", stack.root / "compose" / "redis")
    stack.generated.mkdir(parents=True)
    (stack.generated / "gateway.yaml").write_text("model_list: []\n")
    stack.secrets.mkdir(parents=True)
    for secret in SECRETS:
        (stack.secrets / secret).write_text(f"secret-{secret}\n")
    for recipe in [each.as_process.recipe for each in stack.services if each.as_process.recipe is not None]:
        environment_of = environment_folder(stack.state, recipe)
        (environment_of / "bin").mkdir(parents=True)
        (environment_of / "bin" / "python").symlink_to(sys.executable)
        (environment_of / MARK).touch()
    return stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Give a stack in a folder too deep for a socket's path; nothing of it outlives the test."""
    made = make_stack(tmp_path / ("deep" * 12) / ("with %(here)s ; and # in it" * 2))
    yield made
    ProcessesRuntime(made).down()


@pytest.fixture
def without_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a PATH with what the start scripts use, and without redis-server."""
    for program in ("cut", "dirname", "sed", "sleep"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(tmp_path))


def wait_for(runtime: ProcessesRuntime, wanted: Callable[[dict[str, ServiceState]], bool]) -> dict[str, ServiceState]:
    """Poll until the services are as wanted, and return them."""
    deadline = time.monotonic() + 120
    while True:
        states = {state.name: state for state in runtime.services()}
        if wanted(states):
            return states
        assert time.monotonic() < deadline, states
        time.sleep(0.1)


def all_healthy(states: dict[str, ServiceState]) -> bool:
    """Say whether every service answers."""
    return all(state.phase is ServicePhase.HEALTHY for state in states.values())


def run_folder(stack: Stack) -> Path:
    """Return where the runtime keeps what runs."""
    return stack.state / "run" / stack.name


def leaders(stack: Stack) -> dict[str, int]:
    """Return the process id of each service's last start."""
    return {file.stem: read_groups(file)[-1].leader for file in run_folder(stack).glob("*.groups")}


def kill_supervisor(stack: Stack) -> None:
    """End supervisord the hard way, and wait until it is gone."""
    for pid in programs_with(str(run_folder(stack) / "supervisord.conf")):
        os.kill(pid, signal.SIGKILL)
    while programs_with(str(run_folder(stack) / "supervisord.conf")):
        time.sleep(0.01)


def ended(stack: Stack) -> list[str]:
    """Return the stand-ins that were asked to end, in that order."""
    return (stack.root / "compose" / "ended").read_text().split()


def left_behind(stack: Stack) -> list[int]:
    """Return every process that still has to do with the stack."""
    words = [str(run_folder(stack) / "supervisord.conf")]
    words += [str(stack.root / "compose" / service / "server.py") for service in ("engine", "gateway")]
    return [pid for word in words for pid in programs_with(word)]


def test_stack_comes_up_answers_and_goes(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    assert {state.phase for state in runtime.services()} == {ServicePhase.ABSENT}
    runtime.up()
    states = wait_for(runtime, all_healthy)
    assert {"engine", "gateway"} <= set(states)
    runtime.down()
    assert left_behind(stack) == []
    assert {state.phase for state in runtime.services()} == {ServicePhase.ABSENT}
    assert not run_folder(stack).exists()
    runtime.down()


def test_log_is_of_this_run_alone(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    for _ in range(2):
        runtime.up()
        wait_for(runtime, all_healthy)
        assert runtime.logs("engine", 100) == "listening"
        runtime.down()
    assert (stack.state / "logs" / stack.name / "previous" / "engine.log").read_text() == "listening\n"


def test_logs_of_another_project_folder_are_not_shown(stack: Stack, tmp_path: Path) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    runtime.down()
    clone = ProcessesRuntime(structs.replace(stack, root=tmp_path / "clone"))
    request = LogRequest(services=("engine",))
    assert list(runtime.read_logs(request)) == [("engine", "listening", None)]
    assert (list(clone.read_logs(request)), clone.logs("engine", 9)) == ([], "")


def test_second_start_changes_nothing(stack: Stack) -> None:
    ProcessesRuntime(stack).up()
    before = leaders(stack)
    second = ProcessesRuntime(stack)
    second.up()
    wait_for(second, all_healthy)
    assert leaders(stack) == before


def test_changed_settings_restart_the_service_that_reads_them(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    before = leaders(stack)
    (stack.generated / "gateway.yaml").write_text("model_list: [changed]\n")
    runtime.up()
    states = wait_for(runtime, all_healthy)
    after = leaders(stack)
    assert [name for name in before if after[name] != before[name]] == ["gateway"]
    assert states["gateway"].restarts == 0


def test_changes_are_told_before_and_made_one_service_at_a_time(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    assert {change.reason for change in runtime.changes()} == {"it is not running"}
    runtime.up()
    assert runtime.changes() == ()
    assert runtime.owner() == stack.root.resolve()
    before = leaders(stack)
    (stack.generated / "gateway.yaml").write_text("model_list: [changed]\n")
    (stack.secrets / "engine_key").write_text("another\n")
    told = {change.name: change.reason for change in runtime.changes()}
    assert told == dict.fromkeys(("engine", "gateway"), "its settings have changed")
    runtime.up(("engine",))
    assert [name for name, leader in leaders(stack).items() if leader != before[name]] == ["engine"]
    # Another command sees what is still to be done, should this one be killed here.
    assert [change.name for change in ProcessesRuntime(stack).changes()] == ["gateway"]
    runtime.up()
    assert runtime.changes() == ()
    assert {name for name, leader in leaders(stack).items() if leader != before[name]} == {"engine", "gateway"}


def test_killed_service_comes_back_and_its_orphans_go(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    group = read_groups(run_folder(stack) / "engine.groups")[-1]
    os.kill(group.leader, signal.SIGKILL)
    states = wait_for(runtime, lambda states: all_healthy(states) and states["engine"].restarts == 1)
    assert states["gateway"].restarts == 0
    assert members(group) == ()


def test_killed_supervisor_leaves_nothing_after_stop(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    kill_supervisor(stack)
    other = ProcessesRuntime(stack)
    states = wait_for(other, lambda states: states["engine"].phase is ServicePhase.UNHEALTHY)
    assert states["engine"].detail == "still runs, but its supervisor has ended"
    with pytest.raises(RuntimeRefusedError, match="supervisord has ended"):
        runtime.services()
    other.down()
    assert left_behind(stack) == []


def test_a_frozen_supervisor_holds_nothing_up(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    (supervisor,) = programs_with(str(run_folder(stack) / "supervisord.conf"))
    os.kill(supervisor, signal.SIGSTOP)
    told = {(state.phase, state.detail) for state in ProcessesRuntime(stack).services()}
    assert told == {(ServicePhase.UNHEALTHY, "still runs, but its supervisor does not answer")}
    with pytest.raises(RuntimeRefusedError, match="supervisord has not answered for 5 seconds"):
        runtime.up()
    runtime.end("gateway")
    wait_for(runtime, lambda states: states["gateway"].phase is ServicePhase.ABSENT)
    runtime.down()
    assert left_behind(stack) == []
    assert ended(stack) == ["gateway", "engine"]
    assert not run_folder(stack).exists()


def test_what_clients_ask_ends_first(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    runtime.down()
    assert ended(stack) == ["gateway", "engine"]
    log = (stack.state / "logs" / stack.name / "supervisord.log").read_text()
    stopped = re.findall(r"stopped: (\w+) ", log)
    assert stopped == [name for name in ("gateway", "engine", "redis") if name in stopped]


def test_what_clients_ask_is_ended_alone_and_stays_so(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    runtime.end("gateway")
    states = wait_for(runtime, lambda states: states["gateway"].phase is ServicePhase.EXITED)
    assert states["engine"].phase is ServicePhase.HEALTHY
    runtime.end("engine", kill=True)
    wait_for(runtime, lambda states: states["engine"].restarts > 0)


def test_a_stack_without_its_files_is_found_and_ended(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    shutil.rmtree(stack.generated)
    elsewhere = structs.replace(stack.paths, environment=Environment.PROD)
    assert find_unrendered(elsewhere) == ()
    (found,) = find_unrendered(stack.paths)
    assert found.name == stack.name
    found.down()
    assert left_behind(stack) == []
    assert ended(stack) == ["gateway", "engine"]
    assert find_unrendered(stack.paths) == ()


def test_start_after_a_killed_supervisor_begins_anew(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    kill_supervisor(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    assert len(programs_with(str(stack.root / "compose" / "engine" / "server.py"))) == 2


def test_start_that_fails_is_tried_three_times_and_can_be_repeated(stack: Stack) -> None:
    broken = stack.root / "compose" / "engine" / "broken"
    broken.touch()
    runtime = ProcessesRuntime(stack)
    runtime.up()
    states = wait_for(runtime, lambda states: states["engine"].phase is ServicePhase.EXITED)
    assert (states["engine"].exit_code, states["engine"].restarts) == (1, 2)
    assert runtime.logs("engine", 100).splitlines().count("ERROR: broken on purpose") == 3
    broken.unlink()
    runtime.up()
    assert wait_for(runtime, all_healthy)["engine"].restarts == 0


def test_service_that_no_longer_answers_is_unhealthy(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    (stack.root / "compose" / "gateway" / "sick").touch()
    assert {state.name: state.phase for state in runtime.services()}["gateway"] is ServicePhase.HEALTHY
    assert wait_for(runtime, lambda states: states["gateway"].phase is ServicePhase.UNHEALTHY)
    assert {state.name: state.phase for state in ProcessesRuntime(stack).services()}[
        "gateway"
    ] is ServicePhase.UNHEALTHY


def test_taken_port_is_told_before_anything_starts(stack: Stack) -> None:
    port = int(stack.env["GATEWAY_PORT"])
    with socket.create_server(("127.0.0.1", port)), pytest.raises(RuntimeRefusedError) as refused:
        ProcessesRuntime(stack).up()
    assert refused.value.message == f"GATEWAY_PORT: 127.0.0.1:{port} is in use by another program"
    assert not run_folder(stack).exists()


def test_no_secret_is_written_or_shown(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    runtime.up()
    wait_for(runtime, all_healthy)
    written = [file for file in run_folder(stack).iterdir() if file.is_file()]
    assert [file for file in written if b"secret-" in file.read_bytes()] == []
    assert {file.stat().st_mode & 0o077 for file in written if file.name != "supervisord.pid"} == {0}
    assert run_folder(stack).stat().st_mode & 0o777 == 0o700
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left_behind(stack)]
    assert len(shown) >= 5
    assert [words for words in shown if b"secret-" in words] == []


@pytest.mark.usefixtures("without_redis")
def test_without_redis_the_stack_runs_and_says_so(stack: Stack) -> None:
    runtime = ProcessesRuntime(stack)
    assert list(runtime.notes) == ["no redis-server on PATH: each gateway worker keeps its own router state"]
    runtime.up()
    assert sorted(wait_for(runtime, all_healthy)) == ["engine", "gateway"]
    assert len(runtime.notes) == 1


def test_service_that_listens_elsewhere_is_not_taken_for_it(stack: Stack) -> None:
    other = structs.replace(stack, env={**stack.env, "COMPOSE_PROJECT_NAME": "stack-beside"})
    ProcessesRuntime(stack).up()
    assert {state.phase for state in ProcessesRuntime(other).services()} == {ServicePhase.ABSENT}
