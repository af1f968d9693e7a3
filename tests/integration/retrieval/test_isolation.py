"""One key never sees another's collections: not by name, number, hash or error."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.integration.retrieval.parts import Answer, Retrieval

SECRET = b"The combination of the safe is 4711."


@pytest.fixture
def hers(retrieval: Retrieval) -> str:
    """Store a document of Anna's, and return its number."""
    (sent,) = retrieval.send("vault", {"safe.txt": SECRET}).body["data"]
    retrieval.settle("vault")
    number: str = sent["id"]
    return number


def seen(answer: Answer) -> tuple[int, object]:
    """Return what a client can tell an answer by."""
    return answer.status, answer.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/collections/{name}/documents"),
        ("GET", "/v1/collections/{name}/documents/{number}"),
        ("GET", "/v1/collections/{name}/documents/{number}/content"),
        ("DELETE", "/v1/collections/{name}/documents/{number}"),
        ("DELETE", "/v1/collections/{name}"),
    ],
)
def test_what_is_anothers_answers_like_what_is_not_there(
    retrieval: Retrieval, hers: str, method: str, path: str
) -> None:
    there = retrieval.ask(method, path.format(name="vault", number=hers), key="boris")
    absent = retrieval.ask(method, path.format(name="vault", number=uuid4()), key="boris")
    elsewhere = retrieval.ask(method, path.format(name="never", number=hers), key="boris")

    assert there.status == 404
    assert seen(there) == seen(absent)
    assert seen(elsewhere)[0] == 404
    assert retrieval.search("safe combination", "vault") != []


def test_a_search_needs_a_collection_of_ones_own(retrieval: Retrieval, hers: str) -> None:
    assert hers
    for path, fields in (
        ("/v1/search", {"query": "safe combination"}),
        ("/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": "safe combination"}]}),
    ):
        there = retrieval.ask("POST", path, {**fields, "collections": ["vault"]}, key="boris")
        absent = retrieval.ask("POST", path, {**fields, "collections": ["never"]}, key="boris")
        assert (there.status, there.body["error"]["message"]) == (404, "no such collection `vault`")
        assert (absent.status, absent.body["error"]["message"]) == (404, "no such collection `never`")
    assert retrieval.models.asked_for("/v1/embeddings") == []


def test_the_same_name_and_the_same_content_share_nothing(retrieval: Retrieval, hers: str) -> None:
    his = retrieval.send("vault", {"mine.txt": SECRET}, key="boris")

    (row,) = his.body["data"]
    assert (his.status, row["duplicate"], row["id"] == hers, row["name"]) == (202, False, False, "mine.txt")
    retrieval.settle("vault", key="boris")
    assert [each["document"]["name"] for each in retrieval.search("safe", "vault", key="boris")] == ["mine.txt"]

    assert retrieval.ask("DELETE", "/v1/collections/vault", key="boris").status == 200
    assert retrieval.ask("GET", f"/v1/collections/vault/documents/{hers}/content").body == SECRET


def test_a_list_is_of_ones_own(retrieval: Retrieval, hers: str) -> None:
    assert hers
    assert "vault" in [each["name"] for each in retrieval.ask("GET", "/v1/collections").body["data"]]
    for key in ("boris", "master"):
        assert retrieval.ask("GET", "/v1/collections", key=key).body["data"] == []


@pytest.mark.parametrize("key", ["", "sk-", "sk-" + "0" * 72])
def test_without_a_key_nothing_is_told(retrieval: Retrieval, hers: str, key: str) -> None:
    for path in ("/v1/collections", f"/v1/collections/vault/documents/{hers}", "/v1/models"):
        assert retrieval.ask("GET", path, key=key).status == 401
    assert retrieval.ask("POST", "/v1/search", {"query": "safe", "collections": ["vault"]}, key=key).status == 401
