"""docs/reference/schemas holds the JSON Schemas of what is read and written, as the records have it.

`pytest tests/test_schemas.py --update-golden` writes them and their page again. Every committed example, and what is
written for every recorded host, is valid by them; what is wrong is not.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from stackwright.commands.status import _View
from stackwright.domain.environment import Environment
from stackwright.errors import NoPlanError
from stackwright.project.generations import Generation, GenerationState
from stackwright.reading import to_plain
from stackwright.rendering.plan_document import plan_document

from tests.planning.several import CASES, plan_of
from tests.planning_requests import HOST_NAMES, HOSTS, plan_for, recorded
from tests.rendering.test_load_report import A
from tests.rendering.test_status_page import STATUS
from tests.schemas import make_schemas, problems
from tests.test_docs import ROOT
from tests.test_docs_run import BLOCK, PAGES
from tests.test_reference import REFERENCE

SCHEMAS = make_schemas()
FOLDER = REFERENCE / "schemas"
DONE = Generation(number=3, made="2026-11-30T00:00:00Z", state=GenerationState.GOOD, digest="ab")
USED_FOR = {
    "host": "[host snapshot](host.md)",
    "wishes": "[environments](environments.md)",
    "plan": "[plan for another machine](../how-to/another-machine.md)",
    "status": "[watch a running stack](../how-to/watch.md)",
    "bench": "[measure a running stack](../how-to/bench.md)",
}


def schemas_page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# JSON Schemas"
    yield ""
    yield "After this page you can check a file or a document of Stackwright with any JSON Schema validator, and let an"
    yield "editor complete `envs/*.yaml`. The schemas are made from the records in `generator/stackwright/domain/`."
    yield ""
    yield "| schema | of | page |"
    yield "|---|---|---|"
    yield from (
        f"| [`{name}.json`](schemas/{name}.json) | {SCHEMAS[name]['title']} | {page} |"
        for name, page in USED_FOR.items()
    )
    yield ""
    yield "Host snapshots and wishes with an unknown key are refused. What is written for other programs may gain keys"
    yield "in a later release; a key that changes its meaning raises the number in `schema`."
    yield ""
    yield "An editor with YAML's language server completes and checks wishes with this first line:"
    yield ""
    yield "```yaml"
    yield "# yaml-language-server: $schema=../docs/reference/schemas/wishes.json"
    yield "```"


def printed(value: object) -> Any:
    """Return a document as another program reads it."""
    return json.loads(json.dumps(to_plain(value)))


def wrong(name: str, document: object) -> list[str]:
    """Return what a schema finds in a document."""
    return list(problems(document, SCHEMAS[name], SCHEMAS[name]))


def test_files_are_as_the_records_are(pytestconfig: pytest.Config) -> None:
    made = {f"schemas/{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in SCHEMAS.items()}
    made["schemas.md"] = "\n".join(schemas_page()) + "\n"
    if pytestconfig.getoption("--update-golden"):
        FOLDER.mkdir(exist_ok=True)
        for name, text in made.items():
            (REFERENCE / name).write_text(text, "utf-8")
    assert {name: (REFERENCE / name).read_text("utf-8") for name in made} == made
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in SCHEMAS}


@pytest.mark.parametrize("host", HOST_NAMES)
def test_hosts_and_their_plans(host: str) -> None:
    assert wrong("host", yaml.safe_load((HOSTS / host / "host.yaml").read_text("utf-8"))) == []
    try:
        plan = plan_for(recorded(host), Environment.PROD)
    except NoPlanError:
        return
    assert wrong("plan", printed(plan_document(plan))) == []


@pytest.mark.parametrize("case", CASES)
def test_plans_of_several_models(case: str) -> None:
    host, models = CASES[case]
    assert wrong("plan", printed(plan_document(plan_of(host, *models)))) == []


def test_examples() -> None:
    assert wrong("plan", json.loads((ROOT / "tests/golden/plan.json").read_text("utf-8"))) == []
    example = next(block["text"] for block in BLOCK.finditer((REFERENCE / "host.md").read_text("utf-8")))
    assert wrong("host", yaml.safe_load(example)) == []
    shipped = [yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / "envs").glob("*.yaml")]
    assert len(shipped) == 4
    shown = [
        {"schema": 1, **yaml.safe_load(block["text"])}
        for page in (*PAGES, REFERENCE / "environments.md")
        for block in BLOCK.finditer(page.read_text("utf-8"))
        if re.match(r"# envs/\w+\.yaml\n", block["text"])
    ]
    assert len(shown) > 5
    assert [found for wishes in (*shipped, *shown) if (found := wrong("wishes", wishes))] == []


def test_status_and_bench() -> None:
    view = cast("_View", SimpleNamespace(_generations=(DONE,)))
    assert wrong("status", printed(_View.document(view, STATUS))) == []
    assert wrong("bench", printed(A)) == []


def changed(name: str) -> Iterator[tuple[Any, str]]:
    """Yield documents with one thing wrong each, and where."""
    whole = {
        "host": yaml.safe_load((HOSTS / "2x-rtx3090-nvlink" / "host.yaml").read_text("utf-8")),
        "wishes": yaml.safe_load((ROOT / "envs" / "dev.yaml").read_text("utf-8")),
        "plan": json.loads((ROOT / "tests/golden/plan.json").read_text("utf-8")),
        "status": printed(_View.document(cast("_View", SimpleNamespace(_generations=(DONE,))), STATUS)),
        "bench": printed(A),
    }[name]
    assert wrong(name, whole) == []
    for key, value in whole.items():
        if value is not None and not isinstance(value, bool):
            yield {**copy.deepcopy(whole), key: True}, f"$.{key}"
    first = next(iter(SCHEMAS[name]["$defs"][SCHEMAS[name]["$ref"].rpartition("/")[2]]["required"]))
    yield {key: value for key, value in whole.items() if key != first}, f"$: {first} is missing"


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_wrong_is_found(name: str) -> None:
    for document, where in changed(name):
        assert any(said.startswith(where) for said in wrong(name, document)), where


@pytest.mark.parametrize("name", ["host", "wishes"])
def test_an_unknown_key_is_found(name: str) -> None:
    document, _ = next(changed(name))
    assert "$: unknown key modle" in wrong(name, {**document, "modle": 1})
