"""Documents through the real proxy, its real readers and a real PostgreSQL: in, found, given back, gone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.retrieval.files import docx, pdf
from tests.integration.retrieval.models import ANSWER
from tests.integration.retrieval.parts import READY_S, Retrieval, until

MANUAL = b"""# Boiler

The pressure valve opens at three bar. Close the red tap before you drain the tank.

# Faults

Code E17 means that the pump is stuck.
"""
NEWS = b"<html><head><title>Harbour news</title></head><body><nav>menu menu</nav><p>The ferry to Lysekil was late.</p>"
PAPER = pdf(["Ravens hide their food in autumn.", "Magpies know themselves in a mirror."])
LETTER = docx(["Dear tenant,", "the rent of the workshop rises in April."], [["month", "euros"], ["April", "912"]])
FILES = {"boiler.md": MANUAL, "news.html": NEWS, "birds.pdf": PAPER, "letter.docx": LETTER, "note.txt": b"Call Ulrike."}


def chat(content: str, *collections: str, **further: Any) -> dict[str, Any]:
    """Return a chat request with collections."""
    messages = [{"role": "user", "content": content}]
    return {"model": "chat", "messages": messages, "collections": list(collections), **further}


@pytest.mark.parametrize(
    ("query", "name", "page", "text"),
    [
        ("At which pressure does the valve open?", "boiler.md", None, "three bar"),
        ("E17", "boiler.md", None, "pump is stuck"),
        ("When did the ferry to Lysekil come?", "news.html", None, "The ferry to Lysekil was late."),
        ("magpies mirror", "birds.pdf", 2, "Magpies know themselves"),
        ("rent April workshop", "letter.docx", None, "April | 912"),
        ("Ulrike", "note.txt", None, "Call Ulrike."),
    ],
)
def test_each_kind_of_document_is_found(
    retrieval: Retrieval, query: str, name: str, page: int | None, text: str
) -> None:
    if retrieval.ask("GET", "/v1/collections").body["data"] == []:
        assert retrieval.send("house", FILES).status == 202
    assert {document["state"] for document in retrieval.settle("house")} == {"done"}

    best = retrieval.search(query, "house")[0]

    assert (best["document"]["name"], best.get("page")) == (name, page)
    assert text in best["text"]
    assert "menu" not in best["text"]


def test_the_same_content_is_one_document(retrieval: Retrieval) -> None:
    first = retrieval.send("twice", {"a.txt": b"The cat sleeps."})
    again = retrieval.send("twice", {"b.txt": b"The cat sleeps.", "c.txt": b"The dog wakes."})
    only_old = retrieval.ask("POST", "/v1/collections/twice/documents", {"texts": ["The cat sleeps."]})

    assert (first.status, again.status, only_old.status) == (202, 202, 200)
    assert [row["duplicate"] for row in again.body["data"]] == [True, False]
    assert only_old.body["data"][0]["id"] == first.body["data"][0]["id"]
    assert sorted(document["name"] for document in retrieval.settle("twice")) == ["a.txt", "c.txt"]
    assert len(retrieval.search("cat sleeps", "twice")) == 1


def test_of_many_at_once_each_is_there_once(retrieval: Retrieval) -> None:
    texts = [f"Shelf {number} holds the {number}th box." for number in range(20)]

    def send(text: str) -> int:
        return retrieval.ask("POST", "/v1/collections/rush/documents", {"texts": [text]}).status

    with ThreadPoolExecutor(16) as senders:
        statuses = list(senders.map(send, texts * 3))

    assert sorted(statuses) == [200] * 40 + [202] * 20
    assert [document["passages"] for document in retrieval.settle("rush")] == [1] * 20


def test_bytes_come_back_and_go(retrieval: Retrieval) -> None:
    content = bytes(MANUAL) + uuid4().hex.encode()
    (sent,) = retrieval.send("bytes", {"ü b.md": content}).body["data"]
    retrieval.settle("bytes")
    path = f"/v1/collections/bytes/documents/{sent['id']}"

    given = retrieval.ask("GET", f"{path}/content")
    assert given.body == content
    assert given.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BC%20b.md"
    assert given.headers["x-content-type-options"] == "nosniff"
    assert retrieval.ask("GET", path).body["sha256"] == sha256(content).hexdigest()
    assert originals(retrieval, content) == 1

    assert retrieval.ask("DELETE", path).body == {"object": "document.deleted", "id": sent["id"], "deleted": True}
    assert [retrieval.ask(verb, path).status for verb in ("GET", "DELETE")] == [404, 404]
    assert retrieval.search("pressure valve", "bytes") == []
    assert originals(retrieval, content) == 0


def originals(retrieval: Retrieval, content: bytes) -> int:
    """Return how often a content lies in the folder of originals."""
    return len(list((retrieval.folder / "data" / "originals").rglob(f"{sha256(content).hexdigest()}.*")))


def test_a_collection_goes_with_all_it_has(retrieval: Retrieval) -> None:
    retrieval.send("gone", {"boiler.md": MANUAL + b"gone"})
    retrieval.settle("gone")

    assert retrieval.ask("DELETE", "/v1/collections/gone").status == 200

    assert retrieval.ask("DELETE", "/v1/collections/gone").status == 404
    assert retrieval.ask("GET", "/v1/collections/gone/documents").status == 404
    assert originals(retrieval, MANUAL + b"gone") == 0
    assert retrieval.send("gone", {"boiler.md": MANUAL + b"gone"}).status == 202
    assert [document["state"] for document in retrieval.settle("gone")] == ["done"]


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("empty.txt", b"", 400, "`empty.txt` is empty"),
        ("program.exe", b"MZ\0\0\0\0\0\0\1\2\3", 415, "`program.exe` is no text, PDF, HTML, Markdown or DOCX"),
        ("archive.zip", b"PK\3\4rest", 415, "`archive.zip` is no text"),
        ("cat.png", b"\x89PNG\r\n\x1a\n" + bytes(20), 415, "image/png, which needs the multimodal worker"),
    ],
)
def test_what_no_reader_is_for_is_refused(
    retrieval: Retrieval, name: str, content: bytes, status: int, words: str
) -> None:
    answer = retrieval.send("refused", {name: content})

    assert answer.status == status
    assert words in answer.body["error"]["message"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.pdf", PAPER[:200], "this PDF cannot be opened"),
        ("broken.docx", LETTER[: len(LETTER) // 2], "this DOCX cannot be opened"),
        ("bomb.docx", docx(["boom"], padding=300 << 20), "its parts unpack to"),
        ("blank.txt", b" \n\n \t\n" * 20, "there is no text in it"),
        ("empty.pdf", pdf([""]), "there is no text in it"),
        (
            "scan.pdf",
            pdf([(1, 0, 0), (0, 0, 1)]),
            "pages 1, 2 are scanned, without a text: application/pdf needs the multimodal worker",
        ),
    ],
)
def test_a_bad_file_fails_alone_and_says_why(retrieval: Retrieval, name: str, content: bytes, words: str) -> None:
    sent = retrieval.send("bad", {name: content, f"good-{name}.txt": f"A good neighbour of {name}.".encode()})
    assert sent.status == 202

    states = {document["name"]: document for document in retrieval.settle("bad")}

    assert (states[name]["state"], states[f"good-{name}.txt"]["state"]) == ("failed", "done")
    assert words in states[name]["detail"]
    assert states[name]["passages"] == 0


def test_vectors_of_documents_count_for_the_key_that_sent_them(retrieval: Retrieval) -> None:
    retrieval.models.asked.clear()
    retrieval.models.owners.clear()
    retrieval.send("mine", {"note.txt": b"Whose vectors are these?"})
    retrieval.settle("mine")

    ingested = [at for at, (_, key, _) in enumerate(retrieval.models.asked) if key == retrieval.keys["retrieval"]]
    assert retrieval.models.owners[ingested[-1]] == "anna"


def test_a_limit_is_waited_for_as_long_as_it_says(retrieval: Retrieval) -> None:
    retrieval.models.status, retrieval.models.retry_after = 429, "1800"
    retrieval.send("limited", {"note.txt": b"Not before half an hour."})
    until(lambda: "waits for the gateway" in retrieval.documents("limited")[0]["detail"], READY_S)
    retrieval.models.status, retrieval.models.retry_after = 200, ""

    (due_s,) = retrieval.query(
        "SELECT extract(epoch FROM due_at - now()) FROM documents WHERE name = 'note.txt' AND state = 'queued'"
    )
    assert 1700 < float(due_s) <= 1800


def test_of_a_pdf_that_is_partly_scanned_it_says_which_pages(retrieval: Retrieval) -> None:
    retrieval.send("partly", {"partly.pdf": pdf(["A lighthouse on the coast.", (1, 0, 0)])})
    (document,) = retrieval.settle("partly")

    assert document["state"] == "done"
    assert document["detail"].startswith("page 2 is scanned, without a text: application/pdf needs the multimodal")
    assert [each["page"] for each in retrieval.search("lighthouse", "partly")] == [1]


def test_an_answer_cites_its_sources(retrieval: Retrieval) -> None:
    retrieval.send("cited", {"boiler.md": MANUAL})
    retrieval.settle("cited")

    answer = retrieval.ask("POST", "/v1/chat/completions", chat("When does the pressure valve open?", "cited")).body

    assert answer["choices"][0]["message"]["content"] == ANSWER
    (source,) = answer["sources"]
    assert (source["number"], source["cited"], source["document"]["name"]) == (1, True, "boiler.md")
    assert retrieval.ask("GET", source["content_url"]).body == MANUAL
    (key, asked) = retrieval.models.asked_for("/v1/chat/completions")[0]
    assert key == retrieval.keys["anna"]
    assert asked["messages"][0]["role"] == "system"
    assert "[1] boiler.md\n# Boiler" in asked["messages"][0]["content"]
    assert "collections" not in asked


def test_a_stream_brings_them_too(retrieval: Retrieval) -> None:
    retrieval.send("cited", {"boiler.md": MANUAL})
    retrieval.settle("cited")

    fields = chat("When does the pressure valve open?", "cited", stream=True)
    answer = retrieval.ask("POST", "/v1/chat/completions", fields)

    lines = answer.body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert said.strip() == ANSWER
    assert [source["number"] for source in events[0]["sources"]] == [1]
    assert [source["cited"] for source in events[-1]["sources"]] == [True]


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_found_is_said_and_no_model_is_asked(retrieval: Retrieval, *, stream: bool) -> None:
    retrieval.send("cited", {"boiler.md": MANUAL})
    retrieval.settle("cited")

    answer = retrieval.ask("POST", "/v1/chat/completions", chat("zebra xylophone quartz", "cited", stream=stream))

    content = answer.body.decode() if stream else json.dumps(answer.body)
    assert "Nothing about this was found in the given collections." in content
    assert retrieval.search("zebra xylophone quartz", "cited") == []
    assert retrieval.models.asked_for("/v1/chat/completions") == []


def test_a_model_that_refuses_the_length_is_asked_with_less(retrieval: Retrieval) -> None:
    parts = [f"Chapter {number}. The lighthouse keeper wrote {'and wrote ' * 90}." for number in range(6)]
    retrieval.ask("POST", "/v1/collections/long/documents", {"texts": parts})
    retrieval.settle("long")
    retrieval.models.context_bytes = 2500

    answer = retrieval.ask("POST", "/v1/chat/completions", chat("lighthouse keeper", "long"))

    assert answer.status == 200
    sizes = [len(body["messages"][0]["content"]) for _, body in retrieval.models.asked_for("/v1/chat/completions")]
    assert len(sizes) > 1
    assert sizes[-1] <= 2500 < sizes[-2]
    # From the first on, what is sent keeps within the context that the plan gives the model: 2048 tokens.
    assert sizes[0] <= 3 * 2048


def test_what_waits_for_the_gateway_says_so_and_goes_on(retrieval: Retrieval) -> None:
    retrieval.models.status = 503
    retrieval.send("waiting", {"boiler.md": MANUAL})
    until(lambda: retrieval.documents("waiting")[0]["detail"] == "waits for the gateway: not now", READY_S)
    assert retrieval.documents("waiting")[0]["state"] == "queued"

    retrieval.models.status = 200

    assert [document["state"] for document in retrieval.settle("waiting")] == ["done"]


def test_vectors_of_another_dimension_are_refused(retrieval: Retrieval) -> None:
    retrieval.send("dimension", {"boiler.md": MANUAL})
    retrieval.settle("dimension")
    retrieval.models.dimension = 32
    try:
        retrieval.send("dimension", {"other.txt": b"Another one."})
        found = {document["name"]: document for document in retrieval.settle("dimension")}
        asked = retrieval.ask("POST", "/v1/search", {"query": "valve", "collections": ["dimension"]})
    finally:
        retrieval.models.dimension = 64

    refusal = "`embed` gives vectors of 32 numbers; those of stand/in have 64"
    assert found["other.txt"]["detail"] == refusal
    assert (asked.status, asked.body["error"]["message"]) == (409, refusal)


def test_a_plain_request_goes_to_the_gateway(retrieval: Retrieval) -> None:
    plain = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}

    assert retrieval.ask("GET", "/v1/models").body["data"] == [{"id": "chat"}]
    assert retrieval.ask("POST", "/v1/chat/completions", plain).body["choices"][0]["message"]["content"] == ANSWER
    assert retrieval.models.asked_for("/v1/chat/completions") == [(retrieval.keys["anna"], plain)]
    assert retrieval.ask("POST", "/v1/audio/speech", {}).status == 404


def test_it_tests_itself_with_its_own_key_alone(retrieval: Retrieval) -> None:
    told = retrieval.ask("POST", "/v1/self-test", key="retrieval")

    assert told.body["ok"] is True, told.body
    assert retrieval.ask("GET", "/v1/collections", key="retrieval").body["data"] == []
    assert retrieval.ask("POST", "/v1/self-test", key="anna").status == 403


def test_figures_are_those_of_all_workers(retrieval: Retrieval) -> None:
    def count() -> float:
        lines = retrieval.ask("GET", "/metrics").body.decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith('retrieval_requests_total{endpoint="GET')
        )

    before = count()
    for _ in range(10):
        retrieval.ask("GET", "/v1/collections")
    assert count() == before + 10


def test_words_alone_are_found_while_no_model_answers(retrieval: Retrieval) -> None:
    retrieval.send("ways", {"pump.txt": b"The pump is stuck."})
    retrieval.settle("ways")
    (by_vector,) = retrieval.search("pump stuck", "ways", by="vector")
    retrieval.models.status = 503

    (by_words,) = retrieval.search("pump stuck", "ways", by="words")
    fields = {"query": "pump stuck", "collections": ["ways"]}

    assert (by_vector["similarity"] > 0, by_words["similarity"]) == (True, None)
    assert by_vector["document"] == by_words["document"]
    assert retrieval.ask("POST", "/v1/search", fields).status == 503
    assert retrieval.ask("POST", "/v1/search", {**fields, "by": "luck"}).status == 400
