"""A stand-in for the `docker` program: a script on the PATH that answers from a table; python-on-whales in between is
real.

Its replies are those of Docker 28.2 with Engine 20.10.24 and Compose 2.26.1, shortened.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SERVICES = ("engine", "redis", "gateway")
# What the stand-in does with a command that the test gives no reply for.
UNEXPECTED = 'echo "unexpected: $*" >&2; exit 99'


class Docker:
    """A `docker` program that answers from a table of shell patterns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._program = folder / "bin" / "docker"
        self._program.parent.mkdir()
        self._calls = folder / "calls"
        self._replies: dict[str, str] = {}
        monkeypatch.setenv("PATH", f"{self._program.parent}:/usr/bin:/bin")

    def reply(self, pattern: str, action: str) -> None:
        """Run `action` for the commands that match a pattern of `case`, from now on; the first that matches wins."""
        self._replies[pattern] = action
        cases = "\n".join(f"{pattern}) {action} ;;" for pattern, action in self._replies.items())
        self._program.write_text(
            f'#!/bin/sh\necho "$*" >>{self._calls}\ncase "$*" in\n{cases}\n*) {UNEXPECTED} ;;\nesac\n'
        )
        self._program.chmod(0o755)

    def print(self, pattern: str, text: str) -> None:
        """Print a text for the commands that match."""
        self.reply(pattern, f"cat <<'END'\n{text}\nEND\n")

    def refuse(self, pattern: str, words: str) -> None:
        """Fail with these words for the commands that match."""
        self.reply(pattern, f"cat >&2 <<'END'\n{words}\nEND\nexit 1")

    def run(self, name: str, **state: object) -> None:
        """Have a container of a service, in the state that the engine reports of it."""
        restarts = state.pop("RestartCount", 0)
        label = {"service": name, "config-hash": state.pop("Hash", f"hash-of-{name}")}
        config = {"Labels": {f"com.docker.compose.{key}": value for key, value in label.items()}}
        found = {
            "Id": f"id-{name}",
            "Name": f"/{state.pop('Name', f'x-{name}-1')}",
            "State": state,
            "RestartCount": restarts,
            "Config": config,
        }
        self.print(f'"container inspect id-{name}"', json.dumps([found]))

    @property
    def calls(self) -> list[str]:
        """Every command so far."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def count(self, word: str) -> int:
        """Return how many commands so far had a word."""
        return sum(word in call for call in self.calls)


def list_containers(docker: Docker, *names: str) -> None:
    """Let the engine list the containers of these services."""
    docker.print("'container list'*", "\n".join(f"id-{name}" for name in names))
    docker.print("*' config --hash '*", "\n".join(f"{name} hash-of-{name}" for name in SERVICES))
