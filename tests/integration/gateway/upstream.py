"""Servers that stand where engines and a cloud would: each answers completions as it is told to, and notes what it was
asked.

Touches loopback.
"""

from __future__ import annotations

import json
import threading
import time
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

    A stream may also break off: `no-event`, before its first event, and `one-event`, after it; or `endless`, it goes on
    until its client is gone.

    `times` is how many it answers so before it answers 200 again; None for all. `well` is what its /health tells.
    `keys` are the Authorization headers that came with completions, `left` the prompts whose clients left,
    `traces` the traceparents that came.
    """

    name: str
    port: int
    mood: int | str = 200
    words: str = "no"
    times: int | None = None
    well: bool = True
    keys: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    traces: list[str | None] = field(default_factory=list)
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
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.of.keys.append(self.headers["Authorization"])
        self.of.traces.append(self.headers["traceparent"])
        mood = self.of.next_mood()
        if mood == "hang":
            threading.Event().wait(HANG_S)
        elif asked.get("stream") and (mood == 200 or isinstance(mood, str)):
            self._stream(asked, str(mood))
        elif mood == 200:
            choice = {"index": 0, "message": {"role": "assistant", "content": self.of.name}, "finish_reason": "stop"}
            self._send(200, {**_HEAD, "model": asked["model"], "choices": [choice], "usage": USAGE})
        else:
            self._send(int(mood), {"error": {"message": self.of.words, "type": "x", "code": mood}})

    def _stream(self, asked: dict[str, object], mood: str) -> None:
        """Write events in chunks, so that one who reads can tell an end from a break."""
        self.protocol_version = "HTTP/1.1"
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        model = asked["model"]
        said = {"model": model, "choices": [{"index": 0, "delta": {"content": self.of.name}, "finish_reason": None}]}
        last = {"model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        events: list[dict[str, object]] = [said, said, last]
        options = asked.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            events.append({"model": model, "choices": [], "usage": USAGE})
        keep = {"no-event": 0, "one-event": 1, "endless": 0}.get(mood)
        for event in events[:keep]:
            self._chunk({**_HEAD, "object": "chat.completion.chunk", **event})
        try:
            while mood == "endless":
                self._chunk({**_HEAD, "object": "chat.completion.chunk", **said})
                time.sleep(0.05)
        except OSError:
            self.of.left.append(str(asked["messages"]))
            return
        if keep is None:
            self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _chunk(self, event: dict[str, object]) -> None:
        content = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def _send(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


_HEAD = {"id": "1", "object": "chat.completion", "created": 1}
