"""What a request must bring before anything is done for it: a path that is served, the right key, and a body that asks
and does not steer.

LiteLLM 1.105.3 has some hundred routes more than a model needs, and to whoever has the master key they are an
administrator's: some connect to addresses that a client names. It reads a whole body before it looks at the key, so a
caller without one could fill its memory; it limits the length only with a licence (proxy_server.py,
`is_request_size_limit_enabled`). It lets a request set its own timeout, retries and fallbacks, in fields and in
headers. A body of the wrong shape reaches an engine's code, or LiteLLM's, and comes back as 500. All of that is refused
here, with one sentence.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import orjson

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

WITHOUT_KEY = frozenset({"/health/readiness", "/health/liveliness", "/health/liveness"})

MODELS = frozenset({"/v1/models", "/models"})
METRICS = frozenset({"/metrics", "/metrics/"})
READ = MODELS | METRICS

ENDPOINTS = {
    f"{version}/{endpoint}": endpoint
    for endpoint, versions in {
        "chat/completions": ("", "/v1"),
        "completions": ("", "/v1"),
        "responses": ("", "/v1"),
        "messages": ("/v1",),
        "messages/count_tokens": ("/v1",),
        "embeddings": ("", "/v1"),
        "rerank": ("", "/v1", "/v2"),
        "audio/transcriptions": ("", "/v1"),
        "audio/translations": ("", "/v1"),
    }.items()
    for version in versions
}
"""Each path that is served, and the endpoint that it asks for."""

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
        *("model_group_retry_policy", "provider_specific_header", "ssl_verify", "routing_strategy"),
        *("litellm_credential_name", "prompt_id"),
        *("request_id", "kv_transfer_params"),
    }
)
"""Fields by which a request could choose another host, another model, or other limits than gateway.yaml has; the last
two are vLLM's, for another request's number and another engine's cache.
"""

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

DEFAULT_PRIORITY = 128
"""The middle of LiteLLM's 0 to 255; lower goes first."""

MOST_ASKED_BYTES = 1024
"""How long a list of headers a browser's question may have."""

OF_A_BODY = frozenset({b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"expect"})
"""Headers that tell of the body that came: what is sent on is another one."""

MOST_KEYS, MOST_QUERY_BYTES = 8, 4096
"""How many of the keys that a head may hold are looked at, and how far."""

MOST_DEPTH = 100
"""How deep lists and objects may be nested: as far as LiteLLM follows them (constants.py,
DEFAULT_MAX_RECURSE_DEPTH).
"""

MOST_BRACKETS, MOST_FIELDS, MOST_COMMAS = 250_000, 500_000, 2_000_000
"""How many lists and objects, named values and items a body may have, counted by their signs, in texts too: every
request waits while they are read, and a thread would hold the interpreter just as long (docs/explanation/gateway.md). A
million tokens of source code have 100,000 brackets; as numbers they have a million commas.
"""

_NAMES = {list: "a list", dict: "an object", str: "a text", bool: "true or false", int: "a number", float: "a number"}
_NESTED = (dict, list)
_TEXT, _LIST, _TRUTH, _WHOLE, _OBJECT = (str,), (list,), (bool,), (int,), (dict,)

SHAPES: dict[str, tuple[type, ...]] = {
    "stream": _TRUTH,
    "stream_options": _OBJECT,
    "tools": _LIST,
    "n": _WHOLE,
    "best_of": _WHOLE,
    "max_tokens": _WHOLE,
    "max_completion_tokens": _WHOLE,
    "max_output_tokens": _WHOLE,
    "temperature": (int, float),
    "top_p": (int, float),
    "response_format": _OBJECT,
    "logit_bias": _OBJECT,
}
"""The types of fields that mean the same at every endpoint; null always stands for an absent field."""


class RefusedError(Exception):
    """A request that goes no further: its status, its kind as OpenAI names it, and what is wrong in one sentence."""

    def __init__(self, status: int, kind: str, sentence: str, retry_after_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.kind, self.retry_after_s = status, kind, retry_after_s


def error_document(path: str, refused: RefusedError) -> bytes:
    """Return a refusal in the form of OpenAI's errors, or of Anthropic's where its endpoint is asked."""
    error = {"message": str(refused), "type": refused.kind, "param": None, "code": str(refused.status)}
    document: dict[str, object] = {"error": error}
    if ENDPOINTS.get(path, "").startswith("messages"):
        document = {"type": "error", **document}
    return orjson.dumps(document)


def bad_request(sentence: str) -> RefusedError:
    """Return the refusal of a request that is wrong in itself."""
    return RefusedError(400, "invalid_request_error", sentence)


def is_served(method: str, path: str) -> bool:
    """Return whether this is one of the requests that the gateway is there for."""
    if method == "POST":
        return path in ENDPOINTS
    if method == "OPTIONS":
        return path in ENDPOINTS or path in READ
    return method in ("GET", "HEAD") and (path in READ or path in WITHOUT_KEY or path.startswith("/v1/models/"))


def check_path(scope: Message) -> None:
    """Raise RefusedError 404 where the path, or the method there, is not served."""
    method, path = scope["method"], scope["path"]
    if not is_served(method, path):
        raise RefusedError(404, "invalid_request_error", f"the gateway does not serve {method} {path[:200]}")


def needs_key(scope: Message) -> bool:
    """Return whether a request needs a key. A browser asks with OPTIONS, without one, whether it may send one."""
    return scope["path"] not in WITHOUT_KEY and scope["method"] != "OPTIONS"


def preflight(scope: Message) -> dict[str, str]:
    """Return what a browser is told that asks whether a page may send a request, with which headers."""
    told = {"access-control-allow-methods": "GET, HEAD, OPTIONS, POST", "access-control-max-age": "600"}
    asked = header(scope, b"access-control-request-headers")
    return {**told, "access-control-allow-headers": asked} if len(asked) <= MOST_ASKED_BYTES else told


def keys_of(scope: Message) -> list[str]:
    """Return all that may be a key: the last word of each header that carries one, and Google's `?key=`."""
    keys = [value.decode("latin-1").rpartition(" ")[2] for name, value in scope["headers"] if name in KEY_HEADERS]
    query = scope["query_string"][:MOST_QUERY_BYTES]
    asked = parse_qs(query.decode("latin-1")).get("key", []) if query else []
    return [*keys, *asked][:MOST_KEYS]


async def read_body(scope: Message, receive: Receive, most_bytes: int, *, is_form: bool = False) -> bytes | None:
    """Return the whole body; None where the client leaves before its end. No more than the limit is ever kept.

    `is_form`: the endpoint is asked by a form.

    Raises:
        RefusedError: 415 for a form where none belongs or what is compressed, 413 for what is longer than `most_bytes`.
    """
    coding = header(scope, b"content-encoding").strip().lower()
    if coding not in ("", "identity"):
        sentence = f"the body is encoded as {coding[:32]!a}; allowed: none (Content-Encoding: identity)"
        raise RefusedError(415, "invalid_request_error", sentence)
    kind = header(scope, b"content-type").partition(";")[0].strip().lower()
    if kind in OTHER_THAN_JSON and not is_form:
        raise RefusedError(415, "invalid_request_error", f"the body is {kind}; allowed: application/json")
    announced = header(scope, b"content-length")
    _check_length(int(announced) if announced.isdecimal() else 0, most_bytes)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        _check_length(len(message.get("body", b"")), most_bytes)
        return bytes(message.get("body", b""))
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        _check_length(len(body), most_bytes)
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()
    return None


def _check_length(length_bytes: int, most_bytes: int) -> None:
    if length_bytes > most_bytes:
        sentence = f"the request has more than {most_bytes} bytes (GATEWAY_MAX_BODY_BYTES)"
        raise RefusedError(413, "invalid_request_error", sentence)


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the fields of a body. Nothing at all has none.

    Raises:
        RefusedError: 400 where the body is no JSON object, is nested too deeply, or steers.
    """
    if not body:
        return {}
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MOST_BRACKETS:
        raise bad_request(f"the body has more than {MOST_BRACKETS} lists and objects")
    for sign, most, what in ((b'":', MOST_FIELDS, "named values"), (b",", MOST_COMMAS, "items")):
        if len(body) > most and body.count(sign) > most:
            raise bad_request(f"the body has more than {most} {what}")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise bad_request(f"the body is {_NAMES.get(type(fields), 'null')}, not a JSON object")
    # Counting is quick; what has fewer brackets than that cannot be nested deeper.
    if brackets > MOST_DEPTH and _is_deep(fields):
        raise bad_request(f"the body is nested deeper than {MOST_DEPTH} levels")
    if steering := sorted(STEERING.intersection(fields)):
        raise bad_request(f"`{steering[0]}` is set by the gateway and not allowed in a request")
    return fields


def _is_deep(value: object) -> bool:
    """Look level by level: a function that calls itself would fail where LiteLLM's do."""
    level = [value] if type(value) in _NESTED else []
    for _ in range(MOST_DEPTH):
        if not level:
            return False
        children = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for some in children for child in some if type(child) in _NESTED]
    return bool(level)


def check_shape(endpoint: str, fields: Mapping[str, Any]) -> None:
    """Raise RefusedError 400 where a field has another type than its endpoint takes, or a needed one is missing."""
    own = _OF_FORMS if endpoint.startswith("audio/") else {}
    for name, types in {**SHAPES, **own}.items():
        value = fields.get(name)
        # True and False are numbers to Python, and to nobody else.
        if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and types is not _TRUTH)):
            raise _wrong(name, value, types)
    for name in ("n", "best_of"):
        if fields.get(name) is not None and fields[name] < 1:
            raise bad_request(f"`{name}` must be 1 or more")
    if fields.get("messages") is not None:
        for problem in _conversation("messages", fields):
            raise problem
    for problem in _PROBLEMS[endpoint](fields):
        raise problem


def _wrong(name: str, value: object, types: tuple[type, ...]) -> RefusedError:
    expected = " or ".join(dict.fromkeys(_NAMES[kind] for kind in types))
    return bad_request(f"`{name}` is {_NAMES.get(type(value), 'null')}; it must be {expected}")


def _conversation(name: str, fields: Mapping[str, Any]) -> Iterator[RefusedError]:
    messages = fields.get(name)
    if not isinstance(messages, list):
        yield _wrong(name, messages, _LIST)
        return
    if not messages:
        yield bad_request(f"`{name}` is empty; it must have at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            yield _wrong(f"{name}[{number}]", message, _OBJECT)
            return
        yield from _content(f"{name}[{number}].content", message.get("content"))


def _content(name: str, content: object) -> Iterator[RefusedError]:
    """A content is a text, or parts of one; an assistant's may be absent beside its calls of tools."""
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        yield _wrong(name, content, (str, list))
        return
    for number, part in enumerate(content):
        if not isinstance(part, dict | str):
            yield _wrong(f"{name}[{number}]", part, (dict, str))


def _chat(fields: Mapping[str, Any]) -> Iterator[RefusedError]:
    if fields.get("messages") is None:  # any other is looked at for every endpoint
        yield _wrong("messages", None, _LIST)
    for number, tool in enumerate(fields.get("tools") or ()):
        if not isinstance(tool, dict):
            yield _wrong(f"tools[{number}]", tool, _OBJECT)


def _one_of(name: str, *types: type) -> Callable[[Mapping[str, Any]], Iterator[RefusedError]]:
    def check(fields: Mapping[str, Any]) -> Iterator[RefusedError]:
        if not isinstance(fields.get(name), types):
            yield _wrong(name, fields.get(name), types)

    return check


def _responses(fields: Mapping[str, Any]) -> Iterator[RefusedError]:
    if isinstance(fields.get("input"), list):
        for number, item in enumerate(fields["input"]):
            if not isinstance(item, dict):
                yield _wrong(f"input[{number}]", item, _OBJECT)
    else:
        yield from _one_of("input", str, list)(fields)


def _rerank(fields: Mapping[str, Any]) -> Iterator[RefusedError]:
    for name, types in {"query": (str, dict), "documents": (list,)}.items():
        yield from _one_of(name, *types)(fields)


def _completions(fields: Mapping[str, Any]) -> Iterator[RefusedError]:
    if fields.get("prompt") is not None or "prompt_embeds" not in fields:
        yield from _one_of("prompt", str, list)(fields)


def _embeddings(fields: Mapping[str, Any]) -> Iterator[RefusedError]:
    if "messages" not in fields:
        yield from _one_of("input", str, list)(fields)
    # vLLM's own `bytes` and `bytes_only` answer with bytes and a header that no client of OpenAI's reads.
    if fields.get("encoding_format") not in (None, "float", "base64"):
        yield bad_request("`encoding_format` must be float or base64")


def _speech(fields: Mapping[str, Any]) -> Iterator[RefusedError]:
    if not getattr(fields.get("file"), "content", b""):
        yield bad_request("`file` is missing; it must be a sound")
    # What vLLM answers for the others is no text of that form, or an error (0.32.0, speech_to_text).
    if fields.get("response_format") not in (None, "json", "verbose_json"):
        yield bad_request("`response_format` must be json or verbose_json")
    for name in ("language", "prompt"):
        if not isinstance(fields.get(name, ""), str):
            yield bad_request(f"`{name}` is a file; it must be a text")


_OF_FORMS: dict[str, tuple[type, ...]] = {"response_format": _TEXT}
"""Where a form's field is of another type than JSON's of that name."""

_PROBLEMS: dict[str, Callable[[Mapping[str, Any]], Iterator[RefusedError]]] = {
    "chat/completions": _chat,
    "completions": _completions,
    "responses": _responses,
    "messages": _chat,
    "messages/count_tokens": _chat,
    "embeddings": _embeddings,
    "rerank": _rerank,
    "audio/transcriptions": _speech,
    "audio/translations": _speech,
}


def priority_of(fields: Mapping[str, Any]) -> int:
    """Return a request's place in the queue. Raises RefusedError 400."""
    priority = fields.get("priority")
    if priority is None:
        return DEFAULT_PRIORITY
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 255:
        raise bad_request("`priority` must be a whole number from 0, which is first, to 255")
    return int(priority)


def words_of(fields: Mapping[str, Any]) -> int:
    """Return how many words an input has: what is counted of it where no engine has told its tokens."""
    given = [fields.get(name) for name in ("messages", "prompt", "input")]
    words = 0
    while given:
        item = given.pop()
        if isinstance(item, str):
            words += len(item.split())
        elif isinstance(item, list):
            # Numbers are tokens.
            words += len(item) if item and isinstance(item[0], int) else 0
            words += sum(len(one.split()) for one in item if type(one) is str)
            given += [one for one in item if type(one) in _NESTED]
        elif isinstance(item, dict):
            given.append(item.get("content", item.get("text")))
    return words


def sequences_of(fields: Mapping[str, Any]) -> int:
    """Return how many texts the engine is asked to write at once: `n` for each of a completion's prompts."""
    number = max(fields.get("n") or 1, fields.get("best_of") or 1)
    prompt = fields.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return int(number) * prompts


def refuse_oversized(fields: Mapping[str, Any], most_tokens: int) -> None:
    """Raise RefusedError 400 where the input has surely more than `most_tokens`; 0 means no limit.

    A text has at least as many tokens as words: no tokenizer that splits at white space first, as those of today's
    models do, makes one token of two words. What lies between the words and the tokens the engine refuses, exactly.
    """
    if most_tokens and "truncate_prompt_tokens" not in fields:
        least = max(_least(fields.get(name), most_tokens) for name in ("messages", "prompt", "input"))
        if least > most_tokens:
            raise bad_request(
                f"the input has at least {least} tokens; this model takes {most_tokens} (GATEWAY_MAX_INPUT_TOKENS)"
            )


def _least(field: object, enough: int) -> int:
    """Return a number of tokens that `field` has at least; counts no further than just beyond `enough`."""
    if isinstance(field, str):
        return len(field.split(None, enough)) if len(field) // 2 >= enough else 0
    if not isinstance(field, list) or not field:
        return 0
    if isinstance(field[0], int):
        return len(field)
    if isinstance(field[0], dict):
        return sum(_least_of_part(part, enough) for part in field if isinstance(part, dict))
    return max(_least(item, enough) for item in field)  # several inputs, each by itself


def _least_of_part(part: Mapping[str, object], enough: int) -> int:
    """Count a message or a part of one. What the model said before is left out: templates drop its reasoning."""
    if part.get("role") == "assistant":
        return 0
    text = part.get("content", part.get("text"))
    return _least(text, enough)


def program_of(scope: Message) -> str:
    """Return the name of a client's program: a label of metrics, which must not be as many as there are versions, or as
    a client can make up.
    """
    name = header(scope, b"user-agent").partition("/")[0].partition(" ")[0][:32]
    if name in _programs or len(_programs) < MOST_PROGRAMS:
        _programs.add(name)
        return name
    return "other"


MOST_PROGRAMS = 64
_programs: set[str] = set()


def plain_scope(scope: Message) -> Message:
    """Return a request as LiteLLM may see it: without the headers by which it lets a client set timeouts, retries, tags
    and callbacks, and without the query, from which it takes a model before it takes the body's (1.108.0,
    proxy/common_utils/http_parsing_utils.py, `resolve_inference_model`).
    """
    headers = [
        (name, program_of(scope).encode("latin-1") if name == b"user-agent" else value)
        for name, value in scope["headers"]
        if name in KEY_HEADERS or not name.startswith(STEERING_HEADERS)
    ]
    return {**scope, "headers": headers, "query_string": b"", "raw_path": scope["path"].encode()}


def header(scope: Message, name: bytes) -> str:
    """Return the first header of a name, which is in lower case; an empty text where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
