"""One HTTP exchange with the gateway, byte by byte where a test wants it so: what no well-behaved client library does.

Touches loopback.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

# As much as an exchange may take: what hangs is a failure with a name, not a test run without an end.
LONGEST_S = 240


class Ask(Struct, frozen=True, kw_only=True):
    """What is sent. `content` is the body as it goes over the wire, whatever it is."""

    path: str
    content: bytes = b""
    key: str | None = None
    method: str = "POST"

    def head(self) -> bytes:
        """Return the request line and the headers."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(self.content)}"]
        lines += [f"Authorization: Bearer {self.key}"] if self.key is not None else []
        return "\r\n".join([*lines, "", ""]).encode()


class Slow(Struct, frozen=True, kw_only=True):
    """How a slow client goes about it: `piece` bytes, then `pause_s` seconds of nothing; for sending and for
    reading.
    """

    piece: int
    pause_s: float


class Answer(Struct, frozen=True, kw_only=True):
    """What came back. Status 0: the connection ended without an answer."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def message(self) -> str:
        """The words of an error, as OpenAI's form has them."""
        return str(json.loads(self.body)["error"]["message"])


def chat(key: str | None, *, model: str = "smoke", content: object = "Say hello.", **further: object) -> Ask:
    """Return a request for a chat completion."""
    asked = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **further}
    return Ask(path="/v1/chat/completions", content=json.dumps(asked).encode(), key=key)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection; at the end of the block it is cut, whatever is still under way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(port: int, ask: Ask, *, sending: Slow | None = None, reading: Slow | None = None) -> Answer:
    """Send a request and read the whole answer, as slowly as asked."""
    async with asyncio.timeout(LONGEST_S), connection(port) as (reader, writer):
        try:
            await _send(writer, ask.head() + ask.content, sending)
            return parse(await _read(reader, reading))
        except ConnectionError:
            return Answer(status=0, headers={}, body="")


async def read_until(reader: asyncio.StreamReader, words: bytes) -> None:
    """Read on until these words have come."""
    async with asyncio.timeout(LONGEST_S):
        await reader.readuntil(words)


async def _send(writer: asyncio.StreamWriter, text: bytes, slow: Slow | None) -> None:
    step = slow.piece if slow else len(text)
    for start in range(0, len(text), step):
        writer.write(text[start : start + step])
        await writer.drain()
        if slow:
            await asyncio.sleep(slow.pause_s)


async def _read(reader: asyncio.StreamReader, slow: Slow | None) -> bytes:
    pieces = []
    while piece := await reader.read(slow.piece if slow else 65536):
        pieces.append(piece)
        if slow:
            await asyncio.sleep(slow.pause_s)
    return b"".join(pieces)


def parse(text: bytes) -> Answer:
    """Take an answer apart; one that is cut short keeps what has come of its body."""
    head, _, body = text.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _join_chunks(body)
    status = int(first.split()[1]) if first else 0
    return Answer(status=status, headers=headers, body=body.decode(errors="replace"))


def _join_chunks(body: bytes) -> bytes:
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(rest[:length])
        body = rest[length + 2 :] if length else b""
    return b"".join(pieces)
