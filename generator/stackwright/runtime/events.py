"""What Docker itself noted about a stack's containers: how each ended, and everything that it knows of them.

Touches the container engine through the `docker` client that it is given, for reading.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence

# The engine keeps the last 256 events only, health checks among them; what is older is gone anyway.
SINCE = "60m"
KINDS = ("create", "start", "kill", "die", "oom", "stop", "restart", "destroy")
# Docker answers in a moment or, where its daemon hangs, never.
ANSWERS_WITHIN_S = 20


def read_events(docker: Sequence[str], project: str) -> str:
    """Return one line for each event, oldest first: `TIME ACTION SERVICE exitCode=N signal=N`; empty where none can be had."""
    attributes = '{{index .Actor.Attributes "%s"}}'
    service = attributes % "com.docker.compose.service"
    line = f"{{{{.Time}}}} {{{{.Action}}}} {service} exitCode={attributes % 'exitCode'} signal={attributes % 'signal'}"
    # To the nanosecond: the client cuts a duration such as `0s` down to the second, and what just happened is lost.
    until = f"{time.time_ns() / 1e9:.9f}"
    kinds = [word for kind in KINDS for word in ("--filter", f"event={kind}")]
    label = ["--filter", f"label=com.docker.compose.project={project}"]
    said = _ask(
        [
            *docker,
            "events",
            "--since",
            SINCE,
            "--until",
            until,
            "--format",
            line,
            "--filter",
            "type=container",
            *label,
            *kinds,
        ]
    )
    return said.replace("<no value>", "").replace(" exitCode= ", " ").replace(" signal=\n", "\n")


def read_inspect(docker: Sequence[str], identities: Sequence[str]) -> str:
    """Return what `docker inspect` tells of some containers, as JSON text; empty where there are none."""
    said = _ask([*docker, "inspect", *identities]) if identities else ""
    try:
        return json.dumps(json.loads(said), indent=1)
    except ValueError:  # one of them is gone meanwhile
        return said


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=ANSWERS_WITHIN_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
