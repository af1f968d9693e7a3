"""How long the steps of good starts have taken on this host. Touches one file of the state folder.

Nothing depends on the file: a missing, damaged or unwritable one only means that nothing is known of earlier starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from stackwright.atomic import replace_file
from stackwright.domain.plan import Plan, Replica
from stackwright.domain.service import Step

SCHEMA = 1
MOST_STARTS = 64
MOST_BYTES = 2**20
LONGEST_S = 7 * 86400.0
# A download says something of the network, and of how much was missing, and waiting something of other services.
KEPT = (Step.STARTING, Step.LOADING, Step.PROFILING, Step.COMPILING, Step.CAPTURING, Step.OPENING)


def past_steps(state: Path, plan: Plan, replica: Replica) -> dict[Step, float]:
    """Return the longest time that each step of the same replica has taken in good starts, in seconds."""
    longest: dict[Step, float] = {}
    for entry in _entries(state):
        if entry.get("replica") == _key(plan, replica):
            for step, seconds in _steps(entry.get("steps")):
                longest[step] = max(longest.get(step, 0.0), seconds)
    return longest


def keep_start(state: Path, plan: Plan, replica: Replica, spent: Mapping[Step, float]) -> bool:
    """Keep the times of a good start; of many, the newest. A folder that cannot be written is no failure.

    Return whether there was one: what ran already did not start.
    """
    steps = {step.value: round(spent[step], 1) for step in KEPT if spent.get(step, 0) > 0}
    if not steps:
        return False
    starts = [*_entries(state), {"replica": _key(plan, replica), "steps": steps}][-MOST_STARTS:]
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(_file(state), json.dumps({"schema": SCHEMA, "starts": starts}))
    except OSError:
        pass
    return True


def _file(state: Path) -> Path:
    return state / "starts.json"


def _key(plan: Plan, replica: Replica) -> list[str]:
    """Tell apart what starts at another pace: another model, release, layout, or argument."""
    ranks = f"{replica.tensor_parallel}x{replica.pipeline_parallel}"
    return [replica.model, plan.engine.version, plan.mode.value, ranks, *replica.args]


def _entries(state: Path) -> list[Mapping[str, object]]:
    """Read the starts that were kept; none where the file is missing, too large, or not ours."""
    try:
        with _file(state).open("rb") as file:
            document = json.loads(file.read(MOST_BYTES + 1))
        starts = document["starts"] if document["schema"] == SCHEMA else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [entry for entry in starts if isinstance(entry, dict)] if isinstance(starts, list) else []


def _steps(kept: object) -> Iterator[tuple[Step, float]]:
    if isinstance(kept, dict):
        for step in KEPT:
            seconds = kept.get(step.value)
            if isinstance(seconds, int | float) and 0 < seconds < LONGEST_S:
                yield step, float(seconds)
