"""Traces from a client through the gateway to a real vLLM, at an OTLP receiver of the test's own."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE

from tests.integration.project import Project, free_port, wait_until

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def spans(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Give the port of a receiver, and the file in which it writes spans."""
    file, port = tmp_path_factory.mktemp("traces") / "spans.jsonl", free_port()
    file.touch()
    python = ensure(state_folder, RECIPE, lambda *_: None) / "bin" / "python"
    script = Path(__file__).with_name("receiver.py")
    with subprocess.Popen([python, script, str(port), file], stderr=subprocess.DEVNULL) as process:
        yield port, file
        process.terminate()


def test_a_request_is_traced_from_the_client_to_the_engine(
    spans: tuple[int, Path], state_folder: Path, tmp_path: Path
) -> None:
    port, file = spans
    project = Project.new(tmp_path / "project", state_folder)
    project.folder.mkdir()
    pins = [*project.pins, f"--set=TRACES_ENDPOINT=http://127.0.0.1:{port}/v1/traces"]
    project_runtime = "--runtime=processes"
    try:
        done = project.command("start-environment", "dev", project_runtime, *pins)
        assert done.returncode == 0, done.stderr
        ask(project)

        def found() -> dict[str, dict[str, str]] | None:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            told = {row["service"]: row for row in rows if row["trace"] == TRACE}
            return told if {"gateway", "engine"} <= set(told) else None

        told = wait_until(found, lambda: file.read_text()[-4000:])
        gateway, engine = told["gateway"], told["engine"]
        assert (gateway["parent"], engine["parent"]) == (CLIENT, gateway["span"])
        assert "gen_ai.usage.output_tokens" in gateway["attributes"]
        assert "gen_ai.latency.time_to_first_token" in engine["attributes"]
    finally:
        project.command("stop-environment", "dev", project_runtime)


def ask(project: Project) -> None:
    """Ask as a client that traces itself."""
    headers = {
        "Authorization": f"Bearer {project.secrets['litellm_master_key']}",
        "Content-Type": "application/json",
        "traceparent": f"00-{TRACE}-{CLIENT}-01",
    }
    body = {"model": "smoke", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    url = f"http://127.0.0.1:{project.port}/v1/chat/completions"
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        assert json.loads(answer.read())["choices"]
