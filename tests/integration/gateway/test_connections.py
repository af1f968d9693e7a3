"""Clients that hold connections and do not ask, or ask in ways that no library does: others are served all the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.gateway.exchange import LONGEST_S, Answer, Ask, connection, exchange, parse
from tests.integration.gateway.front import MODEL, Front, start_front

IDLE = 300
FILES = 256
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi."}]}).encode()


@pytest.fixture(scope="module")
def narrow(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Start a gateway that may hold no more than so many files open."""
    with start_front(state_folder, tmp_path_factory.mktemp("project"), open_files=FILES) as made:
        yield made


def request_of(front: Front) -> Ask:
    """Return a request with the key."""
    return Ask(path="/v1/chat/completions", content=BODY, key=front.key)


async def answer_to(front: Front, text: bytes, *, half_closed: bool = False) -> bytes:
    """Send bytes and return all that comes until the connection ends."""
    async with asyncio.timeout(LONGEST_S), connection(front.port) as (reader, writer):
        writer.write(text)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            if half_closed:
                writer.write_eof()
            return await reader.read()
    return b""


def test_connections_that_ask_nothing_shut_nobody_out(narrow: Front) -> None:
    """More than there are files for: the oldest give way, and one who shows the key is answered."""

    async def hold() -> list[int]:
        async with contextlib.AsyncExitStack() as held:
            for _ in range(IDLE):
                await held.enter_async_context(connection(narrow.port))
            return [(await exchange(narrow.port, request_of(narrow))).status for _ in range(5)]

    assert asyncio.run(hold()) == [200] * 5


def test_a_connection_that_has_shown_the_key_does_not_give_way(narrow: Front) -> None:
    """It asks again over the same one after others have come."""
    kept = b"".join((HEAD, b"Authorization: Bearer ", narrow.key.encode(), b"\r\n"))
    kept += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY

    async def ask_twice() -> list[bytes]:
        answers = []
        async with connection(narrow.port) as (reader, writer), contextlib.AsyncExitStack() as held:
            for _ in range(2):
                writer.write(kept)
                answers.append(await reader.readuntil(b"\r\n\r\n"))
                length = int(parse(answers[-1]).headers["content-length"])
                await reader.readexactly(length)
                for _ in range(FILES // 2):
                    await held.enter_async_context(connection(narrow.port))
        return answers

    assert [answer[9:12] for answer in asyncio.run(ask_twice())] == [b"200", b"200"]


def with_key(key: str, content: bytes = BODY, path: bytes = b"/v1/chat/completions") -> bytes:
    """Return a request that keeps its connection, with this key."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % (path, key.encode())
    return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer of several."""
    head = await reader.readuntil(b"\r\n\r\n")
    return parse(head + await reader.readexactly(int(parse(head).headers["content-length"])))


async def statuses(front: Front, text: bytes) -> list[int]:
    """Send bytes in one piece; return the status of each answer until nothing more comes."""
    found: list[int] = []
    async with connection(front.port) as (reader, writer):
        writer.write(text)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(LONGEST_S):
                while True:
                    found.append((await read_answer(reader)).status)
    return found


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_wrong_key_is_told_in_the_form_of_its_endpoint(narrow: Front, path: str) -> None:
    answer = asyncio.run(exchange(narrow.port, Ask(path=path, content=BODY, key="sk-wrong")))
    document = json.loads(answer.body)
    assert (answer.status, answer.message) == (401, "wrong or missing key")
    assert (document.get("type") == "error") is (path == "/v1/messages")
    assert {"date", "content-type", "x-content-type-options"} <= answer.headers.keys()


@pytest.mark.parametrize(("method", "status"), [("HEAD", 401), ("GET", 401), ("OPTIONS", 200), ("DELETE", 404)])
def test_every_method_is_answered_without_a_key(narrow: Front, method: str, status: int) -> None:
    answer = asyncio.run(exchange(narrow.port, Ask(path="/v1/models", method=method)))
    assert (answer.status, answer.body == "") == (status, method in ("HEAD", "OPTIONS"))


def test_who_has_shown_only_a_wrong_key_is_not_read_for_a_while(narrow: Front) -> None:
    """The right key that comes next is answered, but later: nobody can try keys as fast as refusals come."""

    async def ask_twice() -> tuple[int, int, float]:
        async with connection(narrow.port) as (reader, writer):
            writer.write(with_key("sk-wrong"))
            first = await read_answer(reader)
            refused_s = time.monotonic()
            writer.write(with_key(narrow.key))
            second = await read_answer(reader)
            return first.status, second.status, time.monotonic() - refused_s

    first, second, took_s = asyncio.run(ask_twice())
    assert (first, second) == (401, 200)
    assert took_s > 0.8


def test_wrong_keys_behind_each_other_end_the_connection(narrow: Front) -> None:
    assert asyncio.run(statuses(narrow, with_key("sk-wrong") * 50)) == [401]


def test_a_wrong_key_between_right_ones_is_refused_alone(narrow: Front) -> None:
    """A proxy may send several people's requests over one connection. What is refused is not read as a request."""
    smuggled = with_key(narrow.key)
    right, wrong = with_key(narrow.key), with_key("sk-wrong", smuggled)
    assert asyncio.run(statuses(narrow, right + wrong * 3 + right)) == [200, 401, 401, 401, 200]


def test_connections_that_offer_another_protocol_shut_nobody_out(narrow: Front) -> None:
    """uvicorn hands such a connection on to another class."""
    offer = UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n"

    async def hold() -> list[int]:
        for _ in range(FILES // 2):
            async with connection(narrow.port) as (reader, writer):
                writer.write(offer)
                await reader.read(1)
        async with contextlib.AsyncExitStack() as held:
            for _ in range(IDLE):
                await held.enter_async_context(connection(narrow.port))
            return [(await exchange(narrow.port, request_of(narrow))).status for _ in range(5)]

    assert asyncio.run(hold()) == [200] * 5


def test_an_offer_of_http_2_is_answered_in_http_1(narrow: Front) -> None:
    """Java's client offers it with each first request; the parser gives up at the offer, before the body."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    right = with_key(narrow.key)
    offering = right.replace(b"Host: x\r\n", b"Host: x\r\n" + offer)
    assert asyncio.run(statuses(narrow, offering + right + offering)) == [200, 200, 200]


def test_a_trailer_is_no_header(narrow: Front) -> None:
    """It comes behind what was judged: another key there is nobody's."""
    head = HEAD + b"Authorization: Bearer sk-wrong\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    trailer = b"Authorization: Bearer " + narrow.key.encode() + b"\r\n"
    text = head + b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY) + trailer + b"\r\n"
    assert parse(asyncio.run(answer_to(narrow, text))).status == 401


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X-Long: " + b"x" * 200_000,
        HEAD + b"".join(b"X-%d: x\r\n" % number for number in range(20_000)),
        HEAD + b"X-Slow: ",
        b"",
    ],
    ids=["one long header", "many headers", "half a head", "nothing"],
)
def test_a_head_that_is_too_long_or_never_ends_ends_its_connection(narrow: Front, head: bytes) -> None:
    assert asyncio.run(answer_to(narrow, head)) == b""


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ],
    ids=[
        *("two framings", "two lengths", "no chunk", "less than nothing"),
        *("no coding", "a coding behind chunks", "a sign", "too long a chunk"),
    ],
)
@pytest.mark.parametrize("is_right", [True, False], ids=["right key", "wrong key"])
def test_a_body_whose_end_is_not_clear_is_refused(narrow: Front, is_right: bool, framing: bytes) -> None:
    """Of what follows nothing may count as a request of its own."""
    key = b"Authorization: Bearer " + (narrow.key.encode() if is_right else b"wrong") + b"\r\n"
    smuggled = b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n" + key + b"Connection: close\r\n\r\n"
    answer = asyncio.run(answer_to(narrow, HEAD + key + framing + smuggled))
    assert answer[9:12] in ((b"400",) if is_right else (b"400", b"401"))
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-Trailer: 1\r\n" * 4096),
        (b"Content-Length: 2\r\n\r\n{}", HEAD + b"Content-Length: 2\r\n\r\n{}" * 512),
        (b"Transfer-Encoding: chunked\r\n\r\n5;", b"x" * 65536),
    ],
    ids=["trailers", "requests behind each other", "a chunk's extension"],
)
def test_what_has_no_end_ends_the_connection(narrow: Front, begins: bytes, goes_on: bytes) -> None:
    """With the key: nothing is heaped up, and the time of a body is limited."""
    key = b"Authorization: Bearer " + narrow.key.encode() + b"\r\n"

    async def flood() -> None:
        async with asyncio.timeout(LONGEST_S), connection(narrow.port) as (_, writer):
            writer.write(HEAD + key + begins)
            while True:
                writer.write(goes_on)
                await writer.drain()

    with pytest.raises(ConnectionError):
        asyncio.run(flood())
    assert asyncio.run(exchange(narrow.port, request_of(narrow))).status == 200


def test_a_body_that_does_not_come_in_time_is_refused(narrow: Front) -> None:
    key = b"Authorization: Bearer " + narrow.key.encode() + b"\r\nConnection: close\r\n"
    answer = parse(asyncio.run(answer_to(narrow, HEAD + key + b"Content-Length: 100\r\n\r\n{")))
    assert (answer.status, answer.message) == (408, "the body did not come within 4 s (GATEWAY_REQUEST_TIMEOUT_S)")


UPGRADE = b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n", b"40"),
        (UPGRADE + b"websocket\r\n\r\n", b"404"),
        (UPGRADE + b"h2c\r\n\r\n", b"404"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"CONNECT evil:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /v1/models/../../metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"401"),
        (b"GET //metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (HEAD + b"Content-Length : 2\r\n\r\n{}", b"400"),
        (HEAD + b"X-A: 1\r\n b\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (HEAD + b"Content-Length: +2\r\n\r\n{}", b"400"),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: identity\r\n\r\n{}", b"400"),
        (HEAD + b"X-A: 1\rContent-Length: 2\r\n\r\n{}", b"400"),
        (HEAD + b"X-A: \x00\r\n\r\n", b"400"),
        (b"POST /v1/chat/completions\x00 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST http://evil/v1/../metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /v1/chat%2fcompletions/../ HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /v1/models HTTP/0.9\r\n\r\n", b"40"),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", b"401"),
    ],
)
def test_nothing_gets_in_by_another_protocol_or_framing(narrow: Front, text: bytes, status: bytes) -> None:
    assert asyncio.run(answer_to(narrow, text))[9:12].startswith(status)


def test_who_sends_too_much_reads_why(narrow: Front) -> None:
    """Also where it sends on after the answer has come."""
    ask = Ask(path="/v1/chat/completions", content=b"x" * 40_000_000, key=narrow.key)
    assert asyncio.run(exchange(narrow.port, ask)).status == 413


def test_requests_behind_each_other_are_answered_in_order(narrow: Front) -> None:
    key = b"Authorization: Bearer " + narrow.key.encode() + b"\r\n"
    one = HEAD + key + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    last = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + key + b"\r\n"
    answer = asyncio.run(answer_to(narrow, one + one + last))
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.rfind(b'"object":"list"') > answer.rfind(b"chat.completion")


def test_a_request_in_chunks_is_read(narrow: Front) -> None:
    key = b"Authorization: Bearer " + narrow.key.encode() + b"\r\nConnection: close\r\n"
    half = len(BODY) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:half], BODY[half:]))
    text = HEAD + key + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    assert parse(asyncio.run(answer_to(narrow, text))).status == 200


def test_who_closes_half_a_connection_takes_no_slot_away(narrow: Front) -> None:
    text = request_of(narrow).head() + BODY
    for _ in range(3):
        asyncio.run(answer_to(narrow, text, half_closed=True))
    assert asyncio.run(exchange(narrow.port, request_of(narrow))).status == 200
