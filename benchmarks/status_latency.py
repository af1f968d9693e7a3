"""How long `stackwright status` takes for a stack that runs, in turns with what its runtime's own client takes.

    python benchmarks/status_latency.py dev --out DIR

The stack is one that `start-environment` has brought up in DIR. Beside it stands, under Compose, `docker compose ps`,
which tells the states alone; for processes `stackwright key`, which asks nobody and shows what a start of ours takes.
Fresh processes on the same machine, in turns in the same run, files in the page cache. Writes the runtime's row of
benchmarks/results/status_latency.json, prints the medians in milliseconds, and ends with 1 where a status takes more
than half a second. Touches that file alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stackwright.commands.paths import find_paths
from stackwright.domain.environment import Environment
from stackwright.project.folder import load_stack

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "benchmarks" / "results" / "status_latency.json"
RUNS = 15
MOST_MS = 500.0


def main() -> int:
    """Measure, write the row and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Environment)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    stack = load_stack(find_paths(given.out).of(given.environment))
    if stack is None:
        raise SystemExit(f"{given.out}: nothing is configured")
    package, of = [sys.executable, "-P", "-m", "stackwright"], [given.environment.value, f"--out={given.out}"]
    ours = [*package, "status", *of, "--json"]
    told = json.loads(run(ours)[1])
    theirs = [*package, "key", *of]
    if told["runtime"] == "compose":
        theirs = ["docker", "compose", "--project-name", stack.name, "ps", "--all"]
    times: dict[str, list[float]] = {"ours_ms": [], "theirs_ms": []}
    for _ in range(RUNS):
        for name, command in (("ours_ms", ours), ("theirs_ms", theirs)):
            times[name].append(round(run(command)[0] * 1000, 1))
    row = {
        "services": len(told["services"]),
        "figures_of_models": sum(model["running"] is not None for model in told["models"]),
        "ours_median_ms": statistics.median(times["ours_ms"]),
        "theirs_median_ms": statistics.median(times["theirs_ms"]),
        "theirs": "docker compose ps" if theirs[0] == "docker" else "stackwright key",
        "machine": describe_machine(),
        **times,
    }
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**rows, told["runtime"]: row}, indent=2, sort_keys=True) + "\n")
    print(f"{told['runtime']}: {row['ours_median_ms']} ms, {row['theirs']} {row['theirs_median_ms']} ms")
    return 0 if statistics.median(times["ours_ms"]) <= MOST_MS else 1


def run(command: Sequence[str]) -> tuple[float, str]:
    """Run a command; return its wall time in seconds and what it printed. A failure is not a measurement."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=CHECKOUT, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout


def describe_machine() -> dict[str, str | float | None]:
    """Return what the figures depend on; a busy machine makes them longer."""
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_average_1_min": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    sys.exit(main())
