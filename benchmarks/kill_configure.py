"""kill -9 at random moments of `configure-gpu`: how often is the set of files on the disk torn or mixed?

    python benchmarks/kill_configure.py [KILLS]

Each run writes all three environments for the CPU, in turns with one and with two gateway workers, and is killed after
a random part of the time that a whole run takes. The files are then read as they lie there: each must be whole, those
of one environment of one set, and all three of one set. What the next command finds is looked at too. Writes
benchmarks/results/kill_configure.json and ends with 1 where a file was torn, an edit lost, or a set mixed.
Touches a temporary folder and that file.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
RESULT = CHECKOUT / "benchmarks" / "results" / "kill_configure.json"
KILLS = 500
ENVIRONMENTS = ("dev", "staging", "prod")
GENERATED = ("override.yaml", "gateway.yaml", "plan.json", "inputs.json", "manifest.json")
WHOLE_RUNS = 5


def main() -> int:
    """Kill, look, write the result and return the exit code."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), kills)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if result["mixed_in_one_environment"] or result["mixed"] or result["left_over"] else 0


def measure(folder: Path, kills: int) -> dict[str, object]:
    """Kill `kills` runs in a project in this folder; count what was found after each."""
    took = [run(folder, workers, None) or 0.0 for _ in range(WHOLE_RUNS) for workers in (1, 2)]
    sets = {}
    for workers in (1, 2):
        run(folder, workers, None)
        sets[workers] = read(folder)
    whole_s = statistics.median(took)
    found: Counter[str] = Counter({"mixed_in_one_environment": 0, "mixed": 0, "old": 0, "new": 0, "ended_before": 0})
    now = 2
    for _ in range(kills):
        wanted = 3 - now
        ended = run(folder, wanted, random.uniform(0, 1.1 * whole_s)) is not None
        files = read(folder)
        of = {each: [n for n in sets if sets[n][each] == files[each]] for each in ENVIRONMENTS}
        found["mixed_in_one_environment"] += any(not numbers for numbers in of.values())
        found["mixed"] += len({tuple(numbers) for numbers in of.values()}) > 1
        if of["dev"]:
            now = of["dev"][0]
        found["ended_before" if ended else "new" if now == wanted else "old"] += 1
    run(folder, 1, None)
    left = [str(path) for path in folder.rglob("*") if path.suffix == ".tmp" or ".switch-" in path.name]
    return {
        "machine": platform.platform(),
        "kills": kills,
        "whole_run_s": round(whole_s, 3),
        **found,
        "left_over": left,
        "edits_kept_by_mistake": len(list(folder.rglob("*.edited-*"))),
    }


def run(folder: Path, workers: int, kill_after_s: float | None) -> float | None:
    """Configure; return the seconds that it took, None where it was killed before its end."""
    variables = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT / "generator"),
        "HOME": str(folder),
        "STACKWRIGHT_STATE": str(folder / "state"),
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "stackwright",
        "configure-gpu",
        "cpu",
        f"--set=LITELLM_NUM_WORKERS={workers}",
    ]
    host = CHECKOUT / "tests" / "hosts" / "cpu-small" / "host.yaml"
    began = time.monotonic()
    with subprocess.Popen(
        [*command, f"--host={host}", f"--out={folder / 'project'}"],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            process.wait(timeout=kill_after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
    return time.monotonic() - began


def read(folder: Path) -> dict[str, str]:
    """Return one hash of the files of each environment as they lie on the disk now."""
    project = folder / "project"
    hashes = {}
    for environment in ENVIRONMENTS:
        paths = [project / "envs" / f".env.{environment}"]
        paths += [project / "compose" / "generated" / environment / name for name in GENERATED]
        content = b"\0".join(path.read_bytes() for path in paths)
        hashes[environment] = hashlib.sha256(content).hexdigest()
    return hashes


if __name__ == "__main__":
    sys.exit(main())
