"""A stand-in for the gateway: vectors that are near where texts share words, ranks, and answers that cite.

It is the boundary of the proxy: what lies behind it needs an engine. Touches loopback.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

DIMENSION = 64
ANSWER = "The valve opens at three bar [1], as the manual says [9]."
WORD = re.compile(r"\w+")


def vector_of(text: str, dimension: int, seed: bytes) -> list[float]:
    """Return a vector of length 1: each word has a direction of its own, another one by each seed."""
    sums = [0.0] * dimension
    for word in WORD.findall(text.lower()) or [text]:
        digest = blake2b(word.encode(), digest_size=16, key=seed).digest()
        for number in range(4):
            place = int.from_bytes(digest[2 * number : 2 * number + 2]) % dimension
            sums[place] += 1.0 if digest[8 + number] & 1 else -1.0
    length = math.hypot(*sums)
    return [value / length for value in sums] if length else [1.0, *[0.0] * (dimension - 1)]


def picture_vector(words: str, dimension: int) -> list[float]:
    """Return the vector of a picture that shows this: far from all texts, as CLIP puts them, and nearest to its own.

    The direction that all pictures share is not among those of the tests' words.
    """
    shown = vector_of(words, dimension, b"")
    apart = vector_of("what all pictures share", dimension, b"pictures")
    return [one + 2 * other for one, other in zip(shown, apart, strict=True)]


def texts_of(body: dict[str, Any]) -> list[str]:
    """Return the texts of a request for vectors: its list, or the one of a conversation."""
    return [message["content"] for message in body["messages"]] if "messages" in body else body["input"]


@dataclass
class Models:
    """The gateway, with an embedding model `embed`, a chat model `chat` and, where asked, a model `rank`.

    `status` is what it answers instead of 200, `seed` are the weights of `embed`, and `context_bytes` is how long a
    chat may be. `asked` are the paths, keys and bodies of all requests, `owners` in whose name each was, `busy_s` the
    seconds that vectors took.
    """

    port: int
    status: int = 200
    dimension: int = DIMENSION
    seed: bytes = b""
    context_bytes: int = 1 << 30
    busy_s: float = 0.0
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    owners: list[str | None] = field(default_factory=list)
    retry_after: str = ""
    _server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen."""
        models = self

        class Handler(_Handler):
            of = models

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def asked_for(self, path: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the keys and the bodies that came to a path."""
        return [(key, body) for at, key, body in self.asked if at == path]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing of a connection that its client's kill has broken."""


class _Handler(BaseHTTPRequestHandler):
    of: ClassVar[Models]
    protocol_version = "HTTP/1.1"
    # The head and the body are two writes: without this the body of each answer waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._note({})
        self._send(200, {"object": "list", "data": [{"id": "chat"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(body)
        if self.of.status != 200:
            self._send(self.of.status, {"error": {"message": "not now"}})
        elif self.path == "/v1/embeddings":
            begin_s = time.monotonic()
            vectors = [vector_of(text, self.of.dimension, self.of.seed) for text in texts_of(body)]
            self._send(200, {"data": [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]})
            self.of.busy_s += time.monotonic() - begin_s
        elif self.path == "/v1/rerank":
            self._send(200, {"results": _ranks(body["query"], body["documents"])})
        elif sum(len(message["content"]) for message in body["messages"]) > self.of.context_bytes:
            self._send(400, {"error": {"message": "this does not fit"}})
        elif body.get("stream"):
            self._stream()
        else:
            choice: dict[str, Any] = {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER},
                "finish_reason": "stop",
            }
            self._send(200, {"object": "chat.completion", "choices": [choice]})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _note(self, body: dict[str, Any]) -> None:
        self.of.owners.append(self.headers["X-Stackwright-For"])
        self.of.asked.append((self.path, self.headers.get("Authorization", "").removeprefix("Bearer "), body))

    def _send(self, status: int, fields: dict[str, Any]) -> None:
        content = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 429 and self.of.retry_after:
            self.send_header("Retry-After", self.of.retry_after)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        words: list[dict[str, Any]] = [
            {"delta": {"content": word + " "}, "finish_reason": None} for word in ANSWER.split()
        ]
        for choice in [*words, {"delta": {}, "finish_reason": "stop"}]:
            event = {"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


def _ranks(query: str, documents: Sequence[str]) -> list[dict[str, float]]:
    """Return the documents by how often the query's longest word stands in them."""
    word = max(WORD.findall(query.lower()), key=len)
    scores = [document.lower().count(word) / 10 for document in documents]
    return [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
