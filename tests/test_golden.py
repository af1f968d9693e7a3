"""Whole plans and rendered files for every recorded host and environment, compared byte for byte.

`pytest --update-golden` rewrites tests/golden/; the diff is then read and judged by a person.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Plan
from stackwright.errors import NoPlanError
from stackwright.rendering import render_plan

from tests.planning.several import CASES as SEVERAL
from tests.planning.several import plan_of
from tests.planning_requests import HOST_NAMES, plan_for, recorded

GOLDEN = Path(__file__).parent / "golden"
SEVERAL_PREFIX = "several-models--"


@pytest.mark.parametrize("environment", list(Environment))
@pytest.mark.parametrize("name", HOST_NAMES)
def test_plan_and_files_are_the_golden_ones(name: str, environment: Environment, update_golden: bool) -> None:
    """The plan, the environment, the override and the gateway file, or the refusal, are those that were judged."""
    compare(produce(name, environment), GOLDEN / f"{name}--{environment}", update_golden=update_golden)


@pytest.mark.parametrize("case", SEVERAL)
def test_plans_of_several_models_are_the_golden_ones(case: str, update_golden: bool) -> None:
    """So are those of some hosts that serve more than one model."""
    host, models = SEVERAL[case]
    produced = texts(plan_of(host, *models))
    compare(produced, GOLDEN / f"{SEVERAL_PREFIX}{case}", update_golden=update_golden)


def compare(produced: dict[str, str], folder: Path, *, update_golden: bool) -> None:
    """Compare the texts with those of the folder, or write them there."""
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
    known |= {f"{SEVERAL_PREFIX}{case}" for case in SEVERAL}
    assert {folder.name for folder in GOLDEN.iterdir()} == known


def produce(name: str, environment: Environment) -> dict[str, str]:
    """Return file name → text of what is rendered, or the refusal's words."""
    try:
        plan = plan_for(recorded(name), environment)
    except NoPlanError as refusal:
        return {"refusal.txt": f"{refusal.message}\nhint: {refusal.hint}\n"}
    return texts(plan)


def texts(plan: Plan) -> dict[str, str]:
    """Return file name → text of the rendered files."""
    return {file.path.name.removeprefix("."): file.text for file in render_plan(plan)}
