#!/usr/bin/env python3
"""A tiny OpenAI server: health, models, chat completions, streamed too, and vectors. Standard library alone.

python server.py --model NAME --served-model-name NAME [--host HOST] [--port PORT]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONGEST = 1024
WORDS = ("Toys ", "answer ", "too.")


def chunk(model: str, delta: dict[str, str], finish: str | None) -> dict[str, object]:
    """Return one event of a streamed answer."""
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "toy-1", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": choices}


def events(model: str) -> Iterator[dict[str, object]]:
    """Yield a streamed answer."""
    for word in WORDS:
        yield chunk(model, {"role": "assistant", "content": word}, None)
    yield chunk(model, {}, "stop")


def completion(model: str) -> dict[str, object]:
    """Return a whole answer."""
    message = {"role": "assistant", "content": "".join(WORDS)}
    return {
        "id": "toy-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": len(WORDS), "total_tokens": 1 + len(WORDS)},
    }


def embeddings(model: str, texts: list[str]) -> dict[str, object]:
    """Return vectors that are near where texts share words: each word has four directions of its own."""
    rows = []
    for number, text in enumerate(texts):
        vector = [0.0] * 64
        for word in re.findall(r"\w+", text.lower()) or [text]:
            digest = hashlib.sha256(word.encode()).digest()
            for place in range(4):
                vector[digest[place] % 64] += 1.0 if digest[8 + place] & 1 else -1.0
        rows.append({"object": "embedding", "index": number, "embedding": vector})
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": rows, "model": model, "usage": usage}


class Handler(BaseHTTPRequestHandler):
    """Answers what a gateway and a health check ask."""

    model = "toy"

    def do_GET(self) -> None:
        """Answer `/health` and `/v1/models`."""
        if self.path == "/health":
            self._answer({})
        elif self.path == "/v1/models":
            self._answer({"object": "list", "data": [{"id": self.model, "object": "model", "created": 0}]})
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """Answer a chat, in pieces where that is asked for, or give vectors."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        if self.path == "/v1/embeddings":
            texts = asked["input"]
            self._answer(embeddings(self.model, [texts] if isinstance(texts, str) else texts))
        elif self.path != "/v1/chat/completions":
            self.send_error(404)
        elif not asked.get("stream"):
            self._answer(completion(self.model))
        else:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in events(self.model):
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

    def _answer(self, body: dict[str, object]) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *words: object) -> None:
        """Keep the log to what the toy itself tells."""


class Server(ThreadingHTTPServer):
    """Takes many connections at once: one that finds no room in the queue comes again a second later (TCP)."""

    request_queue_size = 256


def serve(host: str, port: int, model: str) -> Server:
    """Return a server that listens; port 0 lets the system choose."""
    return Server((host, port), type("Toy", (Handler,), {"model": model}))


def main() -> None:
    """Serve until the process ends, and tell of the start as the engine's log steps know it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", default="toy")
    parser.add_argument("--context", default="512")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    asked, _ = parser.parse_known_args()
    sys.stderr.write(f"TOY toy engine 1.0 begins\nTOY winding up {asked.model}\n")
    if int(asked.context) > LONGEST:
        sys.exit(f"TOY Error: the spring of {asked.served_model_name} is broken")
    server = serve(asked.host, asked.port, asked.served_model_name)
    sys.stderr.write("TOY ready to play\n")
    sys.stderr.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
