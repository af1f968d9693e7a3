"""The direct lane: a request for a model of this stack goes to its engine, whose bytes come back as they are.

LiteLLM 1.105.3 takes 9 ms of a processor for a request, and 0.6 ms for each event of a stream
(docs/explanation/gateway.md); an engine of ours needs no translation. What LiteLLM's configuration says of a model
(replicas, aliases, fallbacks) holds here too: models.py reads it. Here a replica is chosen, asked, and replaced where
it fails before its first byte.
"""

import asyncio
import contextlib
import hashlib
import math
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import orjson
from forms import FORM_TYPE, FORMS, encode_form

ATTEMPTS = 3
"""The first and two more, as gateway.yaml has LiteLLM retry; more only while there are replicas that were not asked."""

MOST_BREAKS = 2
"""How many replicas one request may break the connection of: it may be what they die of."""

PAUSE_S = 0.5
"""Before a replica is asked again; twice as long the next time. LiteLLM's own first pause (constants.py)."""

SPREAD = 1.25
"""How far above the mean a replica may be loaded before a request goes to the next one: consistent hashing with bounded
loads (Mirrokni, Thorup, Zadimoghaddam 2016), with the bound that its authors measured with.
"""

PREFIX_CHARACTERS = 4096
UNREACHABLE = "the engine cannot be reached"
CUT = "the connection to the engine broke"
MALFORMED = "the engine's answer is malformed"
CONNECT_S = 5.0
SILENT_S = 10.0
"""An engine with an open stream that has told nothing for so long gets no further requests while there are others: it
hangs, or reads a long prompt. One that then breaks off was hung: its heartbeat has ended it.
"""

ENDS_WITHIN_S = 1.0
"""A stream, after the mark of its end."""

MOST_EVENT_BYTES = 32 * 2**20
"""No event of a stream is longer; what is would be heaped up without an end."""

MOST_TOKENS = 2**40
"""An engine that tells more does not count tokens."""

CONSTRAINTS = frozenset(
    {
        *("response_format", "structured_outputs", "structural_tag", "text", "output_config", "tools", "tool_choice"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend"),
    }
)
"""The fields by which a client binds an answer to a schema, a grammar or its tools, in any form and of any release."""

LEAST_BUSY = "least-busy"
WITH_PREFIXES = frozenset({"chat/completions", "completions", "responses", "messages"})
"""Where an engine keeps what it has read of a prompt; vectors and scores are computed anew each time."""

WITH_USAGE = frozenset({"chat/completions", "completions"})
"""Where a stream tells its tokens only if it is asked to."""

EVENT = b"\n\n"
DONE = b"[DONE]" + EVENT
_ENDS = re.compile(rb"(?:^|\n)data: ?\[DONE\]\n?$")
"""A stream whose last line is the mark of its end, without the blank line behind it."""

_USAGE = b'"usage":'


class Replica:
    """One engine that serves a model: its address, and how it does."""

    def __init__(self, number: str, base: str, key: str) -> None:
        self.number, self.base, self.key = number, base.rstrip("/").removesuffix("/v1"), key
        self.open, self._streams, self.hangs = 0, 0, 0
        self.well = True
        self.hung_at_s = 0.0
        self._heard_s, self._counted_s = 0.0, -1.0
        self._failed_at = -math.inf
        self._rests_until = -math.inf

    def is_usable(self) -> bool:
        """Return whether it is well and has not failed twice of late."""
        return self.well and time.monotonic() >= self._rests_until

    @property
    def address(self) -> str:
        """Its host and port."""
        return self.base.partition("://")[2].partition("/")[0]

    def begin(self, *, is_stream: bool) -> None:
        """Count a request that it works on now."""
        self.open += 1
        if is_stream:
            self._heard_s = self._heard_s if self._streams else time.monotonic()
            self._streams += 1

    def end(self, *, is_stream: bool) -> None:
        """Count one less."""
        self.open -= 1
        self._streams -= is_stream

    def note_byte(self) -> None:
        """It has told a part of an answer. A stream's head is none: vLLM's server sends it while its core hangs."""
        self._heard_s = time.monotonic()

    def silent_s(self) -> float:
        """Return for how long it has told nothing while a stream is open, which should have events; else 0."""
        return time.monotonic() - self._heard_s if self._streams else 0.0

    def note_break(self) -> None:
        """It broke off; count a hang, once, where it had been silent for long before."""
        if self.silent_s() >= SILENT_S and self._counted_s != self._heard_s:
            self._counted_s = self._heard_s
            self.hangs += 1
            self.hung_at_s = time.time() - self.silent_s()

    def note_failure(self, cooldown_s: float) -> None:
        """The second failure within the cooldown takes it out for as long."""
        now = time.monotonic()
        if now - self._failed_at < cooldown_s:
            self._rests_until = now + cooldown_s
        self._failed_at = now

    def note_success(self) -> None:
        """Forget its failures."""
        self._failed_at = self._rests_until = -math.inf


@dataclass(slots=True)
class Answered:
    """What an answer has told so far: tokens, and the moments of its first and last byte by the monotonic clock."""

    replica: Replica | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queued_s: float = 0.0
    asked_s: float = 0.0
    first_s: float = 0.0
    events: int = 0
    is_broken: bool = False

    def read_usage(self, document: Any) -> None:
        """Take the tokens of an answer or of an event, in OpenAI's form or in Anthropic's."""
        for part in (document, document.get("message"), document.get("response")):
            usage = part.get("usage") if isinstance(part, dict) else None
            if isinstance(usage, dict):
                prompt = usage.get("prompt_tokens") or usage.get("input_tokens") or 0
                completion = usage.get("completion_tokens") or usage.get("output_tokens") or 0
                self.prompt_tokens = max(self.prompt_tokens, _tokens(prompt))
                self.completion_tokens = max(self.completion_tokens, _tokens(completion))


def _tokens(told: object) -> int:
    return told if isinstance(told, int) and told < MOST_TOKENS else 0


@dataclass(slots=True, kw_only=True)
class Failure:
    """Why there is no answer yet. `is_final`: no other replica would do better."""

    status: int
    message: str
    kind: str = "server_error"
    is_final: bool = False
    content: bytes | None = None
    retry_after_s: int | None = None


class Out(Protocol):
    """Where an answer goes. The first byte decides: nobody else can answer after it."""

    started: bool

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head."""

    async def send(self, content: bytes, *, more: bool) -> None:
        """Send a part; waits where the client reads more slowly."""


@dataclass(slots=True, kw_only=True)
class Question:
    """One request on its way to an engine. `name`: the model's as the client wrote it. `trace`: its headers."""

    number: str
    path: str
    endpoint: str
    fields: dict[str, Any]
    name: str
    answered: Answered
    trace: Mapping[str, str] = field(default_factory=dict)


def prefix_of(fields: Mapping[str, Any]) -> bytes:
    """Return what stays the same through a conversation: all up to the first words of its user."""
    messages = fields.get("messages")
    if messages:
        first = next((number for number, message in enumerate(messages) if message.get("role") == "user"), 0)
        kept: object = [fields.get("system"), messages[: first + 1]]
    else:
        given = fields.get("prompt", fields.get("input"))
        first_item = given[0] if isinstance(given, list) and given and isinstance(given[0], dict) else given
        kept = [fields.get("instructions"), first_item]
    return orjson.dumps(kept)[:PREFIX_CHARACTERS]


def choose(replicas: Sequence[Replica], fields: Mapping[str, Any], strategy: str) -> Replica:
    """Choose among replicas: the one that has most likely read the beginning before, unless it is busier than most.

    `least-busy`: whichever works on the fewest requests of this worker.
    """
    if len(replicas) == 1:
        return replicas[0]
    if strategy == LEAST_BUSY:
        return min(replicas, key=lambda replica: replica.open)
    prefix = prefix_of(fields)
    bound = math.ceil(SPREAD * (sum(replica.open for replica in replicas) + 1) / len(replicas))

    def rank(replica: Replica) -> bytes:
        return hashlib.blake2b(prefix, digest_size=8, key=replica.number.encode()[:64]).digest()

    return next(replica for replica in sorted(replicas, key=rank) if replica.open < bound)


class Lane:
    """Asks engines. One for a worker of the gateway: it keeps their connections."""

    def __init__(self, *, timeout_s: float, cooldown_s: float, strategy: str) -> None:
        self._timeout_s, self._cooldown_s, self._strategy = timeout_s, cooldown_s, strategy
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # The queues bound how many are open. An engine's address never changes while the gateway runs.
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=10, keepalive_timeout=4)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s)
            # An engine is never behind the proxy that the rest of the gateway may need; no cookies are kept.
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._session

    async def close(self) -> None:
        """Close what is kept open."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, question: Question, served: str, replicas: Sequence[Replica], out: Out) -> Failure | None:
        """Ask the replicas of a model until one answers; return why none did, None where the client got an answer.

        `served`: the model's name at its engines.
        """
        body = encode({**question.fields, "model": served}, question.endpoint)
        tried: list[Replica] = []
        failed: list[Replica] = []
        breaks = 0
        given = sorted(name for name in CONSTRAINTS & question.fields.keys() if question.fields[name] is not None)
        failure = Failure(status=503, message=f"no replica of `{served}` is there")
        for attempt in range(max(ATTEMPTS, len(replicas))):
            usable = [replica for replica in replicas if replica.is_usable()] or replicas
            usable = [replica for replica in usable if replica.silent_s() < SILENT_S] or usable
            fresh = [replica for replica in usable if replica not in tried]
            if not fresh and not (len(failed) == 1 and given):
                await asyncio.sleep(PAUSE_S * 2 ** max(0, attempt - len(replicas)))
            strategy = self._strategy if question.endpoint in WITH_PREFIXES else LEAST_BUSY
            replica = choose(fresh or usable, question.fields, strategy)
            tried.append(replica)
            answer = await self._ask(question, served, body, replica, out)
            if answer is None:
                if question.answered.is_broken:
                    replica.note_failure(self._cooldown_s)
                    return None
                replica.note_success()
                # A request at which every replica fails says nothing of them; one at which another does not, says it.
                for other in failed:
                    if other is not replica:
                        other.note_failure(self._cooldown_s)
                return None
            # Once may be chance; a second time, and not without its constraint, it is the request.
            failure = await self._judge(question, served, replica, answer, given) if failed else answer
            _log(question, replica, failure)
            if failure.content is None:  # no answer at all
                replica.note_failure(self._cooldown_s)
                breaks += failure.message == CUT
            else:
                failed.append(replica)
            # A request that ends engines is not taken to all of them.
            if failure.is_final or breaks == MOST_BREAKS:
                break
        return failure

    async def _judge(
        self, question: Question, served: str, replica: Replica, failure: Failure, given: Sequence[str]
    ) -> Failure:
        """Return a failure as it is, or as the request's own fault: the engine fails at its schema, and not without it.

        vLLM tells what it cannot compile like any other fault of its own: 500 (0.32.0 v1/core/sched/scheduler.py,
        grammar_compile_error_reqs).
        """
        if failure.status != 500 or failure.content is None or not given:
            return failure
        left_out = CONSTRAINTS | {"stream", "stream_options", "n", "best_of", *LENGTHS}
        fields = {name: value for name, value in question.fields.items() if name not in left_out}
        length = "max_output_tokens" if question.endpoint == "responses" else "max_tokens"
        least = 16 if question.endpoint == "responses" else 1  # OpenAI's own least there
        if not await self._answers(question, encode({**fields, "model": served, length: least}, ""), replica):
            return failure
        what = " and ".join(f"`{name}`" for name in given)
        message = f"the engine cannot follow {what} of this request; without it, it answers"
        return Failure(status=400, message=message, kind="invalid_request_error", is_final=True, content=b"")

    async def _answers(self, question: Question, body: bytes, replica: Replica) -> bool:
        """Return whether a replica answers a body with 200."""
        try:
            async with asyncio.timeout(self._timeout_s), self._post(question, body, replica) as answer:
                await answer.read()
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _post(
        self, question: Question, body: bytes, replica: Replica
    ) -> "contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]":
        return self._client().post(
            replica.base + question.path, data=body, headers=_headers(question, replica), allow_redirects=False
        )

    async def _ask(self, question: Question, served: str, body: bytes, replica: Replica, out: Out) -> Failure | None:
        question.answered.asked_s, question.answered.replica = time.monotonic(), replica
        is_stream = bool(question.fields.get("stream"))
        replica.begin(is_stream=is_stream)
        try:
            async with (
                _naming(),
                asyncio.timeout(self._timeout_s) as limit,
                self._post(question, body, replica) as answer,
            ):
                if answer.status >= 300:
                    return read_failure(answer.status, await answer.read(), answer.headers, question.number)
                if answer.content_type == "text/event-stream":
                    limit.reschedule(None)  # it may go on for as long as events come
                    return await self._pass_stream(question, served, answer, out)
                content = await answer.read()
                limit.reschedule(None)
                replica.note_byte()
                await self._pass_whole(question, served, content, out)
        except _BrokenError as broken:
            if broken.failure.message == CUT:
                replica.note_break()
            if not out.started:
                return broken.failure
            question.answered.is_broken = True
            _log(question, replica, broken.failure)
            await out.send(error_event(question.endpoint, broken.failure.message), more=False)
        finally:
            replica.end(is_stream=is_stream)
        return None

    async def _pass_whole(self, question: Question, served: str, content: bytes, out: Out) -> None:
        question.answered.first_s = time.monotonic()
        if question.endpoint == "embeddings":  # megabytes of numbers, and the usage behind them
            _, _, end = content.rpartition(_USAGE)
            document = _loads(b'{"usage":' + end) if end and content[:1] == b"{" else {}
        else:
            document = _loads(content)
        if not document:
            raise _BrokenError(Failure(status=502, message=MALFORMED))
        question.answered.read_usage(document)
        content = rename(content, served, question.name)
        await out.begin(200, {"content-type": "application/json", "content-length": str(len(content))})
        await out.send(content, more=False)

    async def _pass_stream(
        self, question: Question, served: str, answer: aiohttp.ClientResponse, out: Out
    ) -> Failure | None:
        """Hand events on as they come, each whole: what breaks off in the middle of one can still end with an error.

        Return what the first event tells of a failure: vLLM has sent its 200 when a stream's request fails.
        """
        content, replica = answer.content, question.answered.replica
        assert replica is not None
        held = b""
        reader = UsageReader(question.answered, hides_usage=hides_usage(question.fields, question.endpoint))
        while data := await content.readany():
            replica.note_byte()
            data = rename(reader.read_stream(data, more=True), served, question.name)
            if reader.waiting_bytes > MOST_EVENT_BYTES:
                raise _BrokenError(Failure(status=502, message=MALFORMED))
            if data and not out.started:
                held += data
                if failure := first_failure(held, answer.headers, question.number):
                    return failure
                data, held = (b"", held) if says_nothing(held) else (held, b"")
            if data:
                before, mark, _ = data.partition(DONE)
                ends_well = bool(mark) and question.endpoint in WITH_USAGE
                if not out.started:
                    question.answered.first_s = time.monotonic()
                    await out.begin(200, STREAM_HEADERS)
                await out.send(before + mark if ends_well else data, more=not ends_well)
                if ends_well:
                    await _read_out(content)
                    return None
        rest = held + rename(reader.read_stream(b"", more=False), served, question.name)
        if question.endpoint in WITH_USAGE and not _ENDS.search(rest):
            raise _BrokenError(Failure(status=503, message=CUT, retry_after_s=5))
        if not out.started:
            await out.begin(200, STREAM_HEADERS)
        await out.send(rest, more=False)
        return None


async def _read_out(content: aiohttp.StreamReader) -> None:
    """Give an engine the moment that its end takes after the mark, so that its connection can be asked again."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(ENDS_WITHIN_S):
            while await content.readany():
                pass


LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "prompt_logprobs")


def _headers(question: Question, replica: Replica) -> dict[str, str]:
    return {
        "Content-Type": content_type(question.endpoint),
        "Authorization": f"Bearer {replica.key}",
        "X-Request-Id": question.number,
        **question.trace,
    }


def first_failure(data: bytes, headers: Mapping[str, str], number: str) -> Failure | None:
    """Return what a stream's first events tell of a failure; None where they are the beginning of an answer."""
    if b'"error"' not in data:
        return None
    for document in _documents(data):
        error = document.get("error")
        if isinstance(error, dict) and "choices" not in document:
            code = error.get("code")
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
            return read_failure(status, orjson.dumps(document), headers, number)
    return None


def says_nothing(data: bytes) -> bool:
    """Return whether these events tell only who speaks, as the first of a chat does: an error may still follow.

    vLLM writes it when the first token is there, or when a request fails.
    """
    if data.count(EVENT) > MOST_HELD:
        return False
    for document in _documents(data):
        choices = _dicts(document.get("choices"))
        deltas = [choice.get("delta") for choice in choices if not choice.get("finish_reason")]
        if not choices or len(deltas) < len(choices):
            return False
        if not all(isinstance(delta, dict) and not any({**delta, "role": None}.values()) for delta in deltas):
            return False
    return True


def _documents(data: bytes) -> list[dict[str, Any]]:
    """Return what each event says; an empty one for the mark of the end, and for what is no JSON.

    A comment, by which a server keeps a connection open, is no event.
    """
    parts = [event.partition(b"data:") for event in data.split(EVENT)]
    return [_loads(said) for _, mark, said in parts if mark]


MOST_HELD = 8
"""Events without a word that are kept back at a stream's beginning: one for each of its answers."""

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class _BrokenError(Exception):
    """The connection to a replica broke, was never made, or told nothing for too long."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@contextlib.asynccontextmanager
async def _naming() -> AsyncIterator[None]:
    """Turn what the client library raises into a failure that says what was."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise _BrokenError(Failure(status=503, message=UNREACHABLE, retry_after_s=5)) from error
    except TimeoutError as error:
        message = "the engine did not answer in time (GATEWAY_REQUEST_TIMEOUT_S)"
        raise _BrokenError(Failure(status=408, message=message, kind="timeout", is_final=True)) from error
    except aiohttp.ClientConnectorError as error:
        raise _BrokenError(Failure(status=503, message=UNREACHABLE, retry_after_s=5)) from error
    except aiohttp.ClientResponseError as error:
        raise _BrokenError(Failure(status=502, message=MALFORMED)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise _BrokenError(Failure(status=503, message=CUT, retry_after_s=5)) from error


def content_type(endpoint: str) -> str:
    """Return what the body of `encode` is."""
    return FORM_TYPE if endpoint in FORMS else "application/json"


def encode(fields: Mapping[str, Any], endpoint: str) -> bytes:
    """Return a body as it is sent on: what was checked and nothing else. A stream always tells its tokens."""
    if endpoint in FORMS:
        return encode_form(fields)
    if fields.get("stream") and endpoint in WITH_USAGE:
        fields = {**fields, "stream_options": {**(fields.get("stream_options") or {}), "include_usage": True}}
    return orjson.dumps(fields)


def hides_usage(fields: Mapping[str, Any], endpoint: str) -> bool:
    """Return whether the client did not ask for the tokens that a stream tells."""
    options = fields.get("stream_options")
    return endpoint in WITH_USAGE and not (isinstance(options, dict) and options.get("include_usage"))


class UsageReader:
    """Reads the tokens of an answer on its way to the client, and leaves out the event that nobody asked for."""

    def __init__(self, answered: Answered, *, hides_usage: bool) -> None:
        self._answered, self._hides_usage = answered, hides_usage
        self._parts: list[bytes] = []
        self.waiting_bytes = 0

    def read_stream(self, data: bytes, *, more: bool) -> bytes:
        """Return the events that are whole; at the end all that is left. Lines end as OpenAI's do.

        JSON has no carriage return in it, so each that comes is a part of a line's end.
        """
        data = data.replace(b"\r", b"")
        if self._parts:
            if more and EVENT not in self._parts[-1][-1:] + data:
                self._parts.append(data)
                self.waiting_bytes += len(data)
                return b""
            data = b"".join((*self._parts, data))
            self._parts, self.waiting_bytes = [], 0
        if more and not data.endswith(EVENT):
            end = data.rfind(EVENT) + len(EVENT)
            data, rest = (data[:end], data[end:]) if end >= len(EVENT) else (b"", data)
            self._parts.append(rest)
            self.waiting_bytes = len(rest)
        self._answered.events += data.count(EVENT)
        return self._read_events(data) if _USAGE in data else data

    def read_whole(self, data: bytes, *, more: bool) -> bytes:
        """Return the bytes as they are."""
        self._parts.append(data)
        if not more:
            self._answered.read_usage(_loads(b"".join(self._parts)))
        return data

    def _read_events(self, data: bytes) -> bytes:
        kept = []
        for event in data.split(EVENT):
            if _USAGE in event:
                document = _loads(event[event.find(b"data:") + 5 :])
                self._answered.read_usage(document)
                if self._hides_usage and not any(map(_says_something, _dicts(document.get("choices")))):
                    continue
            kept.append(event)
        return EVENT.join(kept)


def _says_something(choice: Mapping[str, Any]) -> bool:
    """Return whether a choice of an event is more than the place where the tokens are told."""
    delta = choice.get("delta")
    said = any(delta.values()) if isinstance(delta, dict) else bool(delta)
    return bool(choice.get("finish_reason") or choice.get("text") or said)


def _dicts(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _loads(text: bytes) -> dict[str, Any]:
    """Return an engine's JSON object; an empty one where it is none."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def rename(content: bytes, served: str, name: str) -> bytes:
    """Write the client's name for the model where the engine wrote its own.

    A text that a model writes has its quotes escaped, so that this pattern cannot be part of one.
    """
    if served == name:
        return content
    new = b'"model":' + orjson.dumps(name)
    return content.replace(b'"model":' + orjson.dumps(served), new)


def read_failure(status: int, content: bytes, headers: Mapping[str, str], number: str) -> Failure:
    """Read an engine's refusal. What it refuses as wrong it would refuse again; its own faults are not for clients."""
    document = _loads(content)
    error = document.get("error", document)
    words = error.get("message") if isinstance(error, dict) else error
    message = str(words or content.decode(errors="replace"))[:2000]
    if status in (408, 429, 503):
        later = headers.get("Retry-After", "")
        return Failure(
            status=status,
            message=message,
            kind="rate_limit_error" if status == 429 else "server_error",
            content=content,
            retry_after_s=int(later) if later.isdecimal() and len(later) < 6 else 1,
        )
    if status < 500 and status not in _OURS:
        return Failure(
            status=400 if status == 422 else status,
            message=message,
            kind="invalid_request_error",
            is_final=True,
            content=content,
        )
    told = f"the engine failed at this request; its log says why (request {number})"
    return Failure(status=status if status >= 500 else 502, message=told, content=content)


_OURS = frozenset({*range(300, 400), 401, 403, 404, 405})
"""What an engine answers to a wrong key, model or path: those are the gateway's own, whoever asks."""


def error_event(endpoint: str, message: str) -> bytes:
    """Return the last event of a stream that breaks off, in the form of its endpoint."""
    error = {"message": message, "type": "server_error", "param": None, "code": "503"}
    if endpoint == "messages":
        told = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: " + orjson.dumps(told) + EVENT
    if endpoint == "responses":
        return b"event: error\ndata: " + orjson.dumps({"type": "error", "code": "503", "message": message}) + EVENT
    return b"data: " + orjson.dumps({"error": error}) + EVENT


def _log(question: Question, replica: Replica, failure: Failure) -> None:
    """Write one line of a failed attempt: never a key, and of a client's own mistake no words, which may be its own."""
    words = "" if failure.is_final else ascii((failure.content or b"").decode(errors="replace")[:500])
    print(
        f"gateway: request {question.number}: {question.endpoint} at {replica.base}: {failure.status} {words}".rstrip(),
        file=sys.stderr,
        flush=True,
    )
