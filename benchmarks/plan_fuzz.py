"""Whether any wish on any machine gives a sound plan or a clear refusal, and how long the slowest takes.

    python benchmarks/plan_fuzz.py [EXAMPLES]

Draws hosts (all that the snapshot schema allows, hosts with GPUs that are sold, the recorded ones) × environment × mode
× objective × models from tests/planning_examples.py, the default model among them; makes and renders each plan, and
checks it as the property test does: allowed values in order, whole GPUs, flags that the release has, files that parse.
Measured is from the request to the rendered files in this process, with the catalog read before; drawing and checking
are not counted. Writes benchmarks/results/plan_fuzz.json and ends with 1 where a plan is unsound, anything but a
refusal is raised, or an example takes longer than a second. Touches that file alone.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import statistics
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# Run as a file, Python looks for modules beside it only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypothesis import HealthCheck, Phase, given, settings
from stackwright.catalog.load import load_catalog

from tests.planning_examples import Example, Outcome, examples, faults, work_out

RESULT = Path(__file__).resolve().parent / "results" / "plan_fuzz.json"
EXAMPLES = 20_000
MOST_S = 1.0
# What each example's description lists of GPUs and failures is cut here: the file is read by people.
SHOWN = 5


# What the refusals' messages begin with or hold, and the sort that they are counted as.
KINDS = (
    (r"does not fit on", "the model does not fit"),
    (r"does not fit in this host's memory", "the model does not fit beside the processor"),
    (r"no catalog model fits", "no catalog model fits"),
    (r"^no usable GPU", "no usable GPU"),
    (r"^driver ", "the driver is too old"),
    (r" is supported by |supports? ", "no image supports the GPU"),
    (r"has .* free", "a GPU is full"),
    (r"^the driver does not report", "the driver does not report its CUDA"),
    (r"^multi needs", "no two equal GPUs for `multi`"),
    (r"^the processor .* lacks", "the processor lacks instructions"),
)


@dataclass(kw_only=True)
class Tally:
    """What has been seen so far. Times in seconds; `slowest` describes the example of `longest_s`, a wall time."""

    modes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    wall_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    most_cpu_s: float = 0.0
    slowest: dict[str, object] = field(default_factory=dict)
    unsound: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    def add(self, example: Example) -> None:
        """Work out one example and count what came out."""
        # Collecting what Hypothesis has kept of thousands of examples takes longer than a plan, and is none of its
        # time.
        gc.disable()
        wall, cpu = time.perf_counter(), time.process_time()
        outcome: Outcome | None = None
        try:
            outcome = work_out(example)
        except Exception:  # noqa: BLE001  # any of them is what is looked for
            self.tracebacks.append(traceback.format_exc())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        gc.enable()
        if wall > self.longest_s:
            self.longest_s = wall
            self.slowest = {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3), **describe(example)}
        self.wall_s.append(wall)
        self.most_cpu_s = max(self.most_cpu_s, cpu)
        if outcome is not None:
            self._count(example, outcome)

    def _count(self, example: Example, outcome: Outcome) -> None:
        if outcome.plan is not None:
            self.modes[outcome.plan.mode.value] += 1
        if outcome.refusal is not None:
            self.refusals[kind_of(outcome.refusal.message)] += 1
        self.unsound += [f"{describe(example)}: {fault}" for fault in faults(example, outcome)]

    def as_json(self) -> dict[str, object]:
        """Return the result file."""
        milliseconds = sorted(wall * 1000 for wall in self.wall_s)
        return {
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
            "examples": len(self.wall_s),
            "plans": dict(self.modes.most_common()),
            "refusals": dict(self.refusals.most_common()),
            "unsound": {"count": len(self.unsound), "first": self.unsound[:SHOWN]},
            "tracebacks": {"count": len(self.tracebacks), "first": self.tracebacks[:SHOWN]},
            "median_ms": round(statistics.median(milliseconds), 1),
            "p99_ms": round(milliseconds[len(milliseconds) * 99 // 100], 1),
            "most_cpu_s": round(self.most_cpu_s, 3),
            "limit_s": MOST_S,
            "beyond_limit": sum(wall > MOST_S for wall in self.wall_s),
            "slowest": self.slowest,
        }


def main(arguments: list[str]) -> int:
    """Draw, count, write the result and return the exit code."""
    load_catalog()
    tally = Tally()
    tried = settings(
        max_examples=int(arguments[0]) if arguments else EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        # A failure is counted, not made smaller: the property test does that.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(example=examples())(tally.add))
    tried()
    result = tally.as_json()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    plans, refusals = sum(tally.modes.values()), sum(tally.refusals.values())
    print(f"{len(tally.wall_s)} examples: {plans} plans, {refusals} refusals, {len(tally.unsound)} unsound,")
    print(f"{len(tally.tracebacks)} tracebacks; the slowest took {tally.longest_s * 1000:.0f} ms")
    return 1 if tally.unsound or tally.tracebacks or tally.longest_s > MOST_S else 0


def describe(example: Example) -> dict[str, object]:
    """Return an example in a few words."""
    names = Counter(gpu.name or "unknown" for gpu in example.host.gpus)
    return {
        "gpus": dict(names.most_common(SHOWN)),
        "environment": example.environment.value,
        "mode": example.mode.value if example.mode else None,
        "objective": example.objective.value if example.objective else None,
        "model": example.model,
    }


def kind_of(message: str) -> str:
    """Return the sort that a refusal is counted as; its message where it has none of those."""
    for start, sort in KINDS:
        if re.search(start, message):
            return sort
    return message


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
