"""Stands in for vLLM's server where a test is about what runs it or what asks it, and not about vLLM.

Laid out as the module that the start script runs (`layout.py`): takes vLLM's arguments and variables, tells of its
start in the words of vLLM 0.32's log, and answers as the toy does. It loads at once; but while the file `hold` lies in
HF_HOME it goes on starting, and while `hold-answers` does it keeps whoever asks waiting. While `slow` lies there, an
answer takes the longer the fewer tokens a step has, and a step of more than LARGEST_STEP ends the start. Refuses an
architecture that vLLM does not know. Standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socketserver
import sys
import time
from pathlib import Path
from typing import ClassVar

from tests.toy_engine.server import Handler, Server

ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen2VLForConditionalGeneration")
"""What the smoke model is, and a vision model of the tests (multimodal/eyes.py)."""
LOOK_EVERY_S = 0.1
SLOW_S, USUAL_STEP, LARGEST_STEP = 0.2, 2048, 4096
"""What an answer takes with the usual step; twice the step, half the time."""


class Engine(Handler):
    """Answers whoever has the key, and counts the answers."""

    key: ClassVar[str] = os.environ.get("VLLM_API_KEY", "")
    answered: ClassVar[int] = 0
    step: ClassVar[int] = USUAL_STEP

    def do_GET(self) -> None:
        """Answer what the toy does, and `/metrics`."""
        if self.path == "/metrics":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'vllm:request_success_total{{finished_reason="stop"}} {Engine.answered}.0\n'.encode())
        elif self.path == "/health" or self._has_key():
            super().do_GET()

    def do_POST(self) -> None:
        """Answer a chat."""
        if self._has_key():
            while (Path(os.environ["HF_HOME"]) / "hold-answers").exists():
                time.sleep(LOOK_EVERY_S)
            if is_slow():
                time.sleep(SLOW_S * USUAL_STEP / self.step)
            super().do_POST()
            Engine.answered += 1

    def _has_key(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {self.key}":
            return True
        self.send_error(401)
        return False


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens where the program that loads models in turns asks."""

    daemon_threads = True


def is_slow() -> bool:
    """Return whether answers take their time."""
    return (Path(os.environ["HF_HOME"]) / "slow").exists()


def say(place: str, words: str) -> None:
    """Tell the log one line, with vLLM's prefix."""
    print(f"(APIServer pid={os.getpid()}) INFO 11-28 21:34:03 [{place}] {words}", file=sys.stderr, flush=True)


def load(model: Path) -> None:
    """Do what takes vLLM its time; end where the model is of a kind that is not known."""
    hold = Path(os.environ["HF_HOME"]) / "hold"
    while hold.exists():
        time.sleep(LOOK_EVERY_S)
    say("api_utils.py:347", " ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0")
    config = model / "config.json"
    named = (
        json.loads(config.read_text(encoding="utf-8"))["architectures"] if config.exists() else ()
    )  # else a hub's id
    for architecture in named:
        if architecture not in ARCHITECTURES:
            sys.exit(f"ValueError: Model architectures ['{architecture}'] are not supported for now.")
    say("cpu_model_runner.py:68", f"Starting to load model {model}...")
    say("default_loader.py:501", "Loading weights took 0.01 seconds")


def main() -> None:
    """Serve until the process ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--uds")
    parser.add_argument("--max-num-batched-tokens", type=int, default=USUAL_STEP)
    asked, _ = parser.parse_known_args()
    Engine.step = asked.max_num_batched_tokens
    if is_slow() and Engine.step > LARGEST_STEP:
        sys.exit(f"ValueError: a step of {Engine.step} tokens is too large")
    load(asked.model)
    handler = type("Served", (Engine,), {"model": asked.served_model_name})
    address = asked.host, asked.port
    with UnixServer(asked.uds, handler) if asked.uds else Server(address, handler) as server:
        say("entry.py:140", f"Starting vLLM server on {asked.uds or asked.port}")
        server.serve_forever()


if __name__ == "__main__":
    main()
