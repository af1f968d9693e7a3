"""The gateway's one layer before LiteLLM: admission, queue, and the direct lane; everything else goes on to LiteLLM.

ASGI, around LiteLLM's application (worker_start.py lays it there). A request is admitted (admission.py), finds its
model (models.py), counts against the limits of its key (keys.py), waits for its turn (queueing.py), and holds its slots
until the last byte of its answer. Where the model's engines speak the endpoint themselves it is asked there (lane.py);
where no replica answers, the model's fallbacks are asked in their order. A model of a cloud, and everything with
GATEWAY_DIRECT=off, goes through LiteLLM.
"""

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from admission import (
    ENDPOINTS,
    METRICS,
    MODELS,
    OF_A_BODY,
    App,
    Message,
    Receive,
    RefusedError,
    Send,
    check_path,
    check_shape,
    error_document,
    header,
    keys_of,
    needs_key,
    parse_body,
    plain_scope,
    preflight,
    priority_of,
    program_of,
    read_body,
    refuse_oversized,
    sequences_of,
    words_of,
)
from figures import Figures, Labels
from forms import FORMS, parse_form
from keys import ACTS_FOR, CALLER, KEY, MASTER, NOBODY, ActingError, Caller, Keys, LimitError, Limits
from lane import (
    Answered,
    Failure,
    Lane,
    Question,
    UsageReader,
    content_type,
    encode,
    error_event,
    hides_usage,
)
from models import Model, Models
from queueing import turn
from traces import TRACE, Traces

Client = tuple[str, int] | None
"""A client's address and port, as ASGI tells them."""

INNER_HEADERS = frozenset({b"x-litellm-model-api-base", b"x-litellm-model-id"})
"""What LiteLLM tells of where a model runs: nothing for clients."""

WELL = b'{"status":"healthy"}'
AS_TEXT = frozenset({b"accept", b"accept-encoding"})
"""What a client says of the form that it wants."""

RETRY_AFTER_DRAIN_S = 10
LINGERS_S = 5.0
"""How long the rest of a body is thrown away that is too long, as nginx has it (lingering_timeout)."""

LEAVES_WITHIN_S = 5.0
"""To write the last event of each stream."""


@dataclass(slots=True)
class Exchange:
    """One request and its answer: where an answer goes (`lane.Out`), and what the end of it has to know."""

    scope: Message
    send_message: Send
    caller: Caller = NOBODY.caller
    key: str = ""
    answered: Answered = field(default_factory=Answered)
    status: int = 0
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    endpoint: str = ""
    served: str = ""
    labels: Labels | None = None
    started: bool = False
    finished: bool = False
    is_stream: bool = False
    writing_s: float = 0.0
    trace: dict[str, str] = field(default_factory=dict)
    arrived_s: float = field(default_factory=time.monotonic)

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer of ours."""
        lines = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        lines.append((b"x-litellm-call-id", self.number.encode()))
        lines.append((b"x-content-type-options", b"nosniff"))
        if header(self.scope, b"origin"):
            lines.append((b"access-control-allow-origin", b"*"))
        self.started, self.status = True, status
        self.is_stream = headers["content-type"].startswith("text/event-stream")
        await self.write({"type": "http.response.start", "status": status, "headers": lines})

    async def send(self, content: bytes, *, more: bool) -> None:
        """Send a part of the body; the server waits here where the client reads more slowly."""
        self.finished = not more
        await self.write({"type": "http.response.body", "body": content, "more_body": more})

    async def write(self, message: Message) -> None:
        """Give the server a part of an answer, and note since when it has waited for the client to read."""
        self.writing_s = time.monotonic()
        await self.send_message(message)
        self.writing_s = 0.0

    async def break_off(self, why: str, status: int = 503) -> None:
        """End an answer before its end: a stream with an error event."""
        if not self.started:
            await self.refuse(status, "server_error", why, RETRY_AFTER_DRAIN_S if status == 503 else None)
        elif not self.finished:
            await self.send(error_event(self.endpoint, why) if self.is_stream else b"", more=False)

    async def refuse(
        self, status: int, kind: str, message: str, later: int | None = None, unread: Receive | None = None
    ) -> None:
        """Answer in the form of OpenAI's errors, or of Anthropic's where its endpoint is asked.

        `unread`: gives the rest of a body, which is thrown away for a while: a client that still sends when its
        connection is closed sees a reset, and never the answer.
        """
        headers = {} if later is None else {"retry-after": str(later)}
        document = error_document(self.scope["path"], RefusedError(status, kind, message))
        await self.whole(status, document, headers, unread)

    async def whole(
        self,
        status: int,
        content: bytes,
        further: Mapping[str, str] | None = None,
        unread: Receive | None = None,
    ) -> None:
        """Send a whole answer of ours, which is JSON."""
        headers = {"content-type": "application/json", "content-length": str(len(content)), **(further or {})}
        await self.begin(status, headers)
        if unread is not None:
            await self.send(content, more=True)
            content = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGERS_S):
                    while (message := await unread())["type"] == "http.request" and message.get("more_body"):
                        pass
        await self.send(content, more=False)


class Front:
    """Around LiteLLM's application.

    `hang_up` is told a client that reads nothing any more. `models` and `figures` are asked at the first request: then
    LiteLLM has read its configuration.
    """

    def __init__(
        self,
        app: App,
        environment: Mapping[str, str],
        *,
        keys: Keys,
        limits: Limits,
        hang_up: Callable[[Client], None],
        models: Callable[[], Models],
        figures: Callable[[], Figures | None],
        traces: Traces | None = None,
    ) -> None:
        self._app, self._keys, self._limits, self._traces = app, keys, limits, traces
        self._hang_up = hang_up
        self._models, self._figures = models, figures
        self._most_bytes = int(environment["GATEWAY_MAX_BODY_BYTES"]) or sys.maxsize
        self._timeout_s = float(environment["REQUEST_TIMEOUT"])
        self._is_direct = environment.get("GATEWAY_DIRECT", "on") == "on"
        self._lane = Lane(
            timeout_s=self._timeout_s,
            cooldown_s=float(environment["DEFAULT_COOLDOWN_TIME_SECONDS"]),
            strategy=environment["GATEWAY_ROUTING_STRATEGY"],
        )
        self._is_draining = self._is_over = False
        self._open: dict[asyncio.Task[Any], Exchange] = {}
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            # LiteLLM's realtime API: the engines have none.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        try:
            await self._answer(exchange, receive)
        except RefusedError as refused:
            is_announced = refused.status == 413 and exchange.key and header(scope, b"content-length")
            unread = receive if is_announced else None
            await exchange.refuse(refused.status, refused.kind, str(refused), refused.retry_after_s, unread)
            self._count_failure(exchange, refused.status, refused.kind)
            self._count_refusal(refused.status)
        except Exception as fault:  # noqa: BLE001  # a client is told in JSON, and the log in a line
            print(f"gateway: request {exchange.number}: {fault!a}", file=sys.stderr, flush=True)
            await exchange.break_off("the gateway failed at this request", status=500)

    async def _answer(self, exchange: Exchange, receive: Receive) -> None:
        scope = exchange.scope
        if CALLER not in scope:
            self.admit(scope)
        exchange.key, exchange.caller = scope.get(KEY, ""), scope.get(CALLER, NOBODY.caller)
        if exchange.caller.metrics_only and scope["path"] not in METRICS:
            sentence = f"the key `{exchange.caller.name}` may read the metrics, and nothing else"
            raise RefusedError(403, "permission_error", sentence)
        if scope["method"] != "POST":
            await self._read(exchange, receive)
            return
        exchange.endpoint = ENDPOINTS[scope["path"]]
        self._refuse_at_a_stop()
        try:
            async with asyncio.timeout(self._timeout_s):
                is_form = exchange.endpoint in FORMS
                body = await read_body(scope, receive, self._most_bytes, is_form=is_form)
        except TimeoutError:
            sentence = f"the body did not come within {self._timeout_s:.0f} s (GATEWAY_REQUEST_TIMEOUT_S)"
            raise RefusedError(408, "timeout", sentence) from None
        if body is None:
            return
        self._refuse_at_a_stop()
        await self._until_gone(exchange, body, asyncio.ensure_future(receive()))

    def _refuse_at_a_stop(self) -> None:
        if self._is_draining:
            raise RefusedError(503, "server_error", "the gateway is being stopped", RETRY_AFTER_DRAIN_S)

    def judge(self, scope: Message) -> None:
        """Admit a request for its connection, which answers a refusal itself; count it. Raises RefusedError."""
        try:
            self.admit(scope)
        except RefusedError as refused:
            self._count_refusal(refused.status)
            raise

    def admit(self, scope: Message) -> None:
        """Let a request in by its head alone, and note in the scope whose it is.

        Raises:
            RefusedError: 404 where it is not served, 401 where it shows no right key, 403 where that may not ask in
                the name of another.
        """
        check_path(scope)
        if not needs_key(scope):
            return
        shown = keys_of(scope)
        for key in shown:
            caller = self._keys.find(key)
            if caller is not None:
                scope[KEY], scope[CALLER] = key, self._for_whom(scope, caller)
                return
        raise RefusedError(401, "auth_error", self._keys.refusal(shown[0]) if shown else "wrong or missing key")

    def _for_whom(self, scope: Message, caller: Caller) -> Caller:
        """Return whose rights and limits hold: the key's, or those of the key in whose name a model is asked."""
        name = header(scope, ACTS_FOR.encode())
        if not name or scope["method"] != "POST":
            return caller
        try:
            return self._keys.acting_for(caller, name)
        except ActingError as refused:
            kind = "auth_error" if refused.status == 401 else "permission_error"
            raise RefusedError(refused.status, kind, str(refused)) from None

    async def _read(self, exchange: Exchange, receive: Receive) -> None:
        """Answer what is read without a body: of LiteLLM's pages the metrics alone, for whoever may see them.

        What strangers may ask is answered from here: LiteLLM takes 1 to 4 ms of the processor for it, which a thousand
        questions a second would use up.
        """
        scope, caller, send = exchange.scope, exchange.caller, exchange.send_message
        if scope["method"] == "OPTIONS":
            await exchange.whole(200, b"", preflight(scope))
        elif not needs_key(scope):
            await exchange.whole(200, WELL)
        elif scope["path"] not in METRICS:
            await self._list_models(exchange)
        elif caller.name != MASTER and not caller.metrics_only:
            raise RefusedError(403, "permission_error", f"the key `{caller.name}` may not read the metrics")
        else:
            scope = plain_scope(scope)
            if scope["method"] == "GET":
                # In plain text, so that ours can follow.
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in AS_TEXT]
                send = _followed_by(self._limits.metrics().encode(), send)
            await self._app(scope, _replay(b"", receive), send)

    async def _list_models(self, exchange: Exchange) -> None:
        """List the models that a key may ask, in OpenAI's form; or one of them."""
        models, wanted = self._models(), exchange.scope["path"].removeprefix("/v1/models/")
        named = {name: models.named(name) for name in models.names()}
        names = [name for name, model in named.items() if model and exchange.caller.may_ask(model.name)]
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "stackwright"} for name in names]
        if exchange.scope["path"] not in MODELS:
            rows = [row for row in rows if row["id"] == wanted]
            if not rows:
                raise RefusedError(404, "invalid_request_error", f"unknown model `{wanted[:200]}`")
        document = rows[0] if exchange.scope["path"] not in MODELS else {"object": "list", "data": rows}
        await exchange.whole(200, orjson.dumps(document))

    async def _until_gone(self, exchange: Exchange, body: bytes, gone: "asyncio.Future[Message]") -> None:
        """Serve a request unless its client leaves, which ends `gone`, or the gateway is over."""
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = exchange
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._hang_up_on_the_deaf())

        def end(_: object) -> None:
            if not exchange.finished:
                task.cancel()

        gone.add_done_callback(end)
        try:
            with contextlib.nullcontext() if self._traces is None else self._traces.of(exchange):
                await self._serve(exchange, body, gone)
        except asyncio.CancelledError:
            if not gone.done():
                if not self._is_over:
                    raise
                task.uncancel()
                await exchange.break_off("the gateway is being stopped")
            else:
                task.uncancel()
        finally:
            gone.remove_done_callback(end)
            gone.cancel()
            self._open.pop(task, None)

    async def _hang_up_on_the_deaf(self) -> None:
        """End the connections of clients that have read nothing for the time limit: they would hold their slots."""
        while self._open:
            await asyncio.sleep(self._timeout_s / 4)
            now = time.monotonic()
            for exchange in self._open.values():
                if exchange.writing_s and now - exchange.writing_s > self._timeout_s:
                    self._hang_up(exchange.scope.get("client"))

    async def drain(self, limit_s: float) -> None:
        """Take no more requests, give the open ones so many seconds, and end what is then left of them."""
        self._is_draining = True
        if self._open:
            await asyncio.wait(self._open, timeout=limit_s)
        await self.end()

    async def end(self) -> None:
        """End all that is open: a stream with an error event, what has no byte yet with 503."""
        self._is_draining = self._is_over = True
        open_now = set(self._open)
        for task in open_now:
            task.cancel()
        if open_now:
            await asyncio.wait(open_now, timeout=LEAVES_WITHIN_S)

    async def _serve(self, exchange: Exchange, body: bytes, gone: "asyncio.Future[Message]") -> None:
        """Check the body, wait for the request's turn, and ask for its answer."""
        endpoint, models = exchange.endpoint, self._models()
        is_form = endpoint in FORMS
        fields = parse_form(header(exchange.scope, b"content-type"), body) if is_form else parse_body(body)
        model = models.find(fields.get("model"), endpoint)
        exchange.labels, exchange.served = _labels(exchange, model), model.name
        caller = exchange.caller
        if not caller.may_ask(model.name):
            allowed = ", ".join(sorted(caller.models))
            sentence = f"the key `{caller.name}` is not for `{model.name}`; it is for {allowed}"
            raise RefusedError(403, "permission_error", sentence)
        check_shape(endpoint, fields)
        refuse_oversized(fields, model.most_tokens)
        order = priority_of(fields)
        fields.pop("priority", None)
        try:
            await self._limits.admit(caller)
        except LimitError as limit:
            raise RefusedError(limit.status, "rate_limit_error", limit.sentence, limit.retry_after_s) from limit
        self._note_open(1)
        try:
            waits_s = time.monotonic()
            async with turn(model.queue, order, self._timeout_s, sequences_of(fields)):
                exchange.answered.queued_s = time.monotonic() - waits_s
                await self._ask(exchange, model, fields, gone)
        finally:
            self._note_open(-1)
            await self._count_tokens(exchange, fields)

    async def _count_tokens(self, exchange: Exchange, fields: Mapping[str, Any]) -> None:
        """Count what an answer took; of one that its client cut short, by words and events."""
        answered = exchange.answered
        if not exchange.started or exchange.status >= 300:
            return
        prompt, completion = answered.prompt_tokens, answered.completion_tokens
        if not prompt and not completion:
            prompt, completion = words_of(fields), answered.events
        await self._limits.count(exchange.caller, exchange.served, prompt, completion)

    async def _ask(
        self, exchange: Exchange, model: Model, fields: dict[str, Any], gone: "asyncio.Future[Message]"
    ) -> None:
        """Ask a model, then those that stand in for it, until one answers."""
        # LiteLLM 1.108.0 takes no vectors of a conversation, by which pictures are asked for (router.py, aembedding).
        is_conversation = exchange.endpoint == "embeddings" and fields.get("messages") is not None
        if exchange.endpoint not in model.direct or not (self._is_direct or is_conversation):
            await self._ask_litellm(exchange, fields, gone)
            return
        question = Question(
            number=exchange.number,
            path=exchange.scope["path"] if exchange.scope["path"].startswith("/v") else f"/v1{exchange.scope['path']}",
            endpoint=exchange.endpoint,
            fields=fields,
            name=str(fields["model"]),
            answered=exchange.answered,
            trace=exchange.trace,
        )
        failure = await self._lane.ask(question, model.name, model.replicas, exchange)
        if failure is not None:
            failure = await self._ask_others(exchange, question, failure, self._chain(model, failure), gone)
        if failure is None:
            if exchange.answered.is_broken:
                self._count_failure(exchange, 503, "server_error")
            else:
                self._count_answer(exchange)
            return
        await exchange.refuse(failure.status, failure.kind, failure.message, failure.retry_after_s)
        self._count_failure(exchange, failure.status, failure.kind)

    def _chain(self, model: Model, failure: Failure) -> Sequence[str]:
        if model.longer is not None and is_too_long(failure):
            return model.longer
        return model.fallbacks

    async def _ask_others(
        self,
        exchange: Exchange,
        question: Question,
        failure: Failure,
        chain: Sequence[str],
        gone: "asyncio.Future[Message]",
    ) -> Failure | None:
        """Ask the models that stand in, in their order; return why none answered."""
        for number, name in enumerate(chain, start=1):
            model = self._models().named(name)
            if model is None or not exchange.caller.may_ask(model.name):
                continue
            question.name = exchange.served = model.name
            if question.endpoint in model.direct:
                told = await self._lane.ask(question, model.name, model.replicas, exchange)
                if told is None:
                    return None
                failure = told
            else:
                fields = {**question.fields, "model": model.name}
                exchange.answered.replica = None  # LiteLLM counts this answer; no engine of ours gave it
                status = await self._ask_litellm(exchange, fields, gone, is_last=number == len(chain))
                if exchange.started:
                    return None
                failure = Failure(status=status, message=f"`{model.name}` answered {status}")
        return failure

    async def _ask_litellm(
        self, exchange: Exchange, fields: dict[str, Any], gone: "asyncio.Future[Message]", *, is_last: bool = True
    ) -> int:
        """Let LiteLLM answer; return its status. An error is not handed on unless this is the last to be asked."""
        scope, status = plain_scope(exchange.scope), 0
        body = encode(fields, exchange.endpoint)
        reader = UsageReader(exchange.answered, hides_usage=hides_usage(fields, exchange.endpoint))
        of_body = [
            (b"content-type", content_type(exchange.endpoint).encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] not in OF_A_BODY), *of_body]
        scope[TRACE] = exchange.trace

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and not is_last:
                    return
                exchange.started, exchange.status = True, status
                exchange.is_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
                kept = [pair for pair in message["headers"] if pair[0].lower() not in INNER_HEADERS]
                message = {**message, "headers": kept}
            elif not exchange.started:
                return
            else:
                exchange.finished = not message.get("more_body", False)
                read = reader.read_stream if exchange.is_stream else reader.read_whole
                message = {**message, "body": read(message.get("body", b""), more=not exchange.finished)}
            await exchange.write(message)

        self._note_open(-1)  # there it is counted again
        try:
            await self._app(scope, _replay(body, lambda: asyncio.shield(gone)), send)
        finally:
            self._note_open(1)
        return status

    def _note_open(self, change: int) -> None:
        figures = self._figures()
        if figures is not None:
            figures.note_open(change)

    def _count_answer(self, exchange: Exchange) -> None:
        figures = self._figures()
        if figures is not None and exchange.labels is not None:
            figures.count_answer(
                exchange.labels,
                exchange.answered,
                arrived_s=exchange.arrived_s,
                ended_s=time.monotonic(),
                is_stream=exchange.is_stream,
            )

    def _count_refusal(self, status: int) -> None:
        figures = self._figures()
        if figures is not None:
            figures.count_refusal(status)

    def _count_failure(self, exchange: Exchange, status: int, kind: str) -> None:
        figures = self._figures()
        if figures is not None and exchange.labels is not None:
            figures.count_failure(exchange.labels, status, kind)


def is_too_long(failure: Failure) -> bool:
    """Return whether a model's answer says that the input is longer than its context, as LiteLLM reads it."""
    from litellm.litellm_core_utils.exception_mapping_utils import ExceptionCheckers  # noqa: TID251  # inside LiteLLM

    return bool(ExceptionCheckers.is_error_str_context_window_exceeded(failure.message))


def _labels(exchange: Exchange, model: Model) -> Labels:
    scope, caller = exchange.scope, exchange.caller
    client = scope.get("client")
    return Labels(
        key=exchange.key,
        alias=None if caller.name == MASTER else caller.name,
        model=model.name,
        path=scope["path"],
        client=client[0] if client else None,
        program=program_of(scope) or None,
    )


def _followed_by(further: bytes, send: Send) -> Send:
    """Return what sends an answer with more lines behind it, unless it is none of 200."""
    is_followed = False

    async def send_both(message: Message) -> None:
        nonlocal is_followed
        if message["type"] == "http.response.start":
            is_followed = message["status"] == 200
            if is_followed:
                headers = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
                message = {**message, "headers": headers}
        elif is_followed and not message.get("more_body", False):
            message = {**message, "body": message.get("body", b"") + further}
        await send(message)

    return send_both


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once, then whatever comes after it."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return unread.pop() if unread else await receive()

    return next_message
