"""A backup on an empty host gives the same answers; one that is not whole, or would replace something, does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.retrieval.parts import READY_S, Retrieval, start_retrieval, until

TEXTS = [f"Drawer {number} holds the letters of the year {1900 + number}." for number in range(40)]
QUESTIONS = ("letters of 1907", "drawer 31", "year 1939")


@pytest.fixture(scope="module")
def hosts(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Retrieval, Retrieval]]:
    """Start two stacks, the first with documents of two people."""
    with (
        start_retrieval(state_folder, tmp_path_factory.mktemp("one"), workers=2) as one,
        start_retrieval(state_folder, tmp_path_factory.mktemp("two"), workers=2) as two,
    ):
        for key in ("anna", "boris"):
            one.ask("POST", "/v1/collections/archive/documents", {"texts": TEXTS}, key=key)
            one.settle("archive", key=key)
        yield one, two


def answers(retrieval: Retrieval, key: str = "anna") -> list[Any]:
    """Return all that a client can tell of an archive."""
    documents = retrieval.documents("archive", key=key)
    paths = [f"/v1/collections/archive/documents/{document['id']}/content" for document in documents]
    found = [retrieval.search(question, "archive", key=key) for question in QUESTIONS]
    return [documents, [retrieval.ask("GET", path, key=key).body for path in paths], found]


def restore(retrieval: Retrieval, backup: bytes, words: str = "") -> Any:
    """Restore a backup and return the answer."""
    return retrieval.ask("POST", f"/v1/restore{words}", key="master", body=backup, kind="application/x-tar")


def test_an_empty_host_answers_the_same_behind_a_restore(hosts: tuple[Retrieval, Retrieval]) -> None:
    one, two = hosts
    backup = one.ask("GET", "/v1/backup", key="master").body

    told = restore(two, backup)

    assert (told.status, told.body) == (200, {"collections": 2, "documents": 80, "lost": 0})
    until(lambda: two.ask("GET", "/health").status == 200, READY_S)
    for key in ("anna", "boris"):
        assert answers(two, key) == answers(one, key)
    two.ask("POST", "/v1/collections/archive/documents", {"texts": ["A new letter from Uppsala."]})
    two.settle("archive")
    assert two.search("Uppsala", "archive")[0]["text"] == "A new letter from Uppsala."

    again = restore(two, backup)
    assert (again.status, again.body["error"]["message"]) == (409, "there are 2 collections, which this would replace")
    assert two.search("Uppsala", "archive") != []

    assert restore(two, backup, "?overwrite=true").status == 200
    until(lambda: two.ask("GET", "/health").status == 200, READY_S)
    assert answers(two) == answers(one)
    kept = two.folder / "data" / "originals"
    until(lambda: sum(path.is_file() for path in kept.rglob("*")) == 80, READY_S)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda backup: backup[: len(backup) // 2], "this is no whole backup"),
        (lambda backup: backup[:-2048], "the backup is not whole"),
        (lambda backup: backup.replace(b"letters of the year 1907", b"letters of the year 1908"), "has other bytes"),
        (lambda _: b"a text", "this is no whole backup"),
    ],
    ids=["cut", "without its end", "changed", "text"],
)
def test_what_is_no_whole_backup_changes_nothing(hosts: tuple[Retrieval, Retrieval], change: Any, words: str) -> None:
    one, _ = hosts
    before = answers(one)
    backup = change(one.ask("GET", "/v1/backup", key="master").body)

    told = restore(one, backup, "?overwrite=true")

    assert told.status == 400
    assert words in told.body["error"]["message"]
    assert answers(one) == before


@pytest.mark.parametrize("key", ["anna", "retrieval"])
def test_only_the_administrator_may(hosts: tuple[Retrieval, Retrieval], key: str) -> None:
    one, _ = hosts
    assert one.ask("GET", "/v1/backup", key=key).status == 403
    assert one.ask("POST", "/v1/restore", key=key, body=b"x").status == 403
