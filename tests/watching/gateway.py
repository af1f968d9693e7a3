"""A gateway on loopback that answers as a test wants: a real HTTP server, since that is what is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

KEY = "sk-test"
CHAT = json.dumps({"choices": [{"message": {"content": "Hello."}}]})
PLAIN = json.dumps({"choices": [{"text": "Hello there."}]})
MODELS = json.dumps({"object": "list", "data": [{"id": "smoke", "object": "model"}]})
VECTOR = json.dumps({"data": [{"index": 0, "embedding": [0.25, -0.5, 0.125]}]})
RANKING = json.dumps({"results": [{"index": 1, "relevance_score": 0.1}, {"index": 0, "relevance_score": 0.9}]})


def events(*payloads: object) -> str:
    """Return a stream of server-sent events that ends as it should."""
    return "".join(f"data: {json.dumps(each)}\n\n" for each in payloads) + "data: [DONE]\n\n"


STREAM = events(
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Hel"}}]},
    {"choices": [{"delta": {"content": "lo."}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"total_tokens": 3}},
)


class Handler(BaseHTTPRequestHandler):
    """Answers a right key from the lists of replies on its server, the last of each again and again."""

    def do_GET(self) -> None:
        """Tell the models."""
        self._answer("models", "")

    def do_POST(self) -> None:
        """Complete, whole or piece by piece."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/audio/transcriptions":
            assert b"RIFF" in content
            self._answer("transcript", content.partition(b'name="model"\r\n\r\n')[2].partition(b"\r\n")[0].decode())
            return
        body = json.loads(content)
        further = {"/v1/embeddings": "embedding", "/v1/rerank": "ranking"}
        kind = further.get(self.path) or ("stream" if body.get("stream") else "completion")
        self._answer(kind, body["model"])

    def _answer(self, kind: str, model: str) -> None:
        server = self.server
        assert isinstance(server, Gateway)
        key = str(self.headers["Authorization"]).removeprefix("Bearer ")
        kind = kind if key == KEY or server.open else "refusal"
        server.asked.append((kind, self.path, key, model))
        replies = server.replies[kind]
        status, text = replies.pop(0) if len(replies) > 1 else replies[0]
        self.send_response(status)
        if server.location:
            self.send_header("Location", server.location)
        if server.promised:
            self.send_header("Content-Length", str(server.promised))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


class Gateway(ThreadingHTTPServer):
    """A gateway with the replies that a test wants, by what is asked for. `open`: it looks at no key."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[tuple[int, str]]] = {
            "refusal": [(401, "wrong or missing key")],
            "models": [(200, MODELS)],
            "completion": [(200, CHAT)],
            "stream": [(200, STREAM)],
            "embedding": [(200, VECTOR)],
            "ranking": [(200, RANKING)],
            "transcript": [(200, '{"text": "Hello."}')],
        }
        self.asked: list[tuple[str, str, str, str]] = []
        self.open = False
        self.location = ""
        self.promised = 0

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Answer while the block lasts."""
        with self:
            thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield self
            self.shutdown()
            thread.join()

    @property
    def kinds(self) -> list[str]:
        """What has been asked for, in order."""
        return [kind for kind, *_ in self.asked]
