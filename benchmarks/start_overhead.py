"""How long `start-environment` takes to the first completion beside plain `docker compose up --wait` on the same files.

    python -m benchmarks.start_overhead [PAIRS]

Both bring up the same rendered project (CPU engine, the model that is made on the spot) on a real container engine, in
turns, the first of each pair in turns too; everything is taken down before each. A client asks the gateway for a
completion from the first moment on, every fifth of a second, and its first answer ends the time. What a person waits
for the command itself is written down too. One start before all others fills the caches and is not counted. Writes
benchmarks/results/start_overhead.json and ends with 1 where the median of the ratios is above 1.05. Touches a temporary
folder, the container engine, and that file.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from tests.integration.images import build_images
from tests.integration.project import CHECKOUT, START_S, Project
from tests.integration.testbed import engine

RESULT = CHECKOUT / "benchmarks" / "results" / "start_overhead.json"
PAIRS = 5
MOST_RATIO = 1.05
ASK_EVERY_S = 0.2


class Start(Struct, frozen=True, kw_only=True):
    """One start: seconds to the first completion, seconds to the end of the command, and the load before it."""

    completion_s: float
    command_s: float
    load: float


def main() -> int:
    """Measure, write the result and return the exit code."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    with engine() as host, tempfile.TemporaryDirectory() as folder:
        state = Path(os.environ.get("STACKWRIGHT_STATE") or Path(folder) / "state")
        project = Project.new(Path(folder) / "project", state, host)
        pairs = measure(project, host, count)
        compose = project.run(["docker", "compose", "version", "--short"]).stdout.strip()
    ratios = [round(ours.completion_s / theirs.completion_s, 3) for ours, theirs in pairs]
    median = round(statistics.median(ratios), 3)
    result = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "compose": compose},
        "limit": MOST_RATIO,
        "median_ratio": median,
        "ratios": ratios,
        "pairs": [{"start_environment": asdict(ours), "compose_up_wait": asdict(theirs)} for ours, theirs in pairs],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"median ratio {median} of {ratios}")
    return 0 if median <= MOST_RATIO else 1


def measure(project: Project, host: str, count: int) -> list[tuple[Start, Start]]:
    """Start both ways in turns; return the pairs, ours first."""
    images = build_images(host)
    pins = {"VLLM_IMAGE": images.engine, "LITELLM_IMAGE": images.gateway, "REDIS_IMAGE": images.redis}
    project.configure("cpu", *(f"--set={key}={value}" for key, value in pins.items()))
    ours = [sys.executable, "-m", "stackwright", "start-environment", "dev", "--runtime=compose"]
    ways = {"ours": [*ours, f"--out={project.folder}"], "theirs": by_hand(project, "up", "--wait", "--detach")}
    try:
        start(project, ways["theirs"])
        pairs = []
        for number in range(count):
            order = list(ways) if number % 2 else list(reversed(ways))
            pair = {way: start(project, ways[way]) for way in order}
            print({way: pair[way].completion_s for way in ways}, flush=True)
            pairs.append((pair["ours"], pair["theirs"]))
        return pairs
    finally:
        project.command("stop-environment", "dev", "--runtime=compose")
        project.remove()


def by_hand(project: Project, *words: str) -> list[str]:
    """Return the plain `docker compose` command on the rendered files."""
    root = project.folder
    files = ["--env-file", root / "envs/.env.dev", "-f", root / "compose/compose.yaml"]
    files += ["-f", root / "compose/generated/dev/override.yaml"]
    return ["docker", "compose", *map(str, files), *words]


def start(project: Project, command: Sequence[str]) -> Start:
    """Take everything down, start by one command, and ask until there is a completion; a failure is no measurement."""
    down = project.command("stop-environment", "dev", "--runtime=compose")
    if down.returncode != 0:
        raise SystemExit(down.stderr)
    load, key = round(os.getloadavg()[0], 2), project.secrets["litellm_master_key"]
    began = time.monotonic()
    answered: float | None = None
    ended: float | None = None
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=project.variables, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        while answered is None or ended is None:
            # The gateway answers before the engine does, and tries an early request again after growing pauses: for
            # both.
            if answered is None and project.ask(key)[0] == 200:
                answered = time.monotonic() - began
            if ended is None and process.poll() is not None:
                ended = time.monotonic() - began
            if process.poll() or time.monotonic() - began > START_S:
                process.kill()
                said.seek(0)
                raise SystemExit(f"{shlex.join(command)} ended with {process.wait()}:\n{said.read().decode()}")
            time.sleep(ASK_EVERY_S)
    return Start(completion_s=round(answered, 2), command_s=round(ended, 2), load=load)


if __name__ == "__main__":
    sys.exit(main())
