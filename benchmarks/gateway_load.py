"""A load on a gateway over loopback, the upstream behind it, and what a tree of processes takes of the machine.

Both ends speak bare HTTP over asyncio's own connections: what they take of the processor is little beside a gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }
).encode()


CHUNKS = 64
PACED_MS = 4
"""Between two events of a stream that is paced: what an engine writes at 250 tokens a second."""
CHUNK = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "Hello "}, "finish_reason": None}],
    }
).encode()
USAGE = CHUNK.replace(
    b'"choices": [{"index": 0, "delta": {"content": "Hello "}, "finish_reason": null}]',
    b'"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": %d, "total_tokens": %d}' % (CHUNKS, CHUNKS + 5),
)
"""What vLLM adds to a stream where `stream_options.include_usage` asks for it, as LiteLLM always does."""

LAST_BYTES = b"\r\n0\r\n\r\n"


def whole_answer() -> bytes:
    """Return a completion as it goes over the wire."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER


def streamed_answer(*further: bytes) -> bytes:
    """Return a completion as a stream of CHUNKS events and these, each in a chunk of its own."""
    events = [b"data: " + CHUNK + b"\n\n"] * (CHUNKS - 1)
    events += [b"data: " + event + b"\n\n" for event in (CHUNK.replace(b"null", b'"stop"'), *further, b"[DONE]")]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def pieces_of(answer: bytes) -> list[bytes]:
    """Return a stream's head and each of its chunks."""
    return [piece for piece in re.split(rb"(?<=\n\n\r\n)|(?<=\r\n\r\n)", answer) if piece]


class Upstream(asyncio.Protocol):
    """Answers each request at once with the same bytes, and keeps the connection."""

    WHOLE, STREAMED, COUNTED = whole_answer(), streamed_answer(), streamed_answer(USAGE)
    STREAMED_PIECES, COUNTED_PIECES = pieces_of(STREAMED), pieces_of(COUNTED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with nothing read."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._read = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            whole = end + 4 + content_length(self._read[:end])
            if len(self._read) < whole:
                return
            body, self._read = self._read[end:whole], self._read[whole:]
            counted = re.search(rb'"include_usage": ?true', body) is not None
            if re.search(rb'"seed": ?%d' % PACED_MS, body):
                self._write_next(iter(self.COUNTED_PIECES if counted else self.STREAMED_PIECES))
            elif re.search(rb'"stream": ?true', body):
                self._transport.write(self.COUNTED if counted else self.STREAMED)
            else:
                self._transport.write(self.WHOLE)

    def _write_next(self, events: Iterator[bytes]) -> None:
        """Write an event, and the next one after a pause."""
        event = next(events, None)
        if event is not None and not self._transport.is_closing():
            self._transport.write(event)
            asyncio.get_running_loop().call_later(PACED_MS / 1000, self._write_next, events)


def content_length(head: bytes) -> int:
    """Return the length of the body that a head announces."""
    lines = head.lower().split(b"\r\n")
    return next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)


async def serve(port: int) -> None:
    """Be the upstream, until ended."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


def request_bytes(model: str, key: str, *, stream: bool = False, paced: bool = False) -> bytes:
    """Return one chat completion as it goes over the wire; the events of a paced stream come one by one."""
    asked: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 8,
    }
    asked |= {"stream": True, "max_tokens": CHUNKS} if stream or paced else {}
    asked |= {"seed": PACED_MS} if paced else {}
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: "
        f"application/json\r\nauthorization: Bearer {key}\r\n"
    )
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


async def ask_again(port: int, request: bytes, until: float, times_s: list[float]) -> int:
    """Ask on one connection until the moment `until`; return how many answers were not 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    failed = 0
    while (began := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head.lower():
            await reader.readuntil(LAST_BYTES)
        else:
            await reader.readexactly(content_length(head))
        times_s.append(time.perf_counter() - began)
        failed += head[9:12] != b"200"
    writer.close()
    return failed


def load(port: int, request: bytes, connections: int, seconds: float) -> tuple[list[float], int]:
    """Return the latencies of one load, and how many answers were not 200."""

    async def clients() -> int:
        until = time.perf_counter() + seconds
        return sum(await asyncio.gather(*(ask_again(port, request, until, times_s) for _ in range(connections))))

    times_s: list[float] = []
    return times_s, asyncio.run(clients())


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    with contextlib.suppress(FileNotFoundError):
        children = [
            child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
        return [pid, *(member for child in children for member in family(int(child)))]
    return []


def cpu_s(pids: Sequence[int]) -> float:
    """Return the processor time that these processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> int:
    """Return a process's share of memory: its own pages, and its part of those that it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a process group of its own, and end the group."""
    with log.open("wb") as written:
        process = subprocess.Popen(command, env=environment, stdout=written, stderr=written, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
