"""An engine of two processes in the place of vLLM: a server that answers, and a core that makes the tokens.

    python stand_in_engine.py --port PORT [--starts-at FILE] [--leaks]

`POST /v1/completions` waits for the core, and with `until` for a file first: the core then works in steps, which show
in the figures like the chunks of a long prompt. `/v1/die` ends the server as vLLM's does when its core has died: with
status 0. With `--leaks` it counts one open request too many. Standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CORE = """
import os, sys, time
def make_tokens():
    for line in sys.stdin:
        until = line.strip()
        while until and not os.path.exists(until):
            print("step", flush=True)
            time.sleep(0.05)
        print("token", flush=True)
make_tokens()
"""


class Core:
    """The process that makes tokens, and what it has made."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.open = self.tokens = self.steps = 0
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def make(self, until: str) -> None:
        """Make one token, after the others that were asked for."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock:
            self.open += 1
        with self._turn:
            print(until, file=self.process.stdin, flush=True)
            while (line := self.process.stdout.readline().strip()) == "step":
                self.steps += 1
            assert line == "token"
        with self._lock:
            self.open, self.tokens = self.open - 1, self.tokens + 1


class Handler(BaseHTTPRequestHandler):
    """Answers as vLLM does."""

    core: Core
    leaked = 0

    def do_GET(self) -> None:
        """Tell of the open requests, the figures and the model."""
        pages = {
            "/health": "",
            "/load": json.dumps({"server_load": self.core.open + self.leaked}),
            "/metrics": (
                f'vllm:generation_tokens_total{{engine="0"}} {self.core.tokens}.0\n'
                f'vllm:kv_cache_usage_perc{{engine="0"}} {self.core.steps}.0\n'
            ),
            "/v1/models": json.dumps({"data": [{"id": "stand-in"}]}),
        }
        self._answer(200 if self.path in pages else 404, pages.get(self.path, ""))

    def do_POST(self) -> None:
        """Make a token, or die."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        if self.path == "/v1/die":
            self.core.process.kill()
            os._exit(0)
        if self.path != "/v1/completions":
            self._answer(404, "")
            return
        print("stand-in: asked for a token", flush=True)
        self.core.make(str(asked.get("until", "")))
        self._answer(200, "{}")

    def log_message(self, *_: object) -> None:
        """Keep the log to what tests wait for."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def main() -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--starts-at", type=Path)
    parser.add_argument("--leaks", action="store_true")
    words = parser.parse_args()
    core = Core()
    print(f"stand-in: server {os.getpid()}, core {core.process.pid}", flush=True)
    while words.starts_at is not None and not words.starts_at.exists():
        time.sleep(0.05)
    handler = type("Served", (Handler,), {"core": core, "leaked": int(words.leaks)})
    with ThreadingHTTPServer(("127.0.0.1", words.port), handler) as server:
        print("stand-in: listens", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
