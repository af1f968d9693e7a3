"""What the gateway refuses before LiteLLM reads it, around a real ASGI application that echoes what reaches it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from compose.gateway.guard import MOST_DEPTH, Guard, Message, Receive, Send

KEY = "sk-right"
BEARER = (b"authorization", b"Bearer sk-right")
LIMIT = 20_000


@dataclass(kw_only=True)
class Exchange:
    """One request, in as many pieces as it is sent in; what was read of it, and what was answered."""

    pieces: Iterable[bytes]
    headers: tuple[tuple[bytes, bytes], ...] = (BEARER,)
    method: str = "POST"
    path: str = "/v1/chat/completions"
    query: bytes = b""
    leaves: bool = False
    read: int = 0
    reached: list[bytes] = field(default_factory=list)
    passed_on: list[bytes] = field(default_factory=list)
    answered: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.answered[0]["status"])

    @property
    def error(self) -> dict[str, Any]:
        """The error as clients read it."""
        return dict(json.loads(self.answered[1]["body"])["error"])


def ask(exchange: Exchange) -> Exchange:
    """Send one request through the guard."""
    pieces = iter(exchange.pieces)

    async def receive() -> Message:
        piece = next(pieces, None)
        if piece is None:
            return {"type": "http.disconnect"} if exchange.leaves else {"type": "http.request", "body": b""}
        exchange.read += 1
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: Message) -> None:
        exchange.answered.append(message)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        exchange.passed_on += [name for name, _ in scope["headers"]]
        body, more = b"", True
        while more and (message := await receive())["type"] == "http.request":
            body, more = body + message["body"], message.get("more_body", False)
        exchange.reached.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    scope: Message = {"type": "http", "method": exchange.method, "path": exchange.path, "query_string": exchange.query}
    scope["headers"] = list(exchange.headers)
    asyncio.run(Guard(app, LIMIT, lambda key: key == KEY)(scope, receive, send))
    return exchange


def typed(kind: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a request whose body has this type."""
    return (BEARER, (b"content-type", kind))


@pytest.mark.parametrize("body", [b'{"model": "m"}', b' \n{"a": [{"b": "\xc3\xa9\\ud83d\\ude00"}]}', b"{}", b""])
def test_an_object_reaches_litellm_byte_by_byte_as_it_came(body: bytes) -> None:
    done = ask(Exchange(pieces=[body[:3], body[3:]]))
    assert (done.status, done.reached) == (200, [body])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[]", "a list, not a JSON object"),
        (b'[{"model": "m"}]', "a list, not a JSON object"),
        (b'"text"', "a text, not a JSON object"),
        (b"1", "a number, not a JSON object"),
        (b"true", "true or false, not a JSON object"),
        (b"null", "null, not a JSON object"),
        (b'{"model": "m"', "not JSON: Expecting"),
        (b"{'model': 'm'}", "not JSON: Expecting"),
        (b'{"model": "\xff"}', "not JSON: it is not UTF-8"),
        ('{"model": "m"}'.encode("utf-16"), "not JSON: it is not UTF-8"),
        (b'{"a":' * (MOST_DEPTH + 1) + b"1" + b"}" * (MOST_DEPTH + 1), f"deeper than {MOST_DEPTH} levels"),
    ],
)
def test_what_is_no_json_object_is_answered_400(body: bytes, words: str) -> None:
    done = ask(Exchange(pieces=[body]))
    assert (done.status, done.reached) == (400, [])
    assert words in done.error["message"]
    assert (done.error["type"], done.error["code"]) == ("invalid_request_error", "400")


def test_depth_is_counted_not_brackets() -> None:
    """As deep as allowed passes, and so do many brackets beside each other."""
    deepest = b'{"a":' * MOST_DEPTH + b"1" + b"}" * MOST_DEPTH
    beside = b'{"a": [' + b"[]," * 200 + b"{}]}"
    assert [ask(Exchange(pieces=[body])).status for body in (deepest, beside)] == [200, 200]


def test_what_nobody_could_recurse_through_is_answered_400() -> None:
    """Python's own reader gives up on it: that is no fault of the gateway either."""
    half = LIMIT // 2
    done = ask(Exchange(pieces=[b"[" * half + b"]" * half]))
    assert (done.status, done.reached) == (400, [])
    assert f"deeper than {MOST_DEPTH} levels" in done.error["message"]


@pytest.mark.parametrize("body", [b"[]", b"not JSON", b"x" * (LIMIT + 1), b'{"model": "m"}'])
@pytest.mark.parametrize("headers", [(), ((b"authorization", b"Bearer wrong"),), ((b"authorization", b""),)])
def test_without_the_right_key_all_is_answered_401_unread(
    body: bytes, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    done = ask(Exchange(pieces=[body], headers=headers))
    assert (done.status, done.read, done.reached) == (401, 0, [])
    assert done.error["type"] == "auth_error"


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (((b"authorization", b"bearer sk-right"),), b""),
        (((b"x-api-key", b"sk-right"),), b""),
        (((b"api-key", b"sk-right"),), b""),
        (((b"x-goog-api-key", b"sk-right"),), b""),
        (((b"authorization", b"Bearer other"), (b"x-litellm-api-key", b"Bearer sk-right")), b""),
        ((), b"key=sk-right"),
    ],
)
def test_the_key_may_come_in_every_way_that_litellm_takes(
    headers: tuple[tuple[bytes, bytes], ...], query: bytes
) -> None:
    assert ask(Exchange(pieces=[b"{}"], headers=headers, query=query)).status == 200


def test_an_announced_length_beyond_the_limit_is_answered_413_unread() -> None:
    done = ask(Exchange(pieces=[b"{}"], headers=(BEARER, (b"content-length", str(LIMIT + 1).encode()))))
    assert (done.status, done.read, done.reached) == (413, 0, [])
    assert f"more than {LIMIT} bytes (GATEWAY_MAX_BODY_BYTES)" in done.error["message"]


def test_a_length_that_is_not_announced_is_counted_while_it_comes() -> None:
    """Chunked: nothing says how long it will be; what is beyond the limit is not read."""
    done = ask(Exchange(pieces=[b"x" * 6000] * 1000))
    assert (done.status, done.read, done.reached) == (413, 4, [])


def test_the_limit_itself_passes() -> None:
    body = b'{"a": "' + b"x" * (LIMIT - 9) + b'"}'
    assert len(body) == LIMIT
    assert ask(Exchange(pieces=[body])).status == 200


@pytest.mark.parametrize("kind", [b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded"])
def test_forms_are_not_served(kind: bytes) -> None:
    """LiteLLM would read other fields in them than are looked at here."""
    done = ask(Exchange(pieces=[b'{"a": "&timeout=9&b="}'], headers=typed(kind)))
    assert (done.status, done.read, done.reached) == (415, 0, [])


def test_a_list_by_another_name_is_still_a_list() -> None:
    """LiteLLM reads everything but forms as JSON, whatever it is called."""
    assert ask(Exchange(pieces=[b"[]"], headers=typed(b"text/plain"))).status == 400


def test_a_client_that_leaves_while_it_sends_is_not_answered() -> None:
    done = ask(Exchange(pieces=[b'{"mod'], leaves=True))
    assert (done.answered, done.reached) == ([], [])


@pytest.mark.parametrize("path", ["/health/readiness", "/health/liveliness"])
def test_whether_it_is_well_is_told_to_everybody(path: str) -> None:
    assert ask(Exchange(pieces=[], headers=(), method="GET", path=path)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/Qwen/Qwen3-8B", "/metrics/"])
def test_what_is_read_needs_the_key_and_no_body(method: str, path: str) -> None:
    """LiteLLM would read the body of a GET whole before it looks at the key."""
    long = [b"x" * LIMIT] * 3
    assert ask(Exchange(pieces=long, headers=(), method=method, path=path)).status == 401
    done = ask(Exchange(pieces=long, method=method, path=path))
    assert (done.status, done.read, done.reached) == (200, 0, [b""])


def test_a_browser_may_ask_whether_it_may_ask() -> None:
    done = ask(Exchange(pieces=[b"x"], headers=(), method="OPTIONS"))
    assert (done.status, done.read, done.reached) == (200, 0, [b""])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/openapi.json"),
        ("GET", "/health"),
        ("GET", "/model/info"),
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/v1/models/smoke"),
        ("OPTIONS", "/key/generate"),
        ("POST", "/key/generate"),
        ("POST", "/vllm/pause"),
        ("POST", "/mcp-rest/test/connection"),
        ("POST", "/guardrails/test_custom_code"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/openai/deployments/smoke/chat/completions"),
    ],
)
def test_the_rest_of_litellm_is_not_served(method: str, path: str) -> None:
    done = ask(Exchange(pieces=[b"{}"], method=method, path=path))
    assert (done.status, done.read, done.reached) == (404, 0, [])
    assert f"does not serve {method} {path}" in done.error["message"]


@pytest.mark.parametrize("word", ["api_base", "api_key", "timeout", "num_retries", "fallbacks", "extra_body"])
def test_a_request_does_not_steer(word: str) -> None:
    done = ask(Exchange(pieces=[json.dumps({"model": "m", word: 1}).encode()]))
    assert (done.status, done.reached) == (400, [])
    assert done.error["message"] == f"`{word}` is set by the gateway and not allowed in a request"


def test_a_field_of_that_name_further_in_is_the_clients_own() -> None:
    assert ask(Exchange(pieces=[b'{"metadata": {"timeout": 1}, "tools": [{"api_base": "x"}]}'])).status == 200


def test_headers_that_steer_are_left_out_and_others_are_not() -> None:
    steering = [b"x-litellm-timeout", b"x-litellm-num-retries", b"x-litellm-disable-callbacks", b"x-litellm-tags"]
    plain = [b"x-litellm-api-key", b"anthropic-version", b"user-agent"]
    done = ask(Exchange(pieces=[b"{}"], headers=(BEARER, *((name, b"1") for name in [*steering, *plain]))))
    assert done.passed_on == [b"authorization", *plain]


def test_a_websocket_is_closed_at_once() -> None:
    answered: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        answered.append(message)

    async def app(*reached: object) -> None:
        raise AssertionError(reached)

    headers = [BEARER]
    scope: Message = {"type": "websocket", "path": "/v1/responses", "query_string": b"", "headers": headers}
    asyncio.run(Guard(app, LIMIT, lambda key: key == KEY)(scope, receive, send))
    assert answered == [{"type": "websocket.close", "code": 1008}]
