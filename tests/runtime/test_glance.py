"""A look at a running stack under Compose, against a stand-in for `docker`: states, addresses, figures, logs.

The engine's server is a real one on loopback, which is the address of a bridge of this machine.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Glance, LogRequest, Stack
from stackwright.runtime.compose import ComposeRuntime
from stackwright.runtime.inspected import read_inspected
from stackwright.runtime.ports import http_text

from tests.runtime.docker import Docker

pytestmark = pytest.mark.subprocess
LISTED = "'ps --all --quiet --no-trunc '*"


def container(service: str, state: dict[str, Any], **networks: dict[str, str]) -> dict[str, Any]:
    """Return what `docker inspect` says of one container, shortened (Engine 20.10.24)."""
    names = {"service": service, "project.working_dir": "/p/compose", "config-hash": f"hash-of-{service}"}
    labels = {f"com.docker.compose.{name}": value for name, value in names.items()}
    return {
        "Id": f"id-{service}",
        "State": {"Pid": 0, "StartedAt": "2026-11-29T12:00:00.12Z", **state},
        "RestartCount": 1,
        "Config": {"Image": f"image-of-{service}", "Labels": labels},
        "NetworkSettings": {"Networks": networks},
    }


HEALTHY = {"Status": "running", "Health": {"Status": "healthy"}}


def test_every_service_is_told_with_two_questions(stack: Stack, docker: Docker) -> None:
    rows = [container("engine", HEALTHY), container("redis", {"Status": "exited", "ExitCode": 137, "OOMKilled": True})]
    docker.print(LISTED, "id-engine\nid-redis")
    docker.print("'inspect id-engine id-redis'", json.dumps(rows))
    engine, redis, gateway = ComposeRuntime(stack).glance(60)
    assert (engine.state.phase, engine.state.restarts, engine.image) == (ServicePhase.HEALTHY, 1, "image-of-engine")
    assert engine.state.traces.container == "id-engine"
    assert (engine.owner, engine.revision) == (Path("/p"), "hash-of-engine")
    assert (redis.state.phase, redis.state.exit_code, redis.state.detail) == (ServicePhase.EXITED, 137, "out of memory")
    assert gateway == Glance(state=ServiceState(name="gateway", phase=ServicePhase.ABSENT))
    assert len(docker.calls) == 2


def test_nothing_running_is_one_question(stack: Stack, docker: Docker) -> None:
    docker.print(LISTED, "")
    assert {glance.state.phase for glance in ComposeRuntime(stack).glance(60)} == {ServicePhase.ABSENT}


def test_an_engine_that_does_not_answer_is_refused(stack: Stack, docker: Docker) -> None:
    docker.refuse(LISTED, "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?")
    with pytest.raises(RuntimeRefusedError, match="Cannot connect to the Docker daemon"):
        ComposeRuntime(stack).glance(60)


def test_only_a_bridge_of_this_machine_leads_to_a_container() -> None:
    """192.0.2.1 is for documentation (RFC 5737): no machine has it."""
    inside = {"IPAddress": "127.0.0.2", "Gateway": "127.0.0.1"}
    elsewhere = {"IPAddress": "192.0.2.2", "Gateway": "192.0.2.1"}
    internal = {"IPAddress": "127.0.0.3", "Gateway": ""}
    both = container("engine", HEALTHY, away=elsewhere, inner=internal, here=inside)
    assert read_inspected(both).reachable_address() == "127.0.0.2"
    assert read_inspected(container("engine", HEALTHY, away=elsewhere)).reachable_address() is None


def test_revisions_are_the_hashes_of_the_files_in_force(stack: Stack, docker: Docker) -> None:
    stack.paths.local.parent.mkdir(parents=True)
    stack.paths.local.touch()
    docker.print("*' config --hash '*", "engine abc\ngateway def")
    assert ComposeRuntime(stack).revisions() == {"engine": "abc", "gateway": "def"}
    words = docker.calls[-1]
    assert words.startswith(f"compose --project-name {stack.name} --env-file {stack.paths.rendered} ")
    assert words.index(str(stack.paths.rendered)) < words.index(f"--env-file {stack.paths.local} --file ")


class Figures(BaseHTTPRequestHandler):
    """Tells figures, as an engine does, without a key."""

    def do_GET(self) -> None:
        """Answer /metrics alone."""
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(b"figures")

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    """Give the port of a server with figures."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Figures) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_figures_are_asked_at_the_address_or_from_inside(stack: Stack, docker: Docker, port: int) -> None:
    state = ServiceState(name="engine", phase=ServicePhase.HEALTHY)
    here = Glance(state=state, address=("127.0.0.1", port), identity="id-engine")
    runtime = ComposeRuntime(stack)
    assert runtime.fetch(here, "/metrics", 60) == "figures"
    assert runtime.fetch(here, "/other", 60) is None
    docker.print("'exec id-engine python3 -c '*", "from inside")
    assert runtime.fetch(replace(here, address=None), "/metrics", 60) == "from inside\n"
    assert "http://127.0.0.1:8000/metrics" in docker.calls[-1]
    docker.refuse("'exec id-engine python3 -c '*", "container id-engine is paused")
    assert runtime.fetch(replace(here, address=None), "/metrics", 60) is None


def test_where_nobody_listens_nothing_is_told() -> None:
    assert http_text("127.0.0.1", 1, "/metrics", 60) is None


def test_lines_of_logs_come_with_their_service(stack: Stack, docker: Docker) -> None:
    # Compose 2.26.1 pads the names to one width; a service's own number is that of its only container.
    docker.print("*' logs '*", "engine-1   | one | two\nengine-2-1 | three\ngateway-1  | ")
    request = LogRequest(services=("engine", "gateway"), tail=5, since_s=60, follow=True)
    told = list(ComposeRuntime(stack).read_logs(request))
    assert told == [("engine", "one | two", None), ("engine-2", "three", None), ("gateway", "", None)]
    words = docker.calls[-1]
    assert words.startswith(f"compose --project-name {stack.name} logs ")
    assert words.endswith("--tail=5 --since=60s --follow engine gateway")


def test_lines_of_logs_come_with_their_time(stack: Stack, docker: Docker) -> None:
    docker.print("*' logs '*", "engine-1   | 2026-11-30T05:00:00.12Z one | two\ngateway-1  | 2026-11-30T05:00:01Z ")
    told = list(ComposeRuntime(stack).read_logs(LogRequest(services=("engine", "gateway"), times=True)))
    assert told == [("engine", "one | two", "2026-11-30T05:00:00.12Z"), ("gateway", "", "2026-11-30T05:00:01Z")]
    assert "--timestamps" in docker.calls[-1]


def test_logs_that_cannot_be_had_are_refused(stack: Stack, docker: Docker) -> None:
    docker.refuse("*' logs '*", "no such service: engine")
    with pytest.raises(RuntimeRefusedError, match="no such service"):
        list(ComposeRuntime(stack).read_logs(LogRequest(services=("engine",))))


def test_a_machine_without_docker_is_told(stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("docker") is None
    with pytest.raises(RuntimeRefusedError, match="no `docker` command"):
        ComposeRuntime(stack).glance(60)
