"""Calling the `docker` client, and what its refusals mean. Touches the programs that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from stackwright.errors import RuntimeRefusedError
from stackwright.runtime.process_groups import owned

NO_ENGINE_HINT = "start Docker, or run without it: --runtime processes"

# Compose takes a moment to leave at SIGTERM; after this it is killed.
ENDS_WITHIN_S = 10

# What the engine says, and what to do about it. Looked for in the order given.
HINTS = (
    ("port is already allocated", "stop what uses the port, or choose another with --set GATEWAY_PORT=..."),
    ("address already in use", "stop what uses the port, or choose another with --set GATEWAY_PORT=..."),
    ("could not select device driver", "install the NVIDIA Container Toolkit and restart Docker"),
    ("permission denied while trying to connect", "join the docker group, or run without it: --runtime processes"),
    ("Cannot connect to the Docker daemon", NO_ENGINE_HINT),
    ("error during connect", NO_ENGINE_HINT),
    ("is not a docker command", "install Docker Compose v2, or run without it: --runtime processes"),
    ("unknown shorthand flag: 'f'", "install Docker Compose v2, or run without it: --runtime processes"),
)


def begin(command: list[str], *, stdout: int, stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a client in a process group of its own, so that `end` reaches the plugin that it starts in turn."""
    variables = {**os.environ, **owned()}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0, env=variables
    )


def end(client: subprocess.Popen[bytes]) -> None:
    """End a client and its plugin: Docker's client of 20.10 dies of a signal without passing it on."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # One signal, then only looking: a second one would cut the client's own cleaning up short.
        left = _signal_group(client, number)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = _signal_group(client, 0)


def _signal_group(client: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal, or none for 0, and say whether anything of the group is left to get it."""
    client.poll()  # takes the client's exit status, without which its group would live on
    try:
        os.killpg(client.pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what python-on-whales raises into a refusal with the engine's own words."""
    from python_on_whales import DockerException

    try:
        yield
    except DockerException as failure:
        raise refused(failure.stderr or str(failure)) from None


def refused(text: str) -> RuntimeRefusedError:
    """Return the refusal that the client's words amount to."""
    reason = reason_of(text)
    hint = next((hint for words, hint in HINTS if words in text), None)
    return RuntimeRefusedError(f"Docker refused: {reason}", hint=hint)


def reason_of(text: str) -> str:
    """Return the line that says why: the last one, without the client's own prefixes and final period."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else "no reason given"
    for prefix in ("Error response from daemon: ", "Error: ", "ERROR: ", "docker: "):
        line = line.removeprefix(prefix)
    return line.rstrip(".")
