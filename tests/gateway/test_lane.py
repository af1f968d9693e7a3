"""How the lane asks engines: real HTTP over loopback, before servers that answer as no engine should."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from lane import (
    CUT,
    MALFORMED,
    SILENT_S,
    Answered,
    Failure,
    Lane,
    Question,
    Replica,
    UsageReader,
    choose,
    first_failure,
)

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "model": "served",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}
FIELDS = {"model": "named", "messages": [{"role": "user", "content": "Hi."}]}


def http(status: int, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """Return an answer as it goes over the wire; `length` is what it says of its body."""
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def stream(*events: bytes) -> bytes:
    """Return a stream of these events."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that fails is asked again at once."""
    monkeypatch.setattr("lane.PAUSE_S", 0)


WELL = http(200, json.dumps(ANSWER).encode())
Script = Callable[[dict[str, Any]], bytes]


@dataclass(kw_only=True)
class Out:
    """Where an answer goes: kept."""

    started: bool = False
    finished: bool = False
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Keep the head."""
        self.started, self.status, self.headers = True, status, headers

    async def send(self, content: bytes, *, more: bool) -> None:
        """Keep a part."""
        self.body += content
        self.finished = not more


@contextlib.asynccontextmanager
async def engine(script: Script, asked: list[dict[str, Any]], *, endless: bytes = b"") -> AsyncIterator[str]:
    """Serve answers as the script says, one for each connection, then `endless` for ever; give the address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            fields = json.loads(await reader.readexactly(length))
            asked.append(fields)
            writer.write(script(fields))
            while endless:
                writer.write(endless)
                await writer.drain()
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@dataclass(kw_only=True)
class Asked:
    """What came of one request."""

    failure: Failure | None
    out: Out
    replica: Replica
    bodies: list[dict[str, Any]]
    answered: Answered


def ask(script: Script, *, endless: bytes = b"", timeout_s: float = 30, **further: object) -> Asked:
    """Ask one engine through the lane."""

    async def work() -> Asked:
        bodies: list[dict[str, Any]] = []
        async with engine(script, bodies, endless=endless) as address:
            lane, replica, out = (
                Lane(timeout_s=timeout_s, cooldown_s=5, strategy=""),
                Replica("1", address, "key"),
                Out(),
            )
            question = Question(
                number="1",
                path="/v1/chat/completions",
                endpoint="chat/completions",
                fields={**FIELDS, **further},
                name="named",
                answered=Answered(),
            )
            failure = await lane.ask(question, "served", [replica], out)
            await lane.close()
            return Asked(failure=failure, out=out, replica=replica, bodies=bodies, answered=question.answered)

    return asyncio.run(work())


def test_an_answer_comes_back_under_the_clients_name() -> None:
    done = ask(lambda _: WELL)
    assert (done.failure, done.out.status) == (None, 200)
    assert json.loads(done.out.body) == {**ANSWER, "model": "served"}  # a blank after the colon is no engine's
    assert (done.answered.prompt_tokens, done.answered.completion_tokens) == (5, 3)


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b'{"id": "1",'),
        http(200, b"<html>"),
        http(200, b""),
        http(200, b"[1]"),
        http(204, b""),
        http(200, b'{"id": "1"}', length=5),
        http(200, b"\x1f\x8b\x08", "Content-Encoding: gzip"),
        http(200, b'{"id": "1"}', length=500),
        http(200, b"{}", "Content-Length: 3"),
        http(200, b"{}", length=-1),
        http(200, b"{}", "Transfer-Encoding: chunked"),
        b"hello\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000 + b": 1\r\n\r\n",
        b"",
    ],
)
def test_a_malformed_answer_is_the_engines_failure(answer: bytes) -> None:
    """The client gets nothing of it, and another replica may answer."""
    done = ask(lambda _: answer)
    assert done.failure is not None
    assert (done.failure.status, done.failure.message) in ((502, MALFORMED), (503, CUT))
    assert not done.out.started
    assert not done.replica.is_usable()


@pytest.mark.parametrize("endless", [b"x" * 60_000, b"X-Header: 1\r\n" * 100], ids=["one header", "headers"])
def test_a_head_without_an_end_is_given_up(endless: bytes) -> None:
    done = ask(lambda _: b"HTTP/1.1 200 OK\r\n", endless=endless, timeout_s=2)
    assert done.failure is not None
    assert done.failure.status in (408, 502, 503)


def test_an_event_without_an_end_is_given_up() -> None:
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    done = ask(lambda _: head, endless=chunk, stream=True)
    assert done.failure is not None
    assert (done.failure.status, done.failure.message, done.out.started) == (502, MALFORMED, False)


def test_a_stream_whose_first_event_is_an_error_is_answered_with_its_status() -> None:
    """vLLM has sent its 200 when it learns of what is wrong."""
    told = b'data: {"error": {"message": "too long", "type": "BadRequestError", "param": null, "code": 400}}\n\n'
    done = ask(lambda _: stream(told, b"data: [DONE]\n\n"), stream=True)
    assert done.failure is not None
    assert (done.failure.status, done.failure.message, done.out.started) == (400, "too long", False)
    assert done.replica.is_usable()


ROLE = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}\n\n'
WORD = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": null}]}\n\n'
ERROR = b'data: {"error": {"message": "Internal server error", "code": 500}}\n\n'
END = b"data: [DONE]\n\n"


def test_an_error_behind_the_first_role_is_still_the_answers_status() -> None:
    """vLLM tells who speaks before it tells that it cannot: nothing has been said, so that another may answer."""
    done = ask(lambda _: stream(ROLE, ERROR, END), stream=True)
    assert done.failure is not None
    assert (done.failure.status, done.out.started) == (500, False)


@pytest.mark.parametrize("events", [(ROLE, WORD, END), (ROLE, END), (ROLE, ROLE, WORD, END)])
def test_all_of_a_stream_comes_through(events: tuple[bytes, ...]) -> None:
    done = ask(lambda _: stream(*events), stream=True)
    assert (done.failure, done.out.status, done.out.body) == (None, 200, b"".join(events))


SPLIT = 'data: {"choices": [{"index": 0, "delta": {"content": "é😀"}, "finish_reason": null}]}\n\n'.encode()
PING = b": ping\n\n"


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([ROLE.replace(b"\n", b"\r\n"), WORD.replace(b"\n", b"\r\n"), b"data: [DONE]\r\n\r\n"], ROLE + WORD + END),
        ([WORD[:-2] + b"\r", b"\n\r", b"\n", END], WORD + END),
        (
            [WORD.replace(b"data: ", b"data:"), b"data:[DONE]\n\n"],
            WORD.replace(b"data: ", b"data:") + b"data:[DONE]\n\n",
        ),
        ([PING, WORD, PING, END], PING + WORD + PING + END),
        ([SPLIT[:48], SPLIT[48:50], SPLIT[50:53], SPLIT[53:], END], SPLIT + END),
        ([bytes([byte]) for byte in SPLIT + END], SPLIT + END),
        ([b"id: 1\nevent: message\n" + WORD, END], b"id: 1\nevent: message\n" + WORD + END),
        ([WORD, b"data: [DONE]\n"], WORD + b"data: [DONE]\n"),
        ([ROLE, b"data: [DONE]"], ROLE + b"data: [DONE]"),
        ([WORD, END, PING, WORD], WORD + END),
        ([WORD, END + PING], WORD + END),
    ],
    ids=[
        *("CRLF", "CRLF cut in two", "no space", "comments", "cut in a letter", "byte by byte", "further fields"),
        *("no blank line at the end", "no line's end at the end", "more behind the end", "more in the same piece"),
    ],
)
def test_a_stream_may_be_written_in_other_ways(pieces: list[bytes], body: bytes) -> None:
    done = ask(lambda _: stream(*pieces), stream=True)
    assert (done.failure, done.out.status, done.out.finished) == (None, 200, True)
    assert done.out.body == body
    assert not done.answered.is_broken


@pytest.mark.parametrize("rest", [b"", b"500\r\nx"], ids=["no last chunk", "half a chunk"])
def test_a_connection_that_breaks_behind_the_end_has_told_all(rest: bytes) -> None:
    done = ask(lambda _: stream(WORD, END).removesuffix(b"0\r\n\r\n") + rest, stream=True)
    assert (done.failure, done.out.body, done.answered.is_broken) == (None, WORD + END, False)


def test_a_stream_that_goes_on_behind_its_end_is_left() -> None:
    """The request's slots are free again, whatever the engine does."""
    head = stream(WORD, END).removesuffix(b"0\r\n\r\n")
    done = ask(lambda _: head, endless=b"6\r\n: go\n\n\r\n", stream=True)
    assert (done.failure, done.out.finished) == (None, True)


def test_comments_alone_do_not_begin_an_answer() -> None:
    """What fails before its first word can still be answered by another replica."""
    done = ask(lambda _: stream(PING, PING, ERROR, END), stream=True)
    assert done.failure is not None
    assert (done.failure.status, done.out.started) == (500, False)


@pytest.mark.parametrize("events", [(WORD,), (ROLE,), (WORD, b'data: {"choices": [{"delta": {"content": "[DONE]'), ()])
def test_a_stream_without_its_end_is_cut(events: tuple[bytes, ...]) -> None:
    done = ask(lambda _: stream(*events), stream=True)
    if done.failure is None:
        assert (done.answered.is_broken, done.out.finished) == (True, True)
        assert b'"error"' in done.out.body
    else:
        assert (done.failure.message, done.out.started) == (CUT, False)


@pytest.mark.parametrize(
    "event", [b'data: {"choices": [{"delta": {"content": "\\"error\\""}}]}', b": error", b"data: x"]
)
def test_a_stream_that_speaks_of_errors_is_none(event: bytes) -> None:
    assert first_failure(event + b"\n\n", {}, "1") is None


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
FAULT = http(500, b'{"error": {"message": "Internal server error", "code": 500}}')
FAULT_IN_STREAM = stream(b'data: {"error": {"message": "Internal server error", "code": 500}}\n\n')


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "given",
    [{"response_format": SCHEMA}, {"structured_outputs": {"regex": "("}}, {"tools": [{}], "tool_choice": "required"}],
    ids=lambda given: next(iter(given)),
)
def test_what_the_engine_cannot_compile_is_the_requests_fault(given: dict[str, Any], streamed: bool) -> None:
    """Twice, and it answers the same request without its constraint: 400, and no mark."""
    done = ask(
        lambda fields: WELL if not given.keys() & fields else FAULT_IN_STREAM if streamed else FAULT,
        stream=streamed,
        max_tokens=99,
        n=4,
        **given,
    )
    assert done.failure is not None
    assert (done.failure.status, done.failure.kind, done.out.started) == (400, "invalid_request_error", False)
    assert all(f"`{name}`" in done.failure.message for name in given)
    assert done.replica.is_usable()
    _, _, without = done.bodies
    assert without == {"model": "served", "messages": FIELDS["messages"], "max_tokens": 1}


def test_an_engine_that_fails_once_is_asked_again() -> None:
    """A schema is no reason to blame the request for a fault that passes."""
    answers = iter([FAULT, WELL])
    done = ask(lambda _: next(answers), response_format=SCHEMA)
    assert (done.failure, done.out.status) == (None, 200)


def test_an_engine_that_fails_without_the_constraint_too_has_failed() -> None:
    done = ask(lambda _: FAULT, response_format=SCHEMA)
    assert done.failure is not None
    assert done.failure.status == 500
    assert "Internal server error" not in done.failure.message


def test_counts_that_are_no_counts_are_none() -> None:
    """Neither a negative one, nor one beyond what a counter holds, nor a word."""
    answered = Answered()
    for told in (-5, 2**63, "7", None, 3.5):
        answered.read_usage({"usage": {"prompt_tokens": told, "completion_tokens": told}})
    assert (answered.prompt_tokens, answered.completion_tokens) == (0, 0)


@pytest.mark.parametrize("choices", ['"x"', "[1]", '[{"delta": "x"}]', "null", "[[]]"])
def test_events_of_another_shape_break_nothing(choices: str) -> None:
    reader = UsageReader(Answered(), hides_usage=True)
    event = f'data: {{"choices": {choices}, "usage": {{"prompt_tokens": 1}}}}\n\n'.encode()
    assert reader.read_stream(event, more=True) in (b"", event, b"\n\n")


def test_a_replica_that_was_silent_and_broke_off_has_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, however many requests it takes with it; one that breaks off at once has not."""
    clock = [100.0]
    monkeypatch.setattr("lane.time.monotonic", lambda: clock[0])
    replica = Replica("1", "http://engine-2:8000/v1", "key")
    for _ in range(3):
        replica.begin(is_stream=True)
    clock[0] += SILENT_S - 1
    replica.note_break()
    assert (replica.hangs, replica.silent_s(), replica.address) == (0, SILENT_S - 1, "engine-2:8000")
    replica.note_byte()
    assert replica.silent_s() == 0
    clock[0] += SILENT_S
    for _ in range(3):
        replica.note_break()
    assert replica.hangs == 1
    assert replica.hung_at_s > 0
    for _ in range(3):
        replica.end(is_stream=True)
    replica.begin(is_stream=False)  # what comes whole has no byte before its end
    clock[0] += SILENT_S
    assert (replica.silent_s(), replica.open) == (0, 1)


def test_a_silent_replica_gets_nothing_while_another_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before its heartbeat may call it hung; where both are silent, both are asked."""

    async def work() -> list[int]:
        asked: list[list[dict[str, Any]]] = [[], []]
        async with engine(lambda _: WELL, asked[0]) as first, engine(lambda _: WELL, asked[1]) as second:
            lane = Lane(timeout_s=30, cooldown_s=5, strategy="")
            replicas = [Replica("1", first, ""), Replica("2", second, "")]
            monkeypatch.setattr(replicas[0], "silent_s", lambda: SILENT_S)
            for number in range(20):
                await ask_one(lane, replicas, number)
            counts = [len(each) for each in asked]
            monkeypatch.setattr(replicas[1], "silent_s", lambda: SILENT_S)
            for number in range(20):
                await ask_one(lane, replicas, number)
            await lane.close()
            return [*counts, len(asked[0])]

    first, second, first_then = asyncio.run(work())
    assert (first, second) == (0, 20)
    assert first_then > 0


async def ask_one(lane: Lane, replicas: list[Replica], number: int) -> None:
    """Ask once, with a beginning of its own."""
    fields = {"model": "named", "messages": [{"role": "user", "content": f"{number}: hi"}]}
    path, endpoint = "/v1/chat/completions", "chat/completions"
    question = Question(number="1", path=path, endpoint=endpoint, fields=fields, name="named", answered=Answered())
    assert await lane.ask(question, "served", replicas, Out()) is None


def test_the_busier_replica_is_left_out() -> None:
    """Whatever the beginning is: nobody has more than 1.25 times the mean."""
    replicas = [Replica(str(number), "http://e", "key") for number in range(2)]
    for _ in range(100):
        choose(replicas, FIELDS, "").open += 1
    assert max(replica.open for replica in replicas) <= 63
