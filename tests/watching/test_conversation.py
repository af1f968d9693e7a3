"""A chat with the gateway: its pieces, and each failure in a sentence. The gateway is a real HTTP server."""

from __future__ import annotations

import json

import pytest
from stackwright.errors import NotHealthyError, UsageError
from stackwright.watching.conversation import Piece, Turn, message_of, stream_chat
from stackwright.watching.probe import Endpoint

from tests.watching.gateway import KEY, Gateway, events

HELLO = (Turn(role="user", content="Hello"),)


def chat(gateway: Gateway, key: str = KEY) -> list[Piece]:
    """Ask, and return the pieces."""
    endpoint = Endpoint(bind="127.0.0.1", port=gateway.server_address[1])
    return list(stream_chat(endpoint, key, "smoke", HELLO, 60))


def test_an_answer_comes_in_pieces(gateway: Gateway) -> None:
    assert chat(gateway) == [Piece(text="Hel"), Piece(text="lo.")]
    assert gateway.asked == [("stream", "/v1/chat/completions", KEY, "smoke")]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_is_told_from_the_answer(field: str, gateway: Gateway) -> None:
    deltas = ({field: "Hm."}, {"content": "Yes."}, {"role": "assistant"})
    gateway.replies["stream"] = [(200, events(*({"choices": [{"delta": delta}]} for delta in deltas)))]
    assert chat(gateway) == [Piece(text="Hm.", thought=True), Piece(text="Yes.")]


def test_a_refusal_is_one_sentence(gateway: Gateway) -> None:
    error = {"error": {"message": "unknown model `smoke`;\nmodels: a, b.", "code": "404"}}
    gateway.replies["stream"] = [(404, json.dumps(error))]
    with pytest.raises(UsageError) as refused:
        chat(gateway)
    assert refused.value.message == "the gateway refuses (404): unknown model `smoke`; models: a, b"
    with pytest.raises(UsageError, match="wrong or missing key"):
        chat(gateway, key="sk-wrong")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((503, '{"error": {"message": "no replica answers"}}'), "the gateway answered 503: no replica answers"),
        ((200, 'data: {"error": {"message": "the engine left"}}\n\n'), "the answer broke off: the engine left"),
        ((200, "data: {}\n\n"), "the answer broke off: the gateway ended the stream"),
    ],
)
def test_a_failure_is_one_sentence(reply: tuple[int, str], words: str, gateway: Gateway) -> None:
    gateway.replies["stream"] = [reply]
    with pytest.raises(NotHealthyError) as failed:
        chat(gateway)
    assert failed.value.message == words


def test_a_gateway_that_is_not_there_is_named() -> None:
    with pytest.raises(NotHealthyError) as failed:
        list(stream_chat(Endpoint(bind="127.0.0.1", port=1), KEY, "smoke", HELLO, 60))
    assert failed.value.message == "the gateway at http://127.0.0.1:1 does not answer: Connection refused"


def test_words_that_are_no_error_document_are_told_as_they_are() -> None:
    assert message_of("<html>Bad\ngateway</html>") == "<html>Bad gateway</html>"
    assert message_of("") == "no reason given"
