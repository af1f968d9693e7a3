"""How long `configure-gpu cpu --dry-run` takes beside `docker compose config -q` on the files that it renders.

    python benchmarks/cli_latency.py

The script of a fresh clone (the last commit of this checkout), prepared and configured once, where the environment
forbids Python to write compiled modules: what is not compiled by then would be compiled at each call. Both are fresh
processes on the same machine, in turns in the same run. Two series: with the files in the page cache, as at a second
call; and, as root, with the page cache dropped before each call, as after a boot. Writes
benchmarks/results/cli_latency.json and .svg, prints the medians in milliseconds, and ends with 1 where the command
takes more than three times as long as Compose. Touches a temporary folder, the page cache (as root) and those two
files.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "benchmarks" / "results"
RUNS = 15
# A dropped page cache slows down everything else on the machine, so the second series is shorter.
COLD_RUNS = 5
MOST_RATIO = 3.0
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
IMPORTS_SHOWN = 15
OWN = ("PYTHONPATH", "STACKWRIGHT_VENV")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OWN} | {"PYTHONDONTWRITEBYTECODE": "1"}


class Series(Struct, frozen=True, kw_only=True):
    """Wall times of both commands, run in turns, in milliseconds."""

    ours_ms: list[float]
    theirs_ms: list[float]

    @property
    def ratio(self) -> float:
        """How many times as long as Compose the command takes, by the medians."""
        return round(statistics.median(self.ours_ms) / statistics.median(self.theirs_ms), 2)

    def as_json(self) -> dict[str, object]:
        """Return the row of the result file."""
        medians = {
            "ours_median_ms": statistics.median(self.ours_ms),
            "theirs_median_ms": statistics.median(self.theirs_ms),
        }
        return {"runs": len(self.ours_ms), **medians, "ratio": self.ratio, **asdict(self)}


def main() -> int:
    """Measure, write the results and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "clone"
        run(["git", "clone", "--quiet", str(CHECKOUT), str(project)])
        configure = [str(project / "scripts" / "configure-gpu"), "cpu"]
        run(configure)
        ours = [*configure, "--dry-run"]
        theirs = compose_command(project)
        series = {"page cache warm": measure(ours, theirs, RUNS, cold=False)}
        if can_drop_caches():
            series["page cache dropped"] = measure(ours, theirs, COLD_RUNS, cold=True)
        rows = {name: row.as_json() for name, row in series.items()}
        result = {
            "machine": describe_machine(),
            "limit": MOST_RATIO,
            "series": rows,
            "imports": slowest_imports(project),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cli_latency.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "cli_latency.svg").write_text(draw(series))
    for name, row in rows.items():
        print(f"{name}: {row['ours_median_ms']} ms, Compose {row['theirs_median_ms']} ms, ratio {row['ratio']}")
    return 0 if all(row.ratio <= MOST_RATIO for row in series.values()) else 1


def compose_command(project: Path) -> list[str]:
    """Return the plain command that reads the rendered files of the development environment."""
    generated = project / "compose" / "generated" / "dev" / "override.yaml"
    files = ["--env-file", f"{project}/envs/.env.dev", "-f", f"{project}/compose/compose.yaml", "-f", str(generated)]
    return ["docker", "compose", *files, "config", "-q"]


def run(command: Sequence[str]) -> float:
    """Run a command from the checkout and return its wall time in seconds; a failure is not a measurement."""
    began = time.perf_counter()
    subprocess.run(command, cwd=CHECKOUT, env=ENVIRONMENT, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return time.perf_counter() - began


def measure(ours: Sequence[str], theirs: Sequence[str], runs: int, *, cold: bool) -> Series:
    """Run both commands in turns."""
    series = Series(ours_ms=[], theirs_ms=[])
    for _ in range(runs):
        for times, command in ((series.ours_ms, ours), (series.theirs_ms, theirs)):
            if cold:
                os.sync()
                DROP_CACHES.write_text("3\n")
            times.append(round(run(command) * 1000, 1))
    return series


def can_drop_caches() -> bool:
    """Say whether the page cache can be dropped here: as root, unless a container forbids it."""
    return os.access(DROP_CACHES, os.W_OK) and os.geteuid() == 0


def slowest_imports(project: Path) -> list[dict[str, str | float]]:
    """Return the modules that take longest to import by themselves, in milliseconds."""
    python = [str(project / ".venv" / "bin" / "python"), "-X", "importtime", "-P", "-m", "stackwright"]
    traced, variables = [*python, "configure-gpu", "cpu", "--dry-run"], {"PYTHONPATH": str(project / "generator")}
    done = subprocess.run(
        traced,
        cwd=project,
        env=ENVIRONMENT | variables,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    rows = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE)
    slowest = sorted(((int(microseconds) / 1000, name) for microseconds, name in rows), reverse=True)
    return [{"module": name, "ms": round(ms, 1)} for ms, name in slowest[:IMPORTS_SHOWN]]


def describe_machine() -> dict[str, str | float | None]:
    """Return what the figures depend on."""
    compose = subprocess.run(["docker", "compose", "version", "--short"], check=True, capture_output=True, text=True)
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "compose": compose.stdout.strip(),
        "kernel": platform.release(),
        # Everything else that ran meanwhile: on a busy machine, many small files cost more than one large program.
        "load_average_1_min": round(os.getloadavg()[0], 1),
    }


def draw(series: Mapping[str, Series]) -> str:
    """Draw each run as a dot on a line of milliseconds, one line per series and command."""
    lines = [
        (f"{name}: {label}", times)
        for name, row in series.items()
        for label, times in (("configure-gpu cpu --dry-run", row.ours_ms), ("docker compose config -q", row.theirs_ms))
    ]
    most = max(max(times) for _, times in lines)
    shapes = []
    for position, (label, times) in enumerate(lines, start=1):
        shapes.append(f'<text x="10" y="{position * 40 - 10}">{label}</text>')
        dots = (10 + time_ms / most * 580 for time_ms in times)
        shapes += [f'<circle cx="{x:.0f}" cy="{position * 40}" r="4" fill-opacity="0.5"/>' for x in dots]
    height = 40 + len(lines) * 40
    shapes.append(f'<text x="10" y="{height - 15}">0 to {most:.0f} ms, one dot per run</text>')
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="610" height="{height}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    sys.exit(main())
