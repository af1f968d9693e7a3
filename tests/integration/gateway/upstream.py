"""Servers that stand where engines and a cloud would: each answers completions as it is told to, and notes what it was
asked.

Touches loopback.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
# vLLM 0.32.0, renderers/params.py.
TOO_LONG = (
    "This model's maximum context length is 64 tokens. However, you requested 8 output tokens and your prompt "
    "contains at least 90 input tokens"
)
HANG_S = 60


@dataclass
class Upstream:
    """One server on a port that it keeps. `mood` is how it answers a completion: a status, `hang`, or 200.

    `times` is how many it answers so before it answers 200 again; None for all. `well` is what its /health tells.
    `keys` are the Authorization headers that came with completions.
    """

    name: str
    port: int
    mood: int | str = 200
    words: str = "no"
    times: int | None = None
    well: bool = True
    keys: list[str] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen, where it does not yet."""
        if self._server is not None:
            return
        upstream = self

        class Handler(_Handler):
            of = upstream

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def next_mood(self) -> int | str:
        """Return how the next completion is answered."""
        if self.times is None:
            return self.mood
        self.times -= 1
        return self.mood if self.times >= 0 else 200

    def stop(self) -> None:
        """Listen no more: a connection is refused from now on. What is at work is answered."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0: a connection for each request, so that a server that has stopped has none left.
    of: ClassVar[Upstream]

    def do_GET(self) -> None:
        self._send(200 if self.of.well else 503, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.of.keys.append(self.headers["Authorization"])
        mood = self.of.next_mood()
        if mood == "hang":
            threading.Event().wait(HANG_S)
        elif mood == 200:
            choice = {"index": 0, "message": {"role": "assistant", "content": self.of.name}, "finish_reason": "stop"}
            self._send(200, {**_HEAD, "choices": [choice], "usage": USAGE})
        else:
            self._send(int(mood), {"error": {"message": self.of.words, "type": "x", "code": mood}})

    def _send(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


_HEAD = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
