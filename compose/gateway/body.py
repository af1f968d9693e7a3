"""What a request must bring: the right key, and a body that is not too long and a JSON object.

LiteLLM 1.105.3 reads a whole body before it looks at the key, so a caller without one could fill its memory; it
answers 500 to a list (proxy/auth/user_api_key_auth.py) and to what is nested deeper than Python recurses; it limits
the length only with a licence (proxy_server.py, `is_request_size_limit_enabled`). So this is our own: ASGI, around LiteLLM's
application; worker_start.py lays it there. Standard library only.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

KEY_HEADERS = frozenset(
    {b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key", b"x-litellm-api-key", b"ocp-apim-subscription-key"}
)
"""Where LiteLLM takes a key from (proxy/_types.py, SpecialHeaders)."""

OTHER_THAN_JSON = frozenset(
    {"application/x-www-form-urlencoded", "multipart/form-data", "application/x-protobuf", "application/protobuf"}
)
"""The types that LiteLLM does not read as JSON (proxy/common_utils/http_parsing_utils.py)."""

MOST_DEPTH = 100
"""How deep lists and objects may be nested: as far as LiteLLM follows them (constants.py, DEFAULT_MAX_RECURSE_DEPTH)."""


class RefusedError(Exception):
    """A request that does not reach LiteLLM: its status, and what is wrong in one sentence."""

    def __init__(self, status: int, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.kind = status, kind


class Guard:
    """Let through whoever has a key, with a body that LiteLLM can read."""

    def __init__(self, app: App, most_bytes: int, is_right: Callable[[str], bool]) -> None:
        self._app, self._most_bytes, self._is_right = app, most_bytes, is_right

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on with its body read."""
        if scope["type"] != "http" or scope["method"] not in METHODS_WITH_BODY:
            await self._app(scope, receive, send)
            return
        try:
            if not any(self._is_right(key) for key in _keys(scope)):
                raise RefusedError(401, "auth_error", "wrong or missing key")
            body = await self._read(scope, receive)
            if body is None:
                return
            if _header(scope, b"content-type").partition(";")[0].strip().lower() not in OTHER_THAN_JSON:
                check_json(body)
        except RefusedError as refused:
            await _answer(refused, send)
        else:
            await self._app(scope, _replay(body, receive), send)

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


def check_json(body: bytes) -> None:
    """Raise RefusedError 400 where the body is no JSON object, or one that is nested too deeply; nothing at all may pass."""
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
