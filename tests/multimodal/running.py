"""The service as it runs, beside a stand-in for the gateway: for tests, and for benchmarks/media_kills.py.

The stand-in is at the HTTP boundary alone: it answers as the gateway does, and notes what it was asked.
"""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image
from stackwright.domain.access_key import AccessKey, AccessKeys, Rights, hash_key, text_of_key

from tests.multimodal.client import Client

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = CHECKOUT / "compose" / "multimodal"
START_S = 60

KEYS = {
    "master": "sk-master",
    **{
        name: text_of_key(f"{at:08}", f"{at:064}")
        for at, name in enumerate(("multimodal", "alice", "bob", "blind", "watcher"))
    },
}
RIGHTS = {
    "multimodal": Rights(acts_for=True),
    "blind": Rights(models=("vectors",)),
    "watcher": Rights(metrics_only=True),
}


def colour_of(picture: bytes) -> str:
    """Name the main colour of a JPEG picture."""
    with Image.open(io.BytesIO(picture)) as image:
        found = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert isinstance(found, tuple)
    near = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "white": (255,) * 3}
    return min(near, key=lambda name: sum(abs(a - b) for a, b in zip(near[name], found, strict=True)))


@dataclass
class Gateway:
    """Where the gateway would be. `mood`: a status that it answers with instead, for so many `times`; None: for ever.

    Its vision model names colours, its speech model says how long a sound is, its embeddings are lengths of texts.
    """

    mood: int = 200
    times: int | None = None
    retry_after: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    owners: set[str | None] = field(default_factory=set)
    bodies: list[Any] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    _server: ThreadingHTTPServer | None = None

    def __post_init__(self) -> None:
        self.held.set()

    def start(self) -> None:
        """Listen; on the port of before where there was one."""
        gateway = self

        class Handler(_Handler):
            of = gateway

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def next_status(self) -> int:
        """Return how the next request is answered."""
        if self.times is not None:
            self.times -= 1
            if self.times < 0:
                return 200
        return self.mood

    def answer(self, path: str, kind: str, body: bytes) -> dict[str, Any]:
        """Return a model's answer."""
        if path == "/v1/audio/transcriptions":
            return _transcript(kind, body)
        fields = json.loads(body)
        self.bodies.append(fields)
        if path == "/v1/embeddings":
            texts = fields.get("input", ["picture"])
            rows = [{"index": at, "embedding": [len(text), 1.0]} for at, text in enumerate(texts)]
            return {"data": rows[::-1]}  # an order of its own, as OpenAI's form allows
        parts = fields["messages"][0]["content"]
        pictures = [part["image_url"]["url"].partition(",")[2] for part in parts if part["type"] == "image_url"]
        text = " and ".join(colour_of(base64.b64decode(picture)) for picture in pictures)
        return {"choices": [{"message": {"content": text}}]}


def _transcript(kind: str, body: bytes) -> dict[str, Any]:
    form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP)
    parts = {
        str(part["Content-Disposition"].params["name"]): part.get_payload(decode=True) for part in form.iter_parts()
    }
    content = parts["file"]
    assert isinstance(content, bytes)
    with wave.open(io.BytesIO(content)) as sound:
        length_s = sound.getnframes() / sound.getframerate()
    segments = [{"start": 0.0, "end": length_s, "text": f" {length_s:.0f} seconds "}]
    return {"text": f"{length_s:.0f} seconds", "segments": segments, "language": "en", "duration": length_s}


class _Handler(BaseHTTPRequestHandler):
    of: Gateway

    def do_POST(self) -> None:
        """Answer a request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.of.asked.append((self.path, self.headers["Authorization"]))
        self.of.owners.add(self.headers["X-Stackwright-For"])
        self.of.held.wait(60)
        status = self.of.next_status()
        content = {"error": {"message": "not now"}}
        if status == 200:
            content = self.of.answer(self.path, self.headers["Content-Type"], body)
        text = json.dumps(content).encode()
        with contextlib.suppress(OSError):  # whoever asked was killed
            self.send_response(status)
            if self.of.retry_after and status == 429:
                self.send_header("Retry-After", self.of.retry_after)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def write_keys(file: Path) -> None:
    """Write the keys of people as `stackwright keys` does."""
    salt = bytes(16)
    stored = [
        AccessKey(
            name=name,
            id=text[3:11],
            salt=salt.hex(),
            hash=hash_key(text, salt).hex(),
            created=0,
            rights=RIGHTS.get(name, Rights()),
        )
        for name, text in KEYS.items()
        if name != "master"
    ]
    file.write_text(json.dumps(msgspec.to_builtins(AccessKeys(keys=tuple(stored)))))


class Service(Client):
    """The service in processes of its own, with a folder of its own. `variables` are laid over its settings."""

    def __init__(self, folder: Path, gateway: Gateway, python: str = sys.executable, **variables: str) -> None:
        super().__init__(port=0, keys=KEYS, name="alice")
        self.folder, self.gateway, self._python = folder, gateway, python
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("data", "secrets", "keys"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "secrets" / "litellm_master_key").write_text(KEYS["master"])
        write_keys(folder / "keys" / "keys.json")
        (folder / "secrets" / "multimodal_gateway_key").write_text(KEYS["multimodal"])
        self.variables = {
            "PATH": os.environ["PATH"],
            "PYTHON": python,
            "MULTIMODAL_FOLDER": str(folder / "data"),
            "SECRETS_DIRECTORY": str(folder / "secrets"),
            "GATEWAY_KEYS": str(folder / "keys"),
            "GATEWAY_ADDRESS": f"127.0.0.1:{gateway.port}",
            "MULTIMODAL_WORKER_PROCESSES": "2",
            "MULTIMODAL_MAX_ATTEMPTS": "3",
            "MULTIMODAL_MAX_FILE_MIB": "32",
            "MULTIMODAL_KEEP_DAYS": "1",
            "MULTIMODAL_MAX_QUEUED_JOBS": "500",
            "MULTIMODAL_DISK_MIB": "1024",
            "MULTIMODAL_FILE_MEMORY_MIB": "768",
            "MULTIMODAL_FILE_TIMEOUT_S": "60",
            "MULTIMODAL_MAX_DURATION_S": "600",
            "VISION_MODEL": "eyes",
            "SPEECH_MODEL": "ears",
            "EMBEDDING_MODEL": "vectors",
            **variables,
        }

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.port = self.port or free_port()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", PROGRAM / "start.sh", "127.0.0.1", str(self.port)], env=self.variables, stdout=log, stderr=log
            )
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/health", key=None).status == 200:
                    return
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)

    def kill(self) -> None:
        """Kill the server."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def below(self, module: str) -> list[int]:
        """Return the processes below the server that run a module of the program."""
        return [
            pid for pid in descendants(self.pid) if f"multimodal.{module}".encode() in command_line(pid).split(b"\0")
        ]

    def results_of(self, job_id: str) -> int:
        """Return how many results a job was ever given, as the store counts them."""
        with contextlib.closing(sqlite3.connect(self.folder / "data" / "jobs.sqlite")) as base:
            return int(base.execute("SELECT results FROM jobs WHERE id = ?", (job_id,)).fetchone()[0])


@contextlib.contextmanager
def running(folder: Path, **variables: str) -> Iterator[Service]:
    """Run the service beside a stand-in gateway."""
    gateway = Gateway()
    gateway.start()
    service = Service(folder, gateway, **variables)
    try:
        service.start()
        yield service
    finally:
        service.stop()
        gateway.stop()


def until(holds: Callable[[], Any], limit_s: float = 60) -> Any:
    """Return what is true once it is."""
    end = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes below one."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def command_line(pid: int) -> bytes:
    """Return a process's words; none of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
