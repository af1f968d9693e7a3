"""Ask the gateway, as a client would. Touches the network on this machine only."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from stackwright.domain.service import Service, Smoke
from stackwright.reading import read_text
from stackwright.runtime import Stack

# The first request after a start may compile kernels; the engine's own clients wait this long.
ANSWER_TIMEOUT_S = 300
# What needs no engine: LiteLLM answers at once, unless its one worker is still busy starting.
REFUSAL_TIMEOUT_S = 30
COUNT_TIMEOUT_S = 3
# LiteLLM 1.108.0, integrations/prometheus.py; with several workers one line for each.
_IN_FLIGHT = re.compile(rb"^litellm_in_flight_requests(?:\{[^}\n]*\})? ([0-9.e+]+)$", re.MULTILINE)
MOST_BYTES = 2**20
# Samples a second of the sound that a speech model is asked about, and what stands between the parts of its form.
_RATE, _MARK = 16_000, "stackwright-asks-what-is-said"
WRONG_KEY = "sk-stackwright-asks-with-a-wrong-key"
REFUSED = frozenset({401, 403})


class Answer(Struct, frozen=True, kw_only=True):
    """What came back: `status` None when nothing of use did, `text` the completion or the error's words.

    `final`: asking again cannot change it.
    """

    status: int | None
    text: str
    final: bool = False

    @property
    def ok(self) -> bool:
        """Whether the answer is what was hoped for."""
        return self.status == 200


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where a client on this machine finds the gateway, and the one certificate that it may show; None without TLS."""

    bind: str
    port: int
    certificate: Path | None = None

    @property
    def url(self) -> str:
        """The gateway's address; 0.0.0.0 listens everywhere, loopback included."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{'127.0.0.1' if self.bind == '0.0.0.0' else self.bind}:{self.port}"


def endpoint_of(stack: Stack) -> Endpoint:
    """Return where clients of this machine ask a stack."""
    bind, port = map(stack.value, stack.access.address)
    return Endpoint(bind=bind, port=int(port), certificate=stack.certificate)


def complete(endpoint: Endpoint, key: str, model: str, within_s: int = ANSWER_TIMEOUT_S) -> Answer:
    """Ask `model` for a short chat completion, or a plain one where it has no chat template."""
    return _ask(endpoint, key, model, within_s, _completion, {})


def stream(endpoint: Endpoint, key: str, model: str, within_s: int = ANSWER_TIMEOUT_S) -> Answer:
    """Ask `model` for a completion piece by piece, and take it for one only where the stream ends as it should."""
    return _ask(endpoint, key, model, within_s, _streamed, {"stream": True})


def embed(endpoint: Endpoint, key: str, model: str, within_s: int = ANSWER_TIMEOUT_S) -> Answer:
    """Ask `model` for the vector of a word."""
    body: dict[str, object] = {"model": model, "input": "Hello"}
    return _request(endpoint, "/v1/embeddings", key, body, _embedding, within_s)


def rank(endpoint: Endpoint, key: str, model: str, within_s: int = ANSWER_TIMEOUT_S) -> Answer:
    """Ask `model` which of two texts fits a question."""
    body: dict[str, object] = {"model": model, "query": "Hello?", "documents": ["Hello", "Goodbye"]}
    return _request(endpoint, "/v1/rerank", key, body, _ranking, within_s)


def transcribe(endpoint: Endpoint, key: str, model: str, within_s: int = ANSWER_TIMEOUT_S) -> Answer:
    """Ask `model` what is said in a second of silence."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(bytes(2 * _RATE))
    texts = {"model": model, "language": "en", "response_format": "json"}
    head = f"--{_MARK}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{text}' for name, text in texts.items()]
    parts.append(f'{head}"file"; filename="silence.wav"\r\n\r\n')
    form = "\r\n".join(parts).encode() + sound.getvalue() + f"\r\n--{_MARK}--\r\n".encode()
    kind = f"multipart/form-data; boundary={_MARK}"
    return _answer(lambda: _send(endpoint, "/v1/audio/transcriptions", key, (kind, form), within_s), _transcript)


def refuse_wrong_key(endpoint: Endpoint, model: str) -> Answer:
    """Ask with a wrong key; the answer is good where the gateway refuses it."""
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1}
    answer = _request(endpoint, "/v1/chat/completions", WRONG_KEY, body, _completion, REFUSAL_TIMEOUT_S)
    if answer.status in REFUSED:
        return Answer(status=200, text="refused")
    if answer.ok:
        return Answer(status=None, text="let it in", final=True)
    return Answer(status=answer.status, text=answer.text)


def list_models(endpoint: Endpoint, key: str, models: tuple[str, ...]) -> Answer:
    """Ask for the list of models; the answer is good where each of `models` is in it."""

    def listed(status: int, body: bytes) -> Answer:
        try:
            names = {str(entry["id"]) for entry in json.loads(body)["data"]}
        except (ValueError, LookupError, TypeError, RecursionError):
            return _no("a reply that is not a list of models", body)
        missing = ", ".join(name for name in models if name not in names)
        return Answer(status=None, text=f"does not list {missing}", final=True) if missing else _yes(status)

    return _request(endpoint, "/v1/models", key, None, listed, REFUSAL_TIMEOUT_S)


def ask_smoke(stack: Stack, service: Service, smoke: Smoke) -> Answer:
    """Ask a service to show that it does its work."""

    def shown(status: int, body: bytes) -> Answer:
        return _yes(status) if smoke.holds.encode() in body else _no(f"an answer without `{smoke.holds}`", body)

    headers = {"Content-Type": "application/json"}
    if smoke.login is not None:
        text = read_text(stack.secrets / smoke.login.secret, encoding="ascii").strip()
        pair = base64.b64encode(f"{smoke.login.user}:{text}".encode()).decode()
        headers["Authorization"] = f"Bearer {text}" if smoke.login.user is None else f"Basic {pair}"
    request = urllib.request.Request(
        published_url(stack, service) + smoke.path,
        data=json.dumps(smoke.body).encode() if smoke.method == "POST" else None,
        headers=headers,
    )
    return _answer(lambda: _open(request, smoke.limit_s), shown)


def published_url(stack: Stack, service: Service) -> str:
    """Return where clients of this machine ask a service that publishes a port. Raises ValueError for any other."""
    return published_endpoint(stack, service).url


def published_endpoint(stack: Stack, service: Service) -> Endpoint:
    """Return where a service publishes its port. Raises ValueError for one that does not."""
    if service.published is None:
        raise ValueError(service.name)
    bind, port = map(stack.value, service.published)
    return Endpoint(bind=bind, port=int(port))


def count_open_requests(endpoint: Endpoint, key: str) -> int | None:
    """Return how many requests the gateway works on, as its metrics say; None where it does not tell.

    LiteLLM redirects from `/metrics`, which is not followed.
    """

    def counted(status: int, body: bytes) -> Answer:
        found = _IN_FLIGHT.findall(body)
        # This question is one of them.
        return _yes(status, str(max(round(sum(map(float, found))) - 1, 0))) if found else _no("no count", body)

    answer = _request(endpoint, "/metrics/", key, None, counted, COUNT_TIMEOUT_S)
    return int(answer.text) if answer.ok else None


Read = Callable[[int, bytes], Answer]


def _ask(endpoint: Endpoint, key: str, model: str, within_s: int, read: Read, further: dict[str, object]) -> Answer:
    chat = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, **further}
    answer = _request(endpoint, "/v1/chat/completions", key, chat, read, within_s)
    if answer.status == 400 and "chat template" in answer.text:
        plain = {"model": model, "prompt": "Hello", "max_tokens": 8, **further}
        answer = _request(endpoint, "/v1/completions", key, plain, read, within_s)
    return answer


def _request(
    endpoint: Endpoint, path: str, key: str, body: dict[str, object] | None, read: Read, timeout_s: float
) -> Answer:
    """Send one request, and read its answer."""
    return _answer(lambda: open_request(endpoint, path, key, body, timeout_s), read)


def _answer(send: Callable[[], Any], read: Read) -> Answer:
    try:
        with send() as response:
            return read(response.status, response.read(MOST_BYTES))
    except urllib.error.HTTPError as failure:
        # Our own key does not become right by being asked for again.
        return Answer(status=failure.code, text=_words(failure), final=failure.code in REFUSED)
    except (OSError, http.client.HTTPException) as failure:
        return Answer(status=None, text=str(failure) or type(failure).__name__)


def open_request(endpoint: Endpoint, path: str, key: str, body: dict[str, object] | None, timeout_s: float) -> Any:
    """Send one request, a GET without a body, else a POST; return the answer, whose body is yet to be read.

    Raises:
        OSError, http.client.HTTPException: there is none; urllib.error.HTTPError where it is a refusal.
    """
    given = None if body is None else ("application/json", json.dumps(body).encode())
    return _send(endpoint, path, key, given, timeout_s)


def _send(endpoint: Endpoint, path: str, key: str, body: tuple[str, bytes] | None, timeout_s: float) -> Any:
    """Send one request with a body of a kind."""
    kind, data = body or ("application/json", None)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
    return _open(urllib.request.Request(endpoint.url + path, data=data, headers=headers), timeout_s, *_tls(endpoint))


def _open(request: urllib.request.Request, timeout_s: float, *further: urllib.request.BaseHandler) -> Any:
    # A proxy from the environment must not be asked for an address of this machine.
    handlers = [urllib.request.ProxyHandler({}), _NoRedirect(), *further]
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)


def _tls(endpoint: Endpoint) -> Iterator[urllib.request.HTTPSHandler]:
    """Trust the gateway's own certificate and no other, whichever name it was made for: it is asked by its address."""
    if endpoint.certificate is not None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(endpoint.certificate)
        yield urllib.request.HTTPSHandler(context=context)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for an answer: the key is for this gateway alone."""

    def redirect_request(self, *_: object) -> None:
        """Ask nowhere else."""


def _words(refusal: urllib.error.HTTPError) -> str:
    try:
        return refusal.read(MOST_BYTES).decode(errors="replace")[:500]
    except (OSError, http.client.HTTPException):
        return "(cut off)"


def _completion(status: int, body: bytes) -> Answer:
    """Take the completion's text out of a reply. A 200 without one, such as a proxy's page, is no answer."""
    try:
        choice = json.loads(body)["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _no("a reply that is not a completion", body)
    # A model that thinks first may have come to no word of its answer yet.
    return _yes(status, str(text or ""))


def _embedding(status: int, body: bytes) -> Answer:
    """Take the length of the vector out of a reply."""
    try:
        vector = json.loads(body)["data"][0]["embedding"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _no("a reply that is not an embedding", body)
    return (
        _yes(status, f"an embedding of {len(vector)} numbers") if isinstance(vector, list) else _no("no vector", body)
    )


def _ranking(status: int, body: bytes) -> Answer:
    """Take the best text's place out of a reply."""
    try:
        results = json.loads(body)["results"]
        best = max(results, key=lambda result: float(result["relevance_score"]))["index"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _no("a reply that is not a ranking", body)
    return _yes(status, f"text {int(best) + 1} ranks first")


def _transcript(status: int, body: bytes) -> Answer:
    """Take the text out of a reply; silence has no words."""
    try:
        text = json.loads(body)["text"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _no("a reply that is not a transcript", body)
    return _yes(status, f"a transcript of {len(text)} characters") if isinstance(text, str) else _no("no text", body)


def _streamed(status: int, body: bytes) -> Answer:
    """Join the pieces of a stream of server-sent events, which `data: [DONE]` has to end."""
    events = [line[5:].strip() for line in body.decode(errors="replace").split("\n") if line.startswith("data:")]
    if not events or events[-1] != "[DONE]":
        return _no("a stream that ends early", body[-200:])
    try:
        pieces = [_piece(json.loads(event)) for event in events[:-1]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return _no("a stream that is not a completion", body)
    return _yes(status, "".join(pieces)) if pieces else _no("a stream without a completion", body)


def _piece(event: Any) -> str:
    """Return the text of one event; the last one may have no choice, only what was used."""
    if "error" in event:
        raise ValueError("an error instead of a chunk")
    choices = event["choices"]
    if not choices:
        return ""
    text = choices[0]["delta"].get("content") if "delta" in choices[0] else choices[0]["text"]
    return str(text or "")


def _yes(status: int, text: str = "") -> Answer:
    return Answer(status=status, text=text)


def _no(what: str, body: bytes) -> Answer:
    return Answer(status=None, text=f"{what}: {body[:200].decode(errors='replace')}")
