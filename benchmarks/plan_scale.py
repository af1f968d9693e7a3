"""How long planning takes for fleets of 1, 10, 100 and 1,000 hosts.

    python benchmarks/plan_scale.py

A fleet is the recorded hosts of tests/hosts/ again and again, each time with other UUIDs, PCI addresses kept. Measured
for each host, in one process with the catalog read before: reading the snapshot (YAML), choosing a model where the
host has GPUs and none was named (series `default model`; series `named model` plans Qwen/Qwen3-0.6B), making the plan
for production, and rendering its files; a refusal counts as an answer. Stages are the processor's time, which what else
the machine does hardly changes; `wall_ms` is the clock's. Small fleets are measured several times and the quickest run
counts. Writes benchmarks/results/plan_scale.json and .svg, and ends with 1 where a host takes more than 20 ms for its
plan, the choice of a model among it, or where the time per host grows with the fleet. Touches a temporary folder and
those two files.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict, replace

# Run as a file, Python looks for modules beside it only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stackwright.catalog.load import load_catalog
from stackwright.detect.snapshot import format_snapshot, read_snapshot
from stackwright.domain.host import Host
from stackwright.domain.plan import Plan
from stackwright.errors import NoPlanError
from stackwright.models.read import SMOKE
from stackwright.planning.default_llm import with_default_llm
from stackwright.planning.planner import make_plan
from stackwright.rendering import render_plan

from tests.planning_requests import FIRST_MODEL, HOST_NAMES, recorded, request

RESULTS = Path(__file__).resolve().parent / "results"
FLEETS = (1, 10, 100, 1000)
RUNS = {1: 10, 10: 3, 100: 1, 1000: 1}
# A fleet of one is the host with the most GPUs.
FIRST = "8x-h100-nvswitch"
MOST_MS_PER_HOST = 20.0
# The time per host of the largest fleet may be so many times that of a fleet of a hundred before it counts as growing.
MOST_GROWTH = 1.5


class Fleet(Struct, frozen=True, kw_only=True):
    """One fleet's quickest run, in milliseconds per host: the stages and all of them by the processor, all by the
    clock.
    """

    hosts: int
    runs: int
    plans: int
    refusals: int
    read_ms: float
    model_ms: float
    plan_ms: float
    render_ms: float
    cpu_ms: float
    wall_ms: float


def main() -> int:
    """Measure both series, write the results and return the exit code."""
    load_catalog()
    series: dict[str, list[Fleet]] = {}
    with tempfile.TemporaryDirectory() as folder:
        snapshots = write_snapshots(Path(folder), max(FLEETS))
        for name, model in (("named model", FIRST_MODEL), ("default model", None)):
            run(snapshots[: len(HOST_NAMES)], model)
            series[name] = [measure(snapshots[:size], model) for size in FLEETS]
    result = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "limit_ms_per_host": MOST_MS_PER_HOST,
        "series": {name: [asdict(fleet) for fleet in fleets] for name, fleets in series.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "plan_scale.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "plan_scale.svg").write_text(draw(series), encoding="utf-8")
    for name, fleets in series.items():
        for fleet in fleets:
            chosen = round(fleet.model_ms + fleet.plan_ms, 2)
            print(f"{name}: {fleet.hosts} hosts, {fleet.cpu_ms} ms a host, of that {chosen} for model and plan")
    return 0 if all(is_quick(fleets) for fleets in series.values()) else 1


def write_snapshots(folder: Path, count: int) -> list[Path]:
    """Write a snapshot file for each host of the largest fleet."""
    paths = []
    for number in range(count):
        path = folder / f"{number}.yaml"
        name = HOST_NAMES[(HOST_NAMES.index(FIRST) + number) % len(HOST_NAMES)]
        path.write_text(format_snapshot(renamed(recorded(name), number)), encoding="utf-8")
        paths.append(path)
    return paths


def renamed(host: Host, number: int) -> Host:
    """Return the host as another machine of the same make: its GPUs have UUIDs of their own."""
    gpus = tuple(replace(gpu, uuid=f"{gpu.uuid}-{number:04d}" if gpu.uuid else None) for gpu in host.gpus)
    return replace(host, gpus=gpus)


def measure(snapshots: list[Path], model: str | None) -> Fleet:
    """Return the quickest of several runs."""
    runs = RUNS[len(snapshots)]
    return replace(min((run(snapshots, model) for _ in range(runs)), key=lambda fleet: fleet.cpu_ms), runs=runs)


def run(snapshots: list[Path], model: str | None) -> Fleet:
    """Plan a fleet once."""
    cpu, wall = time.process_time(), time.perf_counter()
    stages = [0.0, 0.0, 0.0, 0.0]
    plans = 0
    for snapshot in snapshots:
        answers = work_out(snapshot, model)
        began = time.process_time()
        for stage, answer in enumerate(answers):
            stages[stage] += time.process_time() - began
            plans += isinstance(answer, Plan)
            began = time.process_time()
    each = 1000 / len(snapshots)
    return Fleet(
        hosts=len(snapshots),
        runs=1,
        plans=plans,
        refusals=len(snapshots) - plans,
        read_ms=round(stages[0] * each, 2),
        model_ms=round(stages[1] * each, 2),
        plan_ms=round(stages[2] * each, 2),
        render_ms=round(stages[3] * each, 2),
        cpu_ms=round((time.process_time() - cpu) * each, 2),
        wall_ms=round((time.perf_counter() - wall) * each, 2),
    )


def work_out(snapshot: Path, model: str | None) -> Iterator[object]:
    """Go through the stages of one host: snapshot, model, plan, files; a refusal ends them."""
    host = read_snapshot(snapshot)
    yield host
    try:
        asked = request(host, model=model if host.gpus else SMOKE)
        if model is None:
            asked = with_default_llm(asked, load_catalog(), has_token=False)
        yield asked
        plan = make_plan(asked, load_catalog())
    except NoPlanError as refusal:
        yield refusal
    else:
        yield plan
        yield render_plan(plan)


def is_quick(fleets: list[Fleet]) -> bool:
    """Say whether every fleet is within the limit, and the largest takes no longer per host than a smaller one."""
    growth = fleets[-1].cpu_ms / fleets[-2].cpu_ms
    return all(fleet.model_ms + fleet.plan_ms <= MOST_MS_PER_HOST for fleet in fleets) and growth <= MOST_GROWTH


def draw(series: dict[str, list[Fleet]]) -> str:
    """Draw a bar of milliseconds per host for each fleet, the stages one after the other."""
    colours = {"read_ms": "#999", "model_ms": "#c80", "plan_ms": "#06c", "render_ms": "#393"}
    rows = [(f"{name}: {fleet.hosts}", asdict(fleet)) for name, fleets in series.items() for fleet in fleets]
    most = max(float(row["cpu_ms"]) for _, row in rows)
    shapes = []
    for position, (label, row) in enumerate(rows):
        y, x = position * 24 + 10, 190.0
        shapes.append(f'<text x="10" y="{y + 13}">{label}</text>')
        for stage, colour in colours.items():
            width = float(row[stage]) / most * 400
            shapes.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" fill="{colour}"/>')
            x += width
        shapes.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{row["cpu_ms"]} ms</text>')
    height = len(rows) * 24 + 40
    legend = (
        "processor time; grey: reading, orange: choosing a model, blue: the plan, green: its files; milliseconds "
        "per host"
    )
    shapes.append(f'<text x="10" y="{height - 10}">{legend}</text>')
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{height}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    sys.exit(main())
