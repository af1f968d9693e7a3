"""Setups of the kinds that people publish: what is taken, what is said of each line, and that a plan takes it.

`pytest tests/importing --update-golden` writes each case's `expected.yaml` and `report.txt` again; README.md says what
a case has.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.importing.conftest import CASES, Importer, host_file, lay_out_case

GOLDEN = ("report.txt", "expected.yaml")
SECRET = re.compile(r"(?i:not-?a-?real)|hf_[A-Za-z0-9]{8,}|sk-1234|sk-local")


def plain(text: str, importer: Importer) -> str:
    """Leave out where this test runs."""
    text = text.replace(str(importer.folder), "<here>").replace(str(importer.folder.parent), "<around>")
    text = re.sub(r"[^ \n`]*/scripts/", "<scripts>/", text)
    return re.sub(r"[^ \n`]*/tests/hosts/([^/]+)/host.yaml", r"<hosts>/\1", text)


def words(told: dict[str, Any]) -> tuple[str, ...]:
    """Return the command line of a case."""
    return (*told["files"], told["environment"], *told.get("options", ()), "--host", host_file(told["host"]))


def compare(path: Path, text: str, *, update: bool) -> None:
    """Compare with a golden file, or write it."""
    if update:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text("utf-8")


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Path:
    """Name a case."""
    folder: Path = request.param
    return folder


def test_what_is_written_and_said(case: Path, importer: Importer, update_golden: bool) -> None:
    told = lay_out_case(case, importer)
    ran = importer.run(*words(told), environment=told["environment"])
    assert ran.code == 0, ran.err
    compare(case / "expected.yaml", plain(ran.wishes, importer), update=update_golden)
    compare(case / "report.txt", plain(ran.err, importer), update=update_golden)


def test_a_plan_takes_it_with_the_flags_of_the_file(case: Path, importer: Importer) -> None:
    told = lay_out_case(case, importer)
    environment = told["environment"]
    assert importer.run(*words(told), environment=environment).code == 0
    ran = importer.command(
        "configure-gpu", environment, "--host", host_file(told["host"]), "--out", str(importer.project)
    )
    if "refused" in told:
        assert (ran.code, told["refused"] in ran.err) == (told.get("code", 4), True), ran.err
        return
    assert ran.code == 0, ran.err
    plan = json.loads((importer.project / "compose" / "generated" / environment / "plan.json").read_text("utf-8"))
    found = {replica["name"]: replica["args"] for replica in plan["replicas"]}
    for engine, flags in told.get("flags", {}).items():
        arguments = " ".join(found[engine]) + " "
        assert [flag for flag in flags if f"{flag} " not in arguments] == []


def test_no_secret_is_printed_or_copied(case: Path, importer: Importer) -> None:
    told = lay_out_case(case, importer)
    held = [
        path
        for path in importer.folder.rglob("*")
        if path.is_file() and path.name not in ("report.txt", "expected.yaml")
    ]
    shown = importer.run(*words(told), "--dry-run", environment=told["environment"])
    document = importer.run(*words(told), "--json", environment=told["environment"])
    everything = f"{shown.out}{shown.err}{document.out}{document.err}{document.wishes}"
    assert SECRET.findall(everything) == []
    # What the cases hold is what the pattern finds, so that the line above can fail.
    if case.name in ("docker-run-script", "config-full-of-clouds", "fork-on-old-gpus"):
        assert any(SECRET.search(path.read_text("utf-8")) for path in held)


def test_every_line_that_is_named_holds_what_is_named(case: Path, importer: Importer) -> None:
    """A flag or a variable stands in the very line that the report gives."""
    told = lay_out_case(case, importer)
    document = json.loads(importer.run(*words(told), "--json", environment=told["environment"]).out)
    wrong = []
    for note in document["notes"]:
        flag = note["subject"].split()[0] if note["subject"].startswith("--") else ""
        line = Path(note["at"]["file"]).read_text("utf-8").split("\n")[note["at"]["line"] - 1]
        short = line.strip(" -\"'") == "tp"
        if flag and not short and flag.replace("_", "-") not in line.replace("_", "-"):
            wrong.append((note["at"], note["subject"], line))
    assert wrong == []


def test_the_expected_wishes_are_yaml_of_a_person(case: Path) -> None:
    wishes = yaml.safe_load((case / "expected.yaml").read_text("utf-8"))
    assert wishes["schema"] == 1
    assert wishes["models"]
