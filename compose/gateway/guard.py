"""What a request must bring before LiteLLM sees it: a path that is served, the right key, and a body that asks and does
not steer.

LiteLLM 1.105.3 has some hundred routes more than a model needs, and to whoever has the master key they are an
administrator's: some connect to addresses that a client names. It reads a whole body before it looks at the key, so a
caller without one could fill its memory; it answers 500 to a list (proxy/auth/user_api_key_auth.py) and to what is
nested deeper than Python recurses; it limits the length only with a licence (proxy_server.py,
`is_request_size_limit_enabled`). It lets a request set its own timeout, retries and fallbacks, in fields and in
headers. So this is our own: ASGI, around LiteLLM's application; worker_start.py lays it there. Standard library only.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

WITHOUT_KEY = frozenset({"/health/readiness", "/health/liveliness", "/health/liveness"})

READ = frozenset({"/v1/models", "/models", "/metrics", "/metrics/"})

ASKED = frozenset(
    f"{version}/{what}"
    for what, versions in {
        "chat/completions": ("", "/v1"),
        "completions": ("", "/v1"),
        "responses": ("", "/v1"),
        "messages": ("/v1",),
        "messages/count_tokens": ("/v1",),
        "embeddings": ("", "/v1"),
        "rerank": ("", "/v1", "/v2"),
    }.items()
    for version in versions
)

STEERING = frozenset(
    {
        *("api_base", "base_url", "api_key", "api_version", "custom_llm_provider", "organization"),
        *("user_config", "model_list", "deployment_id", "specific_deployment"),
        *("extra_body", "extra_headers", "headers"),
        *("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "disable_fallbacks"),
        *("timeout", "request_timeout", "stream_timeout", "num_retries", "max_retries", "cooldown_time"),
        *("mock_response", "mock_tool_calls", "mock_timeout", "mock_delay", "mock_testing_fallbacks"),
        *("mock_testing_context_fallbacks", "mock_testing_content_policy_fallbacks", "mock_testing_rate_limit_error"),
        *("input_cost_per_token", "output_cost_per_token", "litellm_metadata", "litellm_params", "workspace_id"),
    }
)
"""Fields by which LiteLLM lets a request choose another host, another model, or other limits than gateway.yaml has."""

STEERING_HEADERS = b"x-litellm-"

KEY_HEADERS = frozenset(
    {b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key", b"x-litellm-api-key", b"ocp-apim-subscription-key"}
)
"""Where LiteLLM takes a key from (proxy/_types.py, SpecialHeaders)."""

OTHER_THAN_JSON = frozenset(
    {"application/x-www-form-urlencoded", "multipart/form-data", "application/x-protobuf", "application/protobuf"}
)
"""The types that LiteLLM reads as something else (proxy/common_utils/http_parsing_utils.py): its fields would go
unseen.
"""

MOST_DEPTH = 100
"""How deep lists and objects may be nested: as far as LiteLLM follows them (constants.py,
DEFAULT_MAX_RECURSE_DEPTH).
"""


class RefusedError(Exception):
    """A request that does not reach LiteLLM: its status, and what is wrong in one sentence."""

    def __init__(self, status: int, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.kind = status, kind


class Guard:
    """Let through whoever has a key, asks for what is served, and leaves to the gateway what is the gateway's."""

    def __init__(self, app: App, most_bytes: int, is_right: Callable[[str], bool]) -> None:
        self._app, self._most_bytes, self._is_right = app, most_bytes, is_right

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on with its body read."""
        if scope["type"] == "websocket":
            # LiteLLM's realtime API: the engines have none, and the door could not see when one ends.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._admit(scope, receive)
        except RefusedError as refused:
            await _answer(refused, send)
        else:
            if body is not None:
                await self._app({**scope, "headers": _plain_headers(scope)}, _replay(body, receive), send)

    async def _admit(self, scope: Message, receive: Receive) -> bytes | None:
        """Return the body that LiteLLM may read, empty where none is asked for; None where the client has left."""
        method, path = scope["method"], scope["path"]
        if not is_served(method, path):
            raise RefusedError(404, "invalid_request_error", f"the gateway does not serve {method} {path[:200]}")
        # A browser asks with OPTIONS, without a key, whether it may send one.
        if path in WITHOUT_KEY or method == "OPTIONS":
            return b""
        if not any(self._is_right(key) for key in _keys(scope)):
            raise RefusedError(401, "auth_error", "wrong or missing key")
        if method != "POST":
            return b""
        kind = _header(scope, b"content-type").partition(";")[0].strip().lower()
        if kind in OTHER_THAN_JSON:
            raise RefusedError(415, "invalid_request_error", f"the body is {kind}; allowed: application/json")
        body = await self._read(scope, receive)
        if body is not None:
            check_body(body)
        return body

    async def _read(self, scope: Message, receive: Receive) -> bytes | None:
        """Return the whole body; None where the client leaves before its end. No more than the limit is ever kept."""
        announced = _header(scope, b"content-length")
        self._check_length(int(announced) if announced.isdecimal() else 0)
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check_length(len(body))
            more = message.get("more_body", False)
        return bytes(body)

    def _check_length(self, length_bytes: int) -> None:
        if length_bytes > self._most_bytes:
            sentence = f"the request has more than {self._most_bytes} bytes (GATEWAY_MAX_BODY_BYTES)"
            raise RefusedError(413, "invalid_request_error", sentence)


def is_served(method: str, path: str) -> bool:
    """Say whether this is one of the requests that the gateway is there for."""
    if method == "POST":
        return path in ASKED
    if method == "OPTIONS":
        return path in ASKED or path in READ
    return method in ("GET", "HEAD") and (path in READ or path in WITHOUT_KEY or path.startswith("/v1/models/"))


def check_body(body: bytes) -> None:
    """Raise RefusedError 400 where the body is no JSON object, is nested too deeply, or steers; nothing at all may
    pass.
    """
    if not body:
        return
    try:
        value = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "invalid_request_error", f"the body is not JSON: {_why(error)}") from error
    if not isinstance(value, dict):
        raise RefusedError(400, "invalid_request_error", f"the body is {_kind(value)}, not a JSON object")
    # Counting is quick; what has fewer brackets than that cannot be nested deeper.
    if body.count(b"{") + body.count(b"[") > MOST_DEPTH and _is_deep(value):
        raise RefusedError(400, "invalid_request_error", f"the body is nested deeper than {MOST_DEPTH} levels")
    if steering := sorted(STEERING.intersection(value)):
        raise RefusedError(
            400, "invalid_request_error", f"`{steering[0]}` is set by the gateway and not allowed in a request"
        )


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {MOST_DEPTH} levels"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _is_deep(value: object) -> bool:
    """Look level by level: a function that calls itself would fail where LiteLLM's do."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [child for each in inner for child in (each.values() if isinstance(each, dict) else each)]
        if not inner:
            return False
    return True


def _keys(scope: Message) -> list[str]:
    """Return all that may be a key: the last word of each header that carries one, and Google's `?key=`."""
    carried = [value.decode("latin-1") for name, value in scope["headers"] if name in KEY_HEADERS]
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("key", [])
    return [*(value.rpartition(" ")[2] for value in carried), *asked]


def _plain_headers(scope: Message) -> list[tuple[bytes, bytes]]:
    """Return the headers without those by which LiteLLM lets a client set timeouts, retries, tags and callbacks."""
    return [
        (name, value)
        for name, value in scope["headers"]
        if name in KEY_HEADERS or not name.startswith(STEERING_HEADERS)
    ]


def _header(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once, then whatever comes after it."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return unread.pop() if unread else await receive()

    return next_message


async def _answer(refused: RefusedError, send: Send) -> None:
    """Answer in the form of OpenAI's errors, as LiteLLM does."""
    error = {"message": str(refused), "type": refused.kind, "param": None, "code": str(refused.status)}
    content = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
