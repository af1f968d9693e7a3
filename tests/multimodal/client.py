"""A client of the multimodal worker: sends files, and waits for their results. Touches loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTS_WITHIN_S = 120


@dataclass
class Answer:
    """What the service answered."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def document(self) -> Any:
        """The JSON."""
        return json.loads(self.content)

    @property
    def message(self) -> str:
        """The sentence of a refusal."""
        return str(self.document["error"]["message"])


@dataclass
class Client:
    """Asks the service at a port of this machine. `keys`: by name; `name`: whose is shown where a call names none."""

    port: int
    keys: Mapping[str, str]
    name: str

    def ask(self, method: str, path: str, key: str | None = "", body: bytes | None = None, **headers: str) -> Answer:
        """Ask the service."""
        if key is not None:
            headers["Authorization"] = f"Bearer {self.keys.get(key or self.name, key)}"
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def submit(
        self, content: bytes | Path, want: object = None, key: str = "", name: str = "a.png", **headers: str
    ) -> Answer:
        """Send a file."""
        data = content.read_bytes() if isinstance(content, Path) else content
        mark, parts = uuid.uuid4().hex.encode(), []
        if want is not None:
            parts.append((b'name="want"\r\nContent-Type: application/json', json.dumps(want).encode()))
        parts.append((f'name="file"; filename="{name}"'.encode(), data))
        body = b"".join(
            b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (mark, head, part) for head, part in parts
        )
        kind = f"multipart/form-data; boundary={mark.decode()}"
        return self.ask("POST", "/v1/jobs", key, body + b"--%s--\r\n" % mark, Content_Type=kind, **headers)

    def ended(self, job_id: str, key: str = "") -> Any:
        """Return a job when it has ended."""
        for _ in range(5):
            job = self.ask("GET", f"/v1/jobs/{job_id}?wait_s=30", key).document
            if job["state"] in ("done", "failed", "dead"):
                return job
        raise AssertionError(f"{job}")

    def done(self, content: bytes | Path, want: object = None, **named: Any) -> Any:
        """Send a file, and return its result."""
        answer = self.submit(content, want, **named)
        assert answer.status == 202, answer.content
        job = self.ended(answer.document["id"], named.get("key", ""))
        assert job["state"] == "done", job
        return job["result"]

    def until_up(self) -> bool:
        """Return once it answers."""
        end = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health", key=None).status == 200:
                    return True
            time.sleep(0.1)
        return False
