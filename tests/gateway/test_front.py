"""What the gateway refuses before LiteLLM reads it, around a real ASGI application that echoes what reaches it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from admission import (
    MOST_BRACKETS,
    MOST_COMMAS,
    MOST_DEPTH,
    MOST_FIELDS,
    MOST_PROGRAMS,
    App,
    Message,
    Receive,
    RefusedError,
    Send,
    check_shape,
    parse_body,
    program_of,
)
from front import Front
from keys import Keys, Limits
from models import Models

KEY = "sk-right"
BEARER = (b"authorization", b"Bearer sk-right")
LIMIT = 20_000
CLOUD = {"model_name": "m", "litellm_params": {"model": "openai/m"}, "model_info": {"id": "1"}}
CHAT = b'{"model":"m","messages":[{"role":"user","content":"Hi."}]}'


@dataclass
class Refusals:
    """The figures of a worker, of which only refusals are kept."""

    statuses: list[int] = field(default_factory=list)

    def count_refusal(self, status: int) -> None:
        """Note a refusal."""
        self.statuses.append(status)

    def count_failure(self, *_: object) -> None:
        """Nobody looks at these."""

    def note_open(self, _: int) -> None:
        """Nobody looks at these."""


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
    scopes: list[Message] = field(default_factory=list)
    answered: list[Message] = field(default_factory=list)
    counted: Refusals = field(default_factory=Refusals)

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.answered[0]["status"])

    @property
    def error(self) -> dict[str, Any]:
        """The error as clients read it."""
        return dict(json.loads(self.answered[1]["body"])["error"])


def ask(exchange: Exchange) -> Exchange:
    """Send one request through the layer."""
    pieces, ended = iter(exchange.pieces), iter([{"type": "http.request", "body": b""}])

    async def receive() -> Message:
        piece = next(pieces, None)
        if piece is None:
            if not exchange.leaves and (end := next(ended, None)) is not None:
                return end
            if not exchange.leaves:  # as a server does it: there is nothing more before the client is gone
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        exchange.read += 1
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: Message) -> None:
        exchange.answered.append(message)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        exchange.passed_on += [name for name, _ in scope["headers"]]
        exchange.scopes.append(scope)
        body, more = b"", True
        while more and (message := await receive())["type"] == "http.request":
            body, more = body + message["body"], message.get("more_body", False)
        exchange.reached.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    scope: Message = {"type": "http", "method": exchange.method, "path": exchange.path, "query_string": exchange.query}
    scope["headers"] = list(exchange.headers)
    with TemporaryDirectory() as folder:
        asyncio.run(make_front(app, Path(folder), figures=exchange.counted)(scope, receive, send))
    return exchange


@pytest.mark.parametrize(("headers", "statuses"), [((), [401]), ((BEARER,), [])])
def test_a_refusal_is_counted_whoever_sent_it(headers: tuple[tuple[bytes, bytes], ...], statuses: list[int]) -> None:
    done = ask(Exchange(pieces=[CHAT], headers=headers))
    assert done.counted.statuses == statuses


def make_front(
    app: App,
    folder: Path,
    hang_up: Callable[[object], None] = print,
    timeout_s: str = "60",
    figures: object | None = None,
) -> Front:
    """Return the layer around an application that stands where LiteLLM does, with one model of a cloud."""
    (folder / "master").write_text(KEY)
    environment = {
        "GATEWAY_MAX_BODY_BYTES": str(LIMIT),
        "REQUEST_TIMEOUT": timeout_s,
        "DEFAULT_COOLDOWN_TIME_SECONDS": "5",
        "GATEWAY_ROUTING_STRATEGY": "simple-shuffle",
    }
    router = SimpleNamespace(model_list=[CLOUD], model_group_alias={}, fallbacks=[], context_window_fallbacks=[])
    return Front(
        app,
        environment,
        keys=Keys(folder / "keys.json", folder / "master"),
        limits=Limits(folder),
        hang_up=hang_up,
        models=lambda: Models(router, ""),
        figures=lambda: figures,  # type: ignore[return-value,arg-type]
    )


def typed(kind: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a request whose body has this type."""
    return (BEARER, (b"content-type", kind))


def test_what_was_checked_reaches_litellm_and_nothing_else() -> None:
    """Of two fields of one name the last counts, for everybody behind as for the checks."""
    body = b' \n{"model": "other", "messages": [{"role": "user", "content": "\xc3\xa9\\ud83d\\ude00"}], "model": "m"}'
    done = ask(Exchange(pieces=[body[:3], body[3:]]))
    assert done.status == 200
    assert done.reached == ['{"model":"m","messages":[{"role":"user","content":"é😀"}]}'.encode()]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[]", "a list, not a JSON object"),
        (b'[{"model": "m"}]', "a list, not a JSON object"),
        (b'"text"', "a text, not a JSON object"),
        (b"1", "a number, not a JSON object"),
        (b"true", "true or false, not a JSON object"),
        (b"null", "null, not a JSON object"),
        (b'{"model": "m"', "not JSON: "),
        (b"{'model': 'm'}", "not JSON: "),
        (b'{"model": "\xff"}', "not JSON: "),
        ('{"model": "m"}'.encode("utf-16"), "not JSON: "),
        (b'{"a":' * (MOST_DEPTH + 1) + b"1" + b"}" * (MOST_DEPTH + 1), f"deeper than {MOST_DEPTH} levels"),
    ],
)
def test_what_is_no_json_object_is_answered_400(body: bytes, words: str) -> None:
    done = ask(Exchange(pieces=[body]))
    assert (done.status, done.reached) == (400, [])
    assert words in done.error["message"]
    assert (done.error["type"], done.error["code"]) == ("invalid_request_error", "400")


def test_lists_without_number_are_not_read() -> None:
    """Each costs many times its two bytes, and every other request waits meanwhile."""
    with pytest.raises(RefusedError, match=f"more than {MOST_BRACKETS} lists and objects"):
        parse_body(b'{"a":[' + b"[]," * MOST_BRACKETS + b"1]}")
    with pytest.raises(RefusedError, match=f"more than {MOST_FIELDS} named values"):
        parse_body(b'{"a":1' + b',"a":1' * MOST_FIELDS + b"}")
    with pytest.raises(RefusedError, match=f"more than {MOST_COMMAS} items"):
        parse_body(b'{"a":[1' + b",1" * (MOST_COMMAS + 1) + b"]}")


def test_depth_is_counted_not_brackets() -> None:
    """As deep as allowed passes, and so do many brackets beside each other."""
    deepest = CHAT[:-1] + b',"a":' + b"[" * (MOST_DEPTH - 1) + b"]" * (MOST_DEPTH - 1) + b"}"
    beside = CHAT[:-1] + b',"a": [' + b"[]," * 200 + b"{}]}"
    assert [ask(Exchange(pieces=[body])).status for body in (deepest, beside)] == [200, 200]


def test_what_nobody_could_recurse_through_is_answered_400() -> None:
    """The reader gives up on it: that is no fault of the gateway either."""
    half = LIMIT // 2
    done = ask(Exchange(pieces=[b"[" * half + b"]" * half]))
    assert (done.status, done.reached) == (400, [])
    assert "not JSON" in done.error["message"]


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
    assert ask(Exchange(pieces=[CHAT], headers=headers, query=query)).status == 200


def test_an_announced_length_beyond_the_limit_is_answered_413_before_it_is_read() -> None:
    """What comes all the same is thrown away, piece by piece."""
    done = ask(Exchange(pieces=[b"{}"], headers=(BEARER, (b"content-length", str(LIMIT + 1).encode()))))
    assert (done.status, done.reached) == (413, [])
    assert [message.get("more_body") for message in done.answered] == [None, True, False]
    assert f"more than {LIMIT} bytes (GATEWAY_MAX_BODY_BYTES)" in done.error["message"]


def test_a_length_that_is_not_announced_is_counted_while_it_comes() -> None:
    """Chunked: nothing says how long it will be; what is beyond the limit is not read."""
    done = ask(Exchange(pieces=[b"x" * 6000] * 1000))
    assert (done.status, done.read, done.reached) == (413, 4, [])


def test_the_limit_itself_passes() -> None:
    body = CHAT[:-1] + b',"a": "' + b"x" * (LIMIT - len(CHAT) - 8) + b'"}'
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


@pytest.mark.parametrize("path", ["/health/readiness", "/health/liveliness", "/health/liveness"])
def test_whether_it_is_well_is_told_to_everybody(path: str) -> None:
    """And costs no more than a refusal: LiteLLM is not asked."""
    done = ask(Exchange(pieces=[b"x"], headers=(), method="GET", path=path))
    assert (done.status, done.read, done.reached) == (200, 0, [])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/metrics/"])
def test_what_is_read_needs_the_key_and_no_body(method: str, path: str) -> None:
    """LiteLLM would read the body of a GET whole before it looks at the key."""
    long = [b"x" * LIMIT] * 3
    assert ask(Exchange(pieces=long, headers=(), method=method, path=path)).status == 401
    done = ask(Exchange(pieces=long, method=method, path=path))
    assert (done.status, done.read, done.reached) == (200, 0, [b""] if "metrics" in path else [])


def test_a_browser_may_ask_whether_it_may_ask() -> None:
    """Nobody else is asked for it, and no more is told back than a browser asks for."""
    asked = (b"access-control-request-headers", b"authorization,content-type")
    for question, allowed in ((asked, {asked[1]}), ((asked[0], b"x" * 2000), set())):
        headers = ((b"origin", b"https://page"), question)
        done = ask(Exchange(pieces=[b"x"], headers=headers, method="OPTIONS"))
        told = dict(done.answered[0]["headers"])
        assert (done.status, done.read, done.reached) == (200, 0, [])
        assert (told[b"access-control-allow-origin"], told[b"content-length"]) == (b"*", b"0")
        assert {told[name] for name in told if name == b"access-control-allow-headers"} == allowed


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
    further = b',"metadata": {"timeout": 1}, "tools": [{"api_base": "x"}]}'
    assert ask(Exchange(pieces=[CHAT[:-1] + further])).status == 200


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("chat/completions", {"messages": "hi"}, "`messages` is a text; it must be a list"),
        ("chat/completions", {}, "`messages` is null; it must be a list"),
        ("chat/completions", {"messages": []}, "`messages` is empty"),
        ("chat/completions", {"messages": [1]}, "`messages[0]` is a number; it must be an object"),
        ("chat/completions", {"messages": [{"role": "user", "content": 1}]}, "`messages[0].content` is a number"),
        ("chat/completions", {"messages": [{"role": "user", "content": [1]}]}, "`messages[0].content[0]` is a number"),
        ("messages", {"messages": [{"role": "user", "content": "Hi."}], "tools": [1]}, "`tools[0]` is a number"),
        ("completions", {"prompt": 1}, "`prompt` is a number; it must be a text or a list"),
        ("completions", {"prompt": "Hi.", "stream": "yes"}, "`stream` is a text; it must be true or false"),
        ("completions", {"prompt": "Hi.", "n": True}, "`n` is true or false; it must be a number"),
        ("completions", {"prompt": "Hi.", "n": 0}, "`n` must be 1 or more"),
        ("responses", {"input": [1]}, "`input[0]` is a number; it must be an object"),
        ("responses", {}, "`input` is null; it must be a text or a list"),
    ],
)
def test_a_field_of_another_type_is_answered_400(path: str, fields: dict[str, object], words: str) -> None:
    done = ask(Exchange(pieces=[json.dumps({"model": "m", **fields}).encode()], path=f"/v1/{path}"))
    assert (done.status, done.reached) == (400, [])
    assert words in done.error["message"]


@pytest.mark.parametrize("kind", ["bytes", "bytes_only", ["float"], 1])
def test_vectors_are_answered_in_json(kind: object) -> None:
    """An engine's own bytes would be no JSON: a fault of the engine, at each of its replicas."""
    with pytest.raises(RefusedError, match="`encoding_format` must be float or base64"):
        check_shape("embeddings", {"input": "a", "encoding_format": kind})
    for known in ("float", "base64", None):
        check_shape("embeddings", {"input": "a", "encoding_format": known})


@pytest.mark.parametrize("name", ["nobody", "m,m", "openai/m", "M", "*", "", None, ["m"]])
def test_a_model_is_named_exactly(name: object) -> None:
    """LiteLLM would take several at once, a provider's, or a deployment's number."""
    done = ask(Exchange(pieces=[json.dumps({"model": name, "messages": [{}]}).encode()]))
    assert (done.status, done.reached) == (400, [])
    assert "GET /v1/models lists the models" in done.error["message"]


def test_a_model_is_asked_for_what_it_is_served_for() -> None:
    done = ask(Exchange(pieces=[b'{"model": "m", "input": "words"}'], path="/v1/embeddings"))
    assert (done.status, done.error["message"]) == (400, "`m` is served for chat, not for embedding")


@pytest.mark.parametrize("priority", [-1, 256, True, "first", 1.5])
def test_a_priority_is_one_of_litellms(priority: object) -> None:
    fields = {"model": "m", "messages": [{"role": "user", "content": "Hi."}], "priority": priority}
    done = ask(Exchange(pieces=[json.dumps(fields).encode()]))
    assert (done.status, done.reached) == (400, [])
    assert "`priority` must be a whole number" in done.error["message"]


def test_messages_are_looked_at_wherever_they_stand() -> None:
    done = ask(Exchange(pieces=[b'{"model": "m", "prompt": "Hi.", "messages": [1]}'], path="/v1/completions"))
    assert (done.status, done.error["message"]) == (400, "`messages[0]` is a number; it must be an object")


def test_headers_that_steer_are_left_out_and_others_are_not() -> None:
    steering = [b"x-litellm-timeout", b"x-litellm-num-retries", b"x-litellm-disable-callbacks", b"x-litellm-tags"]
    plain = [b"x-litellm-api-key", b"anthropic-version", b"user-agent"]
    done = ask(Exchange(pieces=[CHAT], headers=(BEARER, *((name, b"1") for name in [*steering, *plain]))))
    assert done.passed_on == [b"authorization", *plain, b"content-type", b"content-length"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/metrics/")])
def test_litellm_sees_no_query_and_no_other_path(method: str, path: str) -> None:
    """It takes a model and a version of an API from a query, before those of the body."""
    done = ask(Exchange(pieces=[CHAT], method=method, path=path, query=b"model=other&key=sk-right&api-version=1"))
    (scope,) = done.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, path.encode(), b"")


def test_litellm_is_told_of_the_body_that_it_gets() -> None:
    """The one that was checked: nobody reads it as a form, or as what came before."""
    told = [
        *((b"content-type", b"text/plain"), (b"content-type", b"multipart/form-data; boundary=x")),
        *((b"transfer-encoding", b"chunked"), (b"content-encoding", b"identity"), (b"expect", b"100-continue")),
    ]
    done = ask(Exchange(pieces=[CHAT + b" "], headers=(BEARER, *told)))
    (scope,) = done.scopes
    length = str(len(CHAT)).encode()
    assert scope["headers"] == [BEARER, (b"content-type", b"application/json"), (b"content-length", length)]


@pytest.mark.parametrize("coding", [b"gzip", b"GZIP, br", b"zstd"])
def test_compressed_bodies_are_not_served(coding: bytes) -> None:
    """Few bytes could become many."""
    done = ask(Exchange(pieces=[b"\x1f\x8b"], headers=(BEARER, (b"content-encoding", coding))))
    assert (done.status, done.read, done.reached) == (415, 0, [])
    assert "encoded as" in done.error["message"]


def test_programs_are_as_many_as_a_page_of_metrics_bears() -> None:
    """Each name is kept for as long as the gateway runs, and a client may make names up."""
    named = {program_of({"headers": [(b"user-agent", b"program-%d/1.0" % number)]}) for number in range(10_000)}
    assert len(named) <= MOST_PROGRAMS + 1
    assert "other" in named


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": -Infinity}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}]} {"model": "other"}',
        b'\xef\xbb\xbf{"model": "m", "messages": [{"role": "user", "content": "x"}]}',
    ],
    ids=["NaN", "infinity", "too large a number", "half a pair", "two bodies", "byte order mark"],
)
def test_what_readers_of_json_disagree_about_is_refused(body: bytes) -> None:
    done = ask(Exchange(pieces=[body]))
    assert (done.status, done.reached) == (400, [])


def test_a_name_in_any_script_is_told_as_it_was_written() -> None:
    done = ask(Exchange(pieces=['{"model": "模型\u202e\\u0000", "messages": [{}]}'.encode()]))
    assert (done.status, done.reached) == (400, [])
    assert "模型" in done.error["message"]


def test_the_key_that_counts_is_the_right_one_wherever_it_stands() -> None:
    """Of two of one name, too; beyond the eighth none is looked at."""
    wrong = (b"authorization", b"Bearer wrong")
    assert ask(Exchange(pieces=[CHAT], headers=(wrong, BEARER))).status == 200
    assert ask(Exchange(pieces=[CHAT], headers=(*[wrong] * 8, BEARER))).status == 401


def test_a_key_that_names_another_is_refused_unread() -> None:
    done = ask(Exchange(pieces=[CHAT], headers=(BEARER, (b"x-stackwright-for", b"anna"))))
    assert (done.status, done.read, done.error["type"]) == (403, 0, "permission_error")
    assert done.error["message"] == "the key `master` may not ask in the name of another"


def test_a_websocket_is_closed_at_once() -> None:
    answered: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        answered.append(message)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        raise AssertionError(scope, receive, send)

    headers = [BEARER]
    scope: Message = {"type": "websocket", "path": "/v1/responses", "query_string": b"", "headers": headers}
    with TemporaryDirectory() as folder:
        asyncio.run(make_front(app, Path(folder))(scope, receive, send))
    assert answered == [{"type": "websocket.close", "code": 1008}]


def test_a_client_that_reads_nothing_is_hung_up_on(tmp_path: Path) -> None:
    """Its answer waits for it; after the time limit the connection is ended, and with it the request."""
    ended: list[object] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def serve() -> None:
        gone = asyncio.Event()
        pieces = iter([{"type": "http.request", "body": CHAT, "more_body": False}])

        async def receive() -> Message:
            piece = next(pieces, None)
            if piece is not None:
                return piece
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":  # the server waits until the client reads, or is gone
                await gone.wait()

        def hang_up(client: object) -> None:
            ended.append(client)
            gone.set()

        scope: Message = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b""}
        scope.update({"headers": [BEARER], "client": ("127.0.0.1", 1)})
        await make_front(app, tmp_path, hang_up, "0.05")(scope, receive, send)

    asyncio.run(serve())
    assert ended == [("127.0.0.1", 1)]
