"""Whole plans and rendered files for every recorded host and environment, compared byte for byte.

`pytest --update-golden` rewrites tests/golden/; the diff is then read and judged by a person.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from generator.domain.environment import Environment
from generator.errors import NoPlanError
from generator.rendering import render_plan
from tests.planning_requests import HOST_NAMES, plan_for, recorded

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("environment", list(Environment))
@pytest.mark.parametrize("name", HOST_NAMES)
def test_plan_and_files_are_the_golden_ones(name: str, environment: Environment, update_golden: bool) -> None:
    """The plan, the environment, the override and the gateway file, or the refusal, are those that were judged."""
    produced = produce(name, environment)
    folder = GOLDEN / f"{name}--{environment}"
    if update_golden:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in set(folder.iterdir()) - {folder / file for file in produced}:
            stale.unlink()
        for file, text in produced.items():
            (folder / file).write_text(text, encoding="utf-8")
    kept = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert produced == kept


def test_no_golden_folder_is_left_behind() -> None:
    """Every golden folder belongs to a recorded host."""
    known = {f"{name}--{environment}" for name in HOST_NAMES for environment in Environment}
    assert {folder.name for folder in GOLDEN.iterdir()} == known


def produce(name: str, environment: Environment) -> dict[str, str]:
    """Return file name → text of what is rendered, or the refusal's words."""
    try:
        plan = plan_for(recorded(name), environment)
    except NoPlanError as refusal:
        return {"refusal.txt": f"{refusal.message}\nhint: {refusal.hint}\n"}
    return {file.path.name.removeprefix("."): file.text for file in render_plan(plan)}
