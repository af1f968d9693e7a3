"""The question that a started stack is to be asked by hand: it works as pasted, and shows nobody the key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from stackwright.commands.start_environment import question_by_hand
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack

from tests.planning_requests import plan_for, recorded

KEY = "sk-0123456789abcdef"
SCRIPT = Path(__file__).parents[2] / "scripts" / "stackwright"
CURL = shutil.which("curl")
SHELLS = [name for name in ("sh", "bash", "zsh") if shutil.which(name)]


@contextmanager
def listening() -> Iterator[tuple[int, list[tuple[str, str | None, bytes]]]]:
    """Give the port of a gateway, and what it was asked: path, `Authorization` and body."""
    asked: list[tuple[str, str | None, bytes]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"answered")

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def program(path: Path, text: str) -> None:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.subprocess
@pytest.mark.skipif(CURL is None, reason="no curl on this machine")
@pytest.mark.parametrize("shell", SHELLS)
def test_question_works_as_pasted_and_hides_the_key(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SCRIPT.parents[1])
    root = tmp_path / "a project"
    # The real one would first prepare its Python.
    program(root / "stackwright", f'test "$*" = "key prod --out {root}" && echo {KEY}')
    # In front of the real one, to see the arguments that everybody could see.
    program(tmp_path / "bin" / "curl", f'printf "%s\\n" "$@" >"{tmp_path}/arguments"\nexec {CURL} "$@"')
    plan = plan_for(recorded("cpu-small"))
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    with listening() as (port, asked):
        stack = Stack(root=root, state=tmp_path / "state", plan=plan, env={**env, "GATEWAY_PORT": str(port)})
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [shell, "-c", question_by_hand(stack).replace("./scripts/stackwright", "./stackwright")],
            cwd=root,
            env={"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "answered"
    ((where, key, body),) = asked
    assert (where, key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert json.loads(body)["model"] == plan.models[0].name
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8")
    assert "/v1/chat/completions" in arguments
    assert KEY not in arguments
