"""What is asked of a gateway, and what is taken for an answer. The gateway is a real HTTP server."""

from __future__ import annotations

import json

import pytest
from stackwright.watching.probe import (
    WRONG_KEY,
    Answer,
    Endpoint,
    complete,
    embed,
    list_models,
    rank,
    refuse_wrong_key,
    stream,
    transcribe,
)

from tests.watching.gateway import KEY, PLAIN, STREAM, Gateway, events


def url(gateway: Gateway) -> Endpoint:
    """Return where the gateway is."""
    return Endpoint(bind="127.0.0.1", port=gateway.server_address[1])


def ask(gateway: Gateway) -> tuple[int | None, bool, str]:
    """Ask it for a completion; return status, whether it is one, and its text."""
    answer = complete(url(gateway), KEY, "smoke")
    return answer.status, answer.ok, answer.text


def test_a_completion_is_asked_as_a_client_would(gateway: Gateway) -> None:
    """With the key, at the path that every client uses."""
    assert ask(gateway) == (200, True, "Hello.")
    assert gateway.asked == [("completion", "/v1/chat/completions", KEY, "smoke")]


def test_a_model_without_a_chat_template_is_asked_for_plain_text(gateway: Gateway) -> None:
    """Base models answer only that way, whole and piece by piece."""
    refusal = (400, "default chat template is no longer allowed")
    gateway.replies["completion"] = [refusal, (200, PLAIN)]
    gateway.replies["stream"] = [refusal, (200, events({"choices": [{"text": "Hello there."}]}))]
    assert ask(gateway) == (200, True, "Hello there.")
    assert stream(url(gateway), KEY, "smoke") == Answer(status=200, text="Hello there.")
    assert [path for _, path, *_ in gateway.asked] == ["/v1/chat/completions", "/v1/completions"] * 2


def test_a_model_for_vectors_is_asked_for_one(gateway: Gateway) -> None:
    assert embed(url(gateway), KEY, "words") == Answer(status=200, text="an embedding of 3 numbers")
    assert gateway.asked == [("embedding", "/v1/embeddings", KEY, "words")]


def test_a_model_that_ranks_is_asked_to(gateway: Gateway) -> None:
    assert rank(url(gateway), KEY, "judge") == Answer(status=200, text="text 1 ranks first")
    assert gateway.asked == [("ranking", "/v1/rerank", KEY, "judge")]


def test_a_model_for_speech_is_asked_what_is_said(gateway: Gateway) -> None:
    assert transcribe(url(gateway), KEY, "ears") == Answer(status=200, text="a transcript of 6 characters")
    assert gateway.asked == [("transcript", "/v1/audio/transcriptions", KEY, "ears")]


@pytest.mark.parametrize(
    "body", ["", "{}", '{"data": []}', '{"data": [{"embedding": 3}]}', '{"results": [{}]}', "null"]
)
def test_a_200_without_vector_or_ranking_is_none(body: str, gateway: Gateway) -> None:
    gateway.replies["embedding"] = gateway.replies["ranking"] = gateway.replies["transcript"] = [(200, body)]
    assert not embed(url(gateway), KEY, "words").ok
    assert not rank(url(gateway), KEY, "judge").ok
    assert not transcribe(url(gateway), KEY, "ears").ok


@pytest.mark.parametrize(
    ("status", "final"), [(400, False), (401, True), (403, True), (429, False), (500, False), (503, False)]
)
def test_a_refusal_is_an_answer_with_its_words(status: int, final: bool, gateway: Gateway) -> None:
    """Never an exception. Our own key does not become right by being asked for again."""
    gateway.replies["completion"] = [(status, "no")]
    assert complete(url(gateway), KEY, "smoke") == Answer(status=status, text="no", final=final)


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"choices": []}', '{"choices": [{}]}', "null", "\x00"])
def test_a_200_that_is_no_answer_is_none(body: str, gateway: Gateway) -> None:
    """A proxy's page, or an empty reply."""
    for kind in ("completion", "stream", "models"):
        gateway.replies[kind] = [(200, body)]
    found = (
        complete(url(gateway), KEY, "smoke"),
        stream(url(gateway), KEY, "smoke"),
        list_models(url(gateway), KEY, ("smoke",)),
    )
    assert [(answer.ok, answer.final) for answer in found] == [(False, False)] * 3


def test_a_stream_is_joined(gateway: Gateway) -> None:
    """Its last event before the end tells only what was used."""
    assert stream(url(gateway), KEY, "smoke") == Answer(status=200, text="Hello.")
    assert gateway.kinds == ["stream"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (STREAM.removesuffix("data: [DONE]\n\n"), "a stream that ends early: "),
        (events({"error": {"message": "engine died", "code": 500}}), "a stream that is not a completion: "),
        (events([]), "a stream that is not a completion: "),
        (events({"choices": [{"delta": None}]}), "a stream that is not a completion: "),
        (events(), "a stream without a completion: "),
        ("data: {\n\ndata: [DONE]\n\n", "a stream that is not a completion: "),
    ],
)
def test_a_stream_that_does_not_end_well_is_no_answer(body: str, why: str, gateway: Gateway) -> None:
    gateway.replies["stream"] = [(200, body)]
    answer = stream(url(gateway), KEY, "smoke")
    assert (answer.status, answer.final) == (None, False)
    assert answer.text.startswith(why)


def test_a_line_separator_in_a_word_is_no_end_of_an_event(gateway: Gateway) -> None:
    """Only a line feed ends a line of a stream; U+2028 may stand in JSON as it is."""
    word = json.dumps({"choices": [{"delta": {"content": "a\u2028b"}}]}, ensure_ascii=False)
    gateway.replies["stream"] = [(200, f"data: {word}\n\ndata: [DONE]\n\n")]
    assert stream(url(gateway), KEY, "smoke").text == "a\u2028b"


def test_each_model_has_to_be_listed(gateway: Gateway) -> None:
    assert list_models(url(gateway), KEY, ("smoke",)).ok
    found = list_models(url(gateway), KEY, ("other", "smoke", "third"))
    assert found == Answer(status=None, text="does not list other, third", final=True)
    assert {path for _, path, *_ in gateway.asked} == {"/v1/models"}


def test_a_wrong_key_has_to_be_refused(gateway: Gateway) -> None:
    assert refuse_wrong_key(url(gateway), "smoke").ok
    assert gateway.asked == [("refusal", "/v1/chat/completions", WRONG_KEY, "smoke")]
    gateway.open = True
    assert refuse_wrong_key(url(gateway), "smoke") == Answer(status=None, text="let it in", final=True)


def test_a_gateway_in_trouble_has_not_refused_the_key(gateway: Gateway) -> None:
    """Only a refusal is one; anything else is asked again."""
    gateway.replies["refusal"] = [(500, "starting")]
    assert refuse_wrong_key(url(gateway), "smoke") == Answer(status=500, text="starting")


def test_nobody_there_is_an_answer_too() -> None:
    """A port that nothing listens on."""
    with Gateway() as closed:
        port = closed.server_address[1]
    nobody = Endpoint(bind="0.0.0.0", port=port)
    for answer in (complete(nobody, KEY, "smoke"), refuse_wrong_key(nobody, "smoke"), list_models(nobody, KEY, ())):
        assert (answer.status, answer.ok, answer.final) == (None, False, False)


def test_the_key_is_not_carried_elsewhere(gateway: Gateway) -> None:
    """A redirection is an answer, not an address."""
    with Gateway() as elsewhere:
        gateway.location = f"http://127.0.0.1:{elsewhere.server_address[1]}/"
        gateway.replies["completion"] = [(302, "")]
        status, ok, _ = ask(gateway)
    assert (status, ok, elsewhere.asked) == (302, False, [])


def test_a_reply_that_is_cut_off_is_no_answer(gateway: Gateway) -> None:
    """The engine behind it was killed meanwhile."""
    gateway.promised = 1000
    for status in (200, 500):
        gateway.replies["completion"] = [(status, '{"choices": [{"mess')]
        assert ask(gateway)[1] is False


def test_a_model_that_only_thinks_has_answered(gateway: Gateway) -> None:
    """Eight tokens may all be thoughts, which come apart from the content."""
    gateway.replies["completion"] = [(200, json.dumps({"choices": [{"message": {"content": None}}]}))]
    gateway.replies["stream"] = [(200, events({"choices": [{"delta": {"reasoning_content": "Well"}}]}))]
    assert ask(gateway) == (200, True, "")
    assert stream(url(gateway), KEY, "smoke").ok
