"""How long short commands take: `configure-gpu cpu --dry-run` beside `docker compose config -q`, and `fit`.

    python benchmarks/cli_latency.py

The scripts of a fresh clone (the last commit of this checkout), prepared and configured once, where the environment
forbids Python to write compiled modules: what is not compiled by then would be compiled at each call. All are fresh
processes on the same machine, in turns in the same run; `fit` is asked for a snapshot. Two series: with the files in
the page cache, as at a second call; and with the files of the clone, of Python and of Docker's commands evicted before
each call, as after a boot (what another process has mapped stays: on a machine where Python runs beside, the cold
figures of ours are a little too good). Writes benchmarks/results/cli_latency.json and .svg, prints the medians in
milliseconds, and ends with 1 where the dry run takes more than three times as long as Compose, or `fit` longer than
0.3 s. Touches a temporary folder, the page cache and those two files.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "benchmarks" / "results"
RUNS = 15
MOST_RATIO, MOST_FIT_MS = 3.0, 300.0
IMPORTS_SHOWN = 15
OWN = ("PYTHONPATH", "STACKWRIGHT_VENV")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OWN} | {"PYTHONDONTWRITEBYTECODE": "1"}


class Series(Struct, frozen=True, kw_only=True):
    """Wall times of the commands, run in turns, in milliseconds: the dry run, Compose, and `fit`."""

    ours_ms: list[float]
    theirs_ms: list[float]
    fit_ms: list[float]

    @property
    def ratio(self) -> float:
        """How many times as long as Compose the command takes, by the medians."""
        return round(statistics.median(self.ours_ms) / statistics.median(self.theirs_ms), 2)

    @property
    def is_quick(self) -> bool:
        """Whether both limits hold, by the medians."""
        return self.ratio <= MOST_RATIO and statistics.median(self.fit_ms) <= MOST_FIT_MS

    def as_json(self) -> dict[str, object]:
        """Return the row of the result file."""
        medians = {
            "ours_median_ms": statistics.median(self.ours_ms),
            "theirs_median_ms": statistics.median(self.theirs_ms),
            "fit_median_ms": statistics.median(self.fit_ms),
            "fit_ratio": round(statistics.median(self.fit_ms) / statistics.median(self.theirs_ms), 2),
        }
        return {"runs": len(self.ours_ms), **medians, "ratio": self.ratio, **asdict(self)}


def main() -> int:
    """Measure, write the results and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "clone"
        run(["git", "clone", "--quiet", str(CHECKOUT), str(project)])
        configure = [str(project / "scripts" / "configure-gpu"), "cpu"]
        run(configure)
        snapshot = str(project / "tests" / "hosts" / "2x-rtx3090-nvlink" / "host.yaml")
        model = ["--model", "Qwen/Qwen3-32B-AWQ", "--tensor-parallel", "2", "--max-model-len", "8192"]
        fit = [str(project / "scripts" / "stackwright"), "fit", *model, "--host", snapshot]
        commands = ([*configure, "--dry-run"], compose_command(project), fit)
        places = (project, Path(sys.base_prefix), *docker_programs())
        series = {
            "page cache warm": measure(commands, ()),
            "own files evicted": measure(commands, tuple(files_below(*places))),
        }
        rows = {name: row.as_json() for name, row in series.items()}
        result = {
            "machine": describe_machine(),
            "limit": MOST_RATIO,
            "fit_limit_ms": MOST_FIT_MS,
            "series": rows,
            "imports": slowest_imports(project),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cli_latency.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "cli_latency.svg").write_text(draw(series))
    for name, row in rows.items():
        words = f"dry run {row['ours_median_ms']} ms, Compose {row['theirs_median_ms']} ms, ratio {row['ratio']}"
        print(f"{name}: {words}; fit {row['fit_median_ms']} ms, ratio {row['fit_ratio']}")
    return 0 if all(row.is_quick for row in series.values()) else 1


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


def measure(commands: Sequence[Sequence[str]], evicted: Sequence[Path]) -> Series:
    """Run the commands in turns, each with these files out of the page cache."""
    times: tuple[list[float], ...] = ([], [], [])
    for _ in range(RUNS):
        for row, command in zip(times, commands, strict=True):
            for path in evicted:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            row.append(round(run(command) * 1000, 1))
    return Series(ours_ms=times[0], theirs_ms=times[1], fit_ms=times[2])


def files_below(*places: Path) -> Iterator[Path]:
    """Yield files, and all files below folders; Python's own tests are left alone."""
    for place in places:
        found = (path for path in (place, *place.rglob("*")) if "/test/" not in str(path))
        yield from (path for path in found if path.is_file() and not path.is_symlink())


def docker_programs() -> tuple[Path, ...]:
    """Return the files of `docker` and of its command `compose`."""
    plugin = '{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{.Path}}{{end}}{{end}}'
    asked = subprocess.run(["docker", "info", "-f", plugin], check=True, capture_output=True, text=True)
    return tuple(Path(found).resolve() for found in (shutil.which("docker"), asked.stdout.strip()) if found)


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
        for label, times in (
            ("configure-gpu cpu --dry-run", row.ours_ms),
            ("docker compose config -q", row.theirs_ms),
            ("fit", row.fit_ms),
        )
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
