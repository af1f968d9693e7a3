"""Whole plans and rendered files for every recorded host and environment, compared with what a person has judged.

`pytest --update-golden` rewrites tests/golden/; the difference is then read. What is said twice is written once:

- `<host>--<environment>/` holds the rendered files, byte for byte, `picture.txt`, which is what a person is shown, and
  `summary.txt`, which is read first. Two hosts
  (`WHOLE`) have all three environments. The others have prod, and `dev.diff` and `staging.diff`: the lines in which
  those differ from it beside the environment's own name. That can be judged as no list of digests can, and it stays as
  it is where all three environments change alike.
- `plan.json` there leaves out the host, which stands in tests/hosts/, and the values of the settings, which stand in
  `env`; that the plan repeats both is asserted. Of each replica after the first it has what differs from the first.
- What of a host is rendered as of another (`TWINS`), but for the names of its GPUs, stands with that one.
- What a setting means stands in the `env` of `WHOLE` alone.
- `reasons.txt` has each reason and source of a setting once, with the plans that give it.
- `plan.json` beside the folders is one plan as it is written, with all of that.
"""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Plan
from stackwright.errors import NoPlanError
from stackwright.reading import to_plain
from stackwright.rendering import render_plan
from stackwright.rendering.summary import Canvas, NextStep, summarize_plan, text_of
from stackwright.settings import all_settings

from tests.plan_summary import summarize
from tests.planning.several import CASES as SEVERAL
from tests.planning.several import plan_of
from tests.planning_requests import HOST_NAMES, plan_for, recorded

GOLDEN = Path(__file__).parent / "golden"
WHOLE = ("2x-rtx3090-nvlink", "cpu-small")
TWINS = {"8x-h100-driver535": "8x-h100-nvswitch"}
SEVERAL_PREFIX = "several-models--"
MOST_LINES = 15_000
SEEN = ("summary.txt", "picture.txt")
Texts = Mapping[str, str]


@pytest.mark.parametrize("environment", list(Environment))
@pytest.mark.parametrize("name", WHOLE)
def test_plan_and_files_are_the_golden_ones(name: str, environment: Environment, update_golden: bool) -> None:
    """The plan, the environment, the override and the gateway file are those that were judged."""
    short = shorten(produce(name, environment), meanings=True)
    compare(short, GOLDEN / f"{name}--{environment}", update_golden=update_golden)


@pytest.mark.parametrize("name", sorted(set(HOST_NAMES) - set(WHOLE) - set(TWINS)))
def test_prod_is_the_golden_one_and_the_others_differ_as_judged(name: str, update_golden: bool) -> None:
    """Where dev and staging are not written out, the lines are in which they differ; a refusal is compared likewise."""
    prod = shorten(produce(name, Environment.PROD))
    # Made of the plan: what differs in them stands in the other files.
    of_prod = {file: text for file, text in prod.items() if file in SEEN}
    others = {
        f"{environment}.diff": difference(
            prod, {**as_prod(shorten(produce(name, environment)), environment), **of_prod}
        )
        for environment in (Environment.DEV, Environment.STAGING)
    }
    compare({**prod, **others}, GOLDEN / f"{name}--prod", update_golden=update_golden)


@pytest.mark.parametrize("environment", list(Environment))
@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_rendered_as_the_other(name: str, environment: Environment) -> None:
    """Its driver differs, and the same image runs with it."""
    twin, other = (nameless(produce(of, environment)) for of in (name, TWINS[name]))
    assert twin == other


@pytest.mark.parametrize("case", SEVERAL)
def test_plans_of_several_models_are_the_golden_ones(case: str, update_golden: bool) -> None:
    """So are those of some hosts that serve more than one model."""
    compare(shorten(produce_several(case)), GOLDEN / f"{SEVERAL_PREFIX}{case}", update_golden=update_golden)


def test_reasons_and_sources_are_the_golden_ones(update_golden: bool) -> None:
    """Why each setting has its value, and where that is known from, in every plan."""
    compare_file(list_reasons(every_plan()), GOLDEN / "reasons.txt", update_golden=update_golden)


def test_one_plan_is_the_golden_one_as_it_is_written(update_golden: bool) -> None:
    """Nothing left out, and not parsed: the layout of the JSON is the same in all of them."""
    text = produce(WHOLE[0], Environment.PROD)["plan.json"]
    compare_file(text, GOLDEN / "plan.json", update_golden=update_golden)


@pytest.mark.parametrize("environment", list(Environment))
@pytest.mark.parametrize("name", HOST_NAMES)
def test_a_plan_repeats_its_host(name: str, environment: Environment) -> None:
    """All of it, but the memory that is in use, which changes by the minute."""
    produced = produce(name, environment)
    if "plan.json" not in produced:
        assert list(produced) == ["refusal.txt"]
        return
    host = json.loads(json.dumps(to_plain(recorded(name))))
    for gpu in host["gpus"]:
        gpu["memory_used_bytes"] = None
    assert json.loads(produced["plan.json"])["host"] == host


def test_no_golden_folder_is_left_behind() -> None:
    """Every golden folder belongs to a recorded host or to a case of several models."""
    known = {f"{name}--{environment}" for name in WHOLE for environment in Environment}
    known |= {f"{name}--prod" for name in HOST_NAMES if name not in TWINS}
    known |= {f"{SEVERAL_PREFIX}{case}" for case in SEVERAL}
    assert {folder.name for folder in GOLDEN.iterdir()} == known | {"monitoring", "plan.json", "reasons.txt"}


def test_golden_files_can_be_read_by_a_person() -> None:
    """There are few enough of their lines."""
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= MOST_LINES


def compare(produced: Texts, folder: Path, *, update_golden: bool) -> None:
    """Compare the texts with those of the folder, or write them there."""
    if update_golden:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in set(folder.iterdir()) - {folder / file for file in produced}:
            stale.unlink()
        for file, text in produced.items():
            (folder / file).write_text(text, encoding="utf-8")
    kept = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert produced == kept


def compare_file(text: str, file: Path, *, update_golden: bool) -> None:
    """Compare one text with its file, or write it there."""
    if update_golden:
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@cache
def produce(name: str, environment: Environment) -> Texts:
    """Return file name → text of what is rendered, or the refusal's words."""
    try:
        plan = plan_for(recorded(name), environment)
    except NoPlanError as refusal:
        return {"refusal.txt": f"{refusal.message}\nhint: {refusal.hint}\n"}
    return texts(plan)


def nameless(produced: Texts) -> dict[str, str]:
    """Leave out what names GPUs, of the plan only what it says of the host."""
    short = shorten(produced)
    return {file: re.sub(r"GPU-[0-9a-f-]+", "GPU", text) for file, text in short.items() if file not in SEEN}


@cache
def produce_several(case: str) -> Texts:
    """Return the same for a case of several models."""
    host, models = SEVERAL[case]
    return texts(plan_of(host, *models))


def every_plan() -> Iterator[tuple[str, Texts]]:
    """Give the texts of every plan that is compared, by name."""
    for name in HOST_NAMES:
        yield from ((f"{name}--{environment}", produce(name, environment)) for environment in Environment)
    yield from ((f"{SEVERAL_PREFIX}{case}", produce_several(case)) for case in SEVERAL)


def texts(plan: Plan) -> Texts:
    """Return file name → text of the rendered files, and the picture; the environment's name stands in no file's."""
    suffix = f".{plan.environment}"
    files = {file.path.name.removeprefix(".").removesuffix(suffix): file.text for file in render_plan(plan)}
    url = f"http://127.0.0.1:{plan.gateway.port}"
    lines = summarize_plan(plan, Canvas(width=100), NextStep(url=url, command="start-environment prod"))
    return {**files, "picture.txt": "".join(f"{text_of(line).rstrip()}\n" for line in lines)}


def shorten(produced: Texts, *, meanings: bool = False) -> Texts:
    """Leave out of `plan.json` what stands elsewhere, of `env` the settings' meanings, and add the plan's summary."""
    if "plan.json" not in produced:
        return produced
    plan = json.loads(produced["plan.json"])
    assert produced["plan.json"] == format_json(plan)
    values = [(key, setting["value"]) for key, setting in plan["settings"].items()]
    assert values == list(dotenv_values(stream=io.StringIO(produced["env"]), interpolate=False).items())
    first, *others = plan["replicas"]
    differing = [{key: value for key, value in other.items() if value != first[key]} for other in others]
    short = {**plan, "host": "as in tests/hosts", "replicas": [first, *differing], "settings": "as in env"}
    short["models"] = [shorten_model(plan, number, model) for number, model in enumerate(plan["models"], start=1)]
    env = produced["env"] if meanings else without_meanings(produced["env"])
    return {**produced, "env": env, "plan.json": format_json(short), "summary.txt": summarize(plan)}


def without_meanings(env: str) -> str:
    """Leave the line out that says what a setting means: it is the same in every environment file."""
    known = {f"# {spec.meaning}\n" for spec in all_settings()}
    return "".join(line for line in env.splitlines(keepends=True) if line not in known)


def shorten_model(plan: dict[str, Any], number: int, model: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a served model what the document repeats of it: its settings, its forecast, and the engine of
    all.
    """
    for key, setting in model["settings"].items():
        written = f"{key}_{number}" if number > 1 else key
        # One image for all engines stays one setting.
        flat = plan["settings"].get(written) or {**plan["settings"].get(key, {}), "reason": setting["reason"]}
        assert flat == setting
    forecast = next(replica["memory"] for replica in plan["replicas"] if replica["name"] == model["replicas"][0])
    assert model["forecast"] in [replica["memory"] for replica in plan["replicas"]]
    said = {"settings": "as in env", "forecast": "as in replicas" if forecast is not None else None}
    return {**model, **said, "engine": "as above" if model["engine"] == plan["engine"] else model["engine"]}


def format_json(document: object) -> str:
    """Write JSON as the product does."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_prod(texts: Texts, environment: Environment) -> Texts:
    """Return the texts of an environment under the name of prod: that they have their own, the whole ones show."""
    return {file: re.sub(rf"\b{environment}\b", "prod", text) for file, text in texts.items()}


def difference(before: Texts, after: Texts) -> str:
    """Return the lines in which two sets of files differ, without their numbers: those shift with every other
    change.
    """
    parts = []
    for file in sorted({*before, *after}):
        old, new = before.get(file, "").splitlines(), after.get(file, "").splitlines()
        changes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        for change, first, last, new_first, new_last in changes:
            if change != "equal":
                parts += [f"--- {file}", *(f"-{line}" for line in old[first:last])]
                parts += [f"+{line}" for line in new[new_first:new_last]]
    return "".join(f"{line}\n" for line in parts)


def list_reasons(plans: Iterable[tuple[str, Texts]]) -> str:
    """Write each reason and source once below its setting, with the plans that give it."""
    given: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name, produced in plans:
        for key, setting in json.loads(produced.get("plan.json", '{"settings": {}}'))["settings"].items():
            given.setdefault(key, {}).setdefault((setting["reason"], setting["source"]), []).append(name)
    lines = []
    for key, reasons in sorted(given.items()):
        lines += ["", key]
        for (reason, source), names in sorted(reasons.items()):
            where = "every plan that has it" if len(reasons) == 1 else ", ".join(name_plans(names))
            lines += [f"- {reason}", f"  source: {source}", f"  in: {where}"]
    return "".join(f"{line}\n" for line in lines[1:])


def name_plans(names: Iterable[str]) -> Iterator[str]:
    """Name a host once where all of its environments are meant."""
    environments: dict[str, list[str]] = {}
    for name in names:
        host, _, environment = name.partition("--")
        environments.setdefault(host, []).append(environment)
    for host, those in environments.items():
        alike = len(those) == len(Environment) and host in HOST_NAMES
        yield from [host] if alike else (f"{host}--{environment}" for environment in those)
