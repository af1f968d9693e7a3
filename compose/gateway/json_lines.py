"""The gateway's log as JSON, an object a line, where GATEWAY_LOGS says so. Standard library alone.

LiteLLM and uvicorn write JSON by LiteLLM's own setting (JSON_LOGS, which start.sh sets), but print their greetings and
what ends them as they are; so do we. Whatever is no object becomes one here, under the names that LiteLLM's lines have.
"""

import json
import sys
import threading
from datetime import UTC, datetime
from typing import TextIO


class JsonLines:
    """A text stream whose every line is a JSON object. A thread's part of a line waits for its rest."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun, self._lock = stream, threading.local(), threading.Lock()

    def write(self, text: str) -> int:
        """Write the lines that are whole; return how much was taken."""
        *lines, self._begun.text = (getattr(self._begun, "text", "") + text).split("\n")
        told = "".join(f"{as_object(line)}\n" for line in lines if line.strip())
        if told:
            with self._lock:
                self._stream.write(told)
                self._stream.flush()
        return len(text)

    def __getattr__(self, name: str) -> object:
        """Answer all else as the stream itself does."""
        return getattr(self._stream, name)


def as_object(line: str) -> str:
    """Return a line that is a JSON object as it is, and another one within such an object."""
    if line.startswith("{"):
        try:
            if isinstance(json.loads(line), dict):
                return line
        except ValueError:
            pass
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"message": line.rstrip("\r"), "timestamp": now, "component": "gateway"})


def write_json() -> None:
    """Let this process write nothing but JSON from now on."""
    sys.stdout, sys.stderr = JsonLines(sys.stdout), JsonLines(sys.stderr)  # type: ignore[assignment]
