"""Five searches for better settings on the real engine, on the processor: what each found, and that none made it worse.

    python -m benchmarks.tune [RUN...]

Each run has a stack of its own (processes, real vLLM and LiteLLM, the model that is made on the spot), and ten
minutes. Where settings were kept, the stack is measured once more by `bench`, as it was before and as it is now, each
started anew: no measurement of the search counts there. Where none were, the files have to be what they were, byte for
byte. Ends with 1 where a run made the goal worse. Adds to benchmarks/results/tune.json. Touches a temporary folder and
that file.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.integration.project import CHECKOUT, Project
from tests.integration.testbed import state_folder

RESULT = CHECKOUT / "benchmarks" / "results" / "tune.json"
PROCESSES = "--runtime=processes"
MEASURE = {"throughput": "output_tokens_per_s", "latency": "whole_answer_p50_ms"}


class Search(Struct, frozen=True, kw_only=True):
    """One run: the words of `tune`, what a search of earlier has left, and those of the load for `bench`."""

    goal: str
    words: tuple[str, ...]
    load: tuple[str, ...]
    tuned: Mapping[str, str] = {}


RUNS: Mapping[str, Search] = {
    "chat": Search(goal="throughput", words=(), load=("--concurrency=16",)),
    "batch": Search(goal="throughput", words=("--preset=batch",), load=("--preset=batch", "--concurrency=16")),
    "bound": Search(goal="throughput", words=("--ttft-ms=400",), load=("--concurrency=16",)),
    "latency": Search(goal="latency", words=(), load=("--concurrency=4",)),
    # Somebody has tuned it for few clients before: the search begins from there.
    "few": Search(goal="throughput", words=(), load=("--concurrency=16",), tuned={"VLLM_MAX_NUM_SEQS": "4"}),
}


def main() -> int:
    """Run what is named, or all; write each as it ends, and return the exit code."""
    names = sys.argv[1:] or list(RUNS)
    worse = False
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = run(RUNS[name], Path(folder))
        write(name, found)
        print(json.dumps({name: {key: found[key] for key in ("ended", "kept", "again", "seconds")}}), flush=True)
        worse = worse or found["worse"]
    return 1 if worse else 0


def write(name: str, found: Mapping[str, Any]) -> None:
    """Lay a run into the file of results."""
    document = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"runs": {}}
    document["machine"] = {"cpus": os.cpu_count(), "python": platform.python_version()}
    document["runs"][name] = found
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def run(search: Search, folder: Path) -> dict[str, Any]:
    """Start a stack, search, and compare what was with what is."""
    state = folder / "state"
    state.mkdir()
    (state / "venvs").symlink_to(state_folder() / "venvs")
    project = Project.new(folder / "project", state)
    try:
        done(project, "configure-gpu", "cpu", "--env=dev", *project.pins)
        leave_tuned(project, search.tuned)
        done(project, "start-environment", "dev", PROCESSES)
        load, before = os.getloadavg()[0], files(project)
        begun = time.monotonic()
        goal = (f"--goal={search.goal}", "--minutes=10", "--requests=32")
        told = json.loads(done(project, "tune", "dev", PROCESSES, *goal, *search.words, "--json").stdout)
        seconds = time.monotonic() - begun
        kept = told["tune"]["kept"]
        if not kept and files(project) != before:
            raise SystemExit("nothing was kept, but the files are not what they were")
        again = compare(project, search) if kept else None
    finally:
        project.command("stop-environment", "dev", PROCESSES, "--now")
    return {
        "words": [*goal, *search.words],
        "began_with": dict(search.tuned),
        "load_average": round(load, 1),
        "seconds": round(seconds),
        "ended": told["tune"]["ended"],
        "kept": kept,
        "noise": round(told["tune"]["noise"] or 0, 4),
        "tried": [shown(one) for one in told["tune"]["tried"]],
        "untried": told["untried"],
        "baseline": speeds(told["tune"]["baseline"]),
        "confirmation": {name: speeds(rounds) for name, rounds in told["tune"]["confirmation"].items()},
        "again": again,
        "worse": again is not None and again["verdict"] == "worse",
    }


def done(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command; one that fails is no measurement."""
    ended = project.command(*words)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    print(ended.stderr, file=sys.stderr, flush=True)
    return ended


def leave_tuned(project: Project, tuned: Mapping[str, str]) -> None:
    """Have settings remembered as an earlier search leaves them."""
    if not tuned:
        return
    file = project.folder / "compose/generated/dev/inputs.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    plan = json.loads(project.command("plan", "dev", "--json").stdout)
    of = {
        "reason": "measured: for four clients",
        "measured": "2026-11-30",
        "model": plan["models"][0]["location"],
        "engine": f"{plan['engine']['name']} {plan['engine']['version']}",
    }
    document["choices"][-1]["tuned"] = {key: {"value": value, **of} for key, value in tuned.items()}
    file.write_text(json.dumps(document), encoding="utf-8")
    done(project, "configure-gpu", "dev")


def files(project: Project) -> dict[str, bytes]:
    """Return what services read."""
    generated = project.folder / "compose/generated/dev"
    every = (project.folder / "envs/.env.dev", generated / "override.yaml", generated / "gateway.yaml")
    return {file.name: file.read_bytes() for file in every}


def compare(project: Project, search: Search) -> dict[str, Any]:
    """Measure the stack as it is now and, after a rollback, as it was; return what differs of the goal."""
    names = []
    for words in (("restart", "dev", PROCESSES), ("rollback", "dev", "--to=1", PROCESSES)):
        done(project, *words)
        load = (*search.load, "--requests=16", "--rounds=3", "--json")
        told = json.loads(done(project, "bench", "dev", PROCESSES, *load).stdout)
        names.append(told["result"]["name"])
    told = json.loads(done(project, "bench", "compare", names[1], names[0], "--json").stdout)
    rows = {row["measure"]: row for row in told["points"][0]["differences"]}
    found: dict[str, Any] = rows[MEASURE[search.goal]]
    return found


def shown(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return a change in short."""
    gain = one["gain"]
    return {
        "setting": one["change"]["key"],
        "value": one["change"]["value"],
        "outcome": one["outcome"],
        "gain": None if gain is None else round(gain, 4),
        "rounds": speeds(one["rounds"]),
        "note": one["note"],
    }


def speeds(rounds: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return tokens per second, the time to the first token (p99, ms) and of a whole answer (p50, ms) of each round."""
    return [
        [
            round(one["output_tokens"] / one["duration_s"], 1),
            round(one["first_token"]["p99"] or 0, 1),
            round(one["whole_answer"]["p50"] or 0, 1),
        ]
        for one in rounds
    ]


if __name__ == "__main__":
    sys.exit(main())
