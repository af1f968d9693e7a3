"""Stands in for LiteLLM where a test is about what starts and stops it: as the Python of its environment.

Takes LiteLLM's arguments, wants the master key, and passes chats on to the engine. Standard library alone.
"""

from __future__ import annotations

import os
import shlex
import sys
import urllib.request
from pathlib import Path

from stackwright.runtime.provision import MARK, environment_folder
from stackwright.services.gateway import RECIPE

from tests.toy_engine.server import Handler, Server

CHECKOUT = Path(__file__).resolve().parents[3]
SERVE = f"""import sys
sys.path[:0] = [{str(CHECKOUT)!r}, {str(CHECKOUT / "generator")!r}]
from tests.integration.quick_engine.gateway import serve
serve(sys.argv[1:])"""
PYTHON = f"""#!/bin/sh
# Python, but for the gateway's own program.
case "$1" in *serve.py) shift; exec {shlex.quote(sys.executable)} -c {shlex.quote(SERVE)} "$@";; esac
exec {shlex.quote(sys.executable)} "$@"
"""


class Gateway(Handler):
    """Answers whoever has the key."""

    model = "smoke"

    def do_GET(self) -> None:
        """Say that it is ready, and what models there are."""
        if self.path == "/health/readiness":
            self._answer({})
        elif self._has_key():
            super().do_GET()

    def do_POST(self) -> None:
        """Pass a chat on, and the answer back as it comes."""
        if not self._has_key():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {"Authorization": f"Bearer {os.environ['ENGINE_KEY']}"}
        request = urllib.request.Request(f"{os.environ['ENGINE_URL']}/chat/completions", data=body, headers=headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            for piece in answer:
                self.wfile.write(piece)

    def _has_key(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {os.environ['LITELLM_MASTER_KEY']}":
            return True
        self.send_error(401)
        return False


def serve(arguments: list[str]) -> None:
    """Serve until the process ends."""
    host, port = (arguments[arguments.index(name) + 1] for name in ("--host", "--port"))
    with Server((host, int(port)), Gateway) as server:
        server.serve_forever()


def make_gateway(state: Path) -> Path:
    """Lay it out where the processes runtime finds LiteLLM; return the folder."""
    folder = environment_folder(state, RECIPE)
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "python"
    program.write_text(PYTHON, encoding="utf-8")
    program.chmod(0o755)
    (folder / MARK).touch()
    return folder
