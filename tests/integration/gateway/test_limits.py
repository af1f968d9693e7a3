"""The door under load: the real gateway with the files that are rendered, before an upstream that only waits.

Runs LiteLLM from the environment of the processes runtime, and Redis; touches loopback and the test's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import Struct
from stackwright.project.credentials import read_gateway_key
from stackwright.runtime import Stack

from tests.integration.gateway.conftest import LANES
from tests.integration.gateway.exchange import Ask, exchange
from tests.integration.gateway.front import held_slots, run_gateway, until, write_project
from tests.integration.project import free_port
from tests.planning_requests import plan_for, recorded

ANSWER_S = 120

CHAT = "/v1/chat/completions"
# By each of these LiteLLM would find the model, and the door's limits would not: they are kept by name.
OTHER_NAMES = ("smoke,smoke", "smoke,", "hosted_vllm/smoke", "SMOKE", "*", "", None, ["smoke"])
VECTORS = b'{"model": "smoke", "input": "words"}'
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
COMPLETION = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def refused_asks(key: str) -> tuple[tuple[Ask, int], ...]:
    """Return requests that are refused, and how."""
    surrogate = rb'{"model": "smoke", "messages": [{"role": "user", "content": "\ud800"}]}'
    return (
        (Ask(path=CHAT, content=b"[]", key=key), 400),
        (Ask(path=CHAT, content=b"[]"), 401),
        (Ask(path=CHAT, content=b"null", key="sk-wrong"), 401),
        (Ask(path=CHAT, content=b'{"model": "smoke"', key=key), 400),
        (Ask(path=CHAT, content=b'{"a":' * 1000 + b"1" + b"}" * 1000, key=key), 400),
        (Ask(path=CHAT, content=surrogate, key=key), 400),
        (Ask(path=CHAT, content=b'{"model": "smoke", "timeout": 999}', key=key), 400),
        (Ask(path="/vllm/pause", content=b"{}", key=key), 404),
        (Ask(path="/openapi.json", method="GET"), 404),
        (Ask(path="/v1/models", method="GET"), 401),
        (Ask(path=CHAT, content=b"x" * 10_000, key=key), 413),
        (Ask(path=CHAT, content=b"x" * 10_000), 401),
    )


@dataclass
class Upstream:
    """A server that answers a completion when `go` is set; it remembers what it was asked, in order, and its fullest
    moment.
    """

    go: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, content: str) -> None:
        """Note a request and hold it until `go`."""
        with self.lock:
            self.asked.append(content)
            self.now += 1
            self.most = max(self.most, self.now)
        self.go.wait(ANSWER_S)
        with self.lock:
            self.now -= 1


@contextlib.contextmanager
def serve(upstream: Upstream) -> Iterator[int]:
    """Run an upstream and give its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            upstream.answer(asked["messages"][-1]["content"])
            body = json.dumps({**COMPLETION, "usage": USAGE}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        upstream.go.set()
        server.shutdown()


class Gateway(Struct, frozen=True, kw_only=True):
    """A running gateway before `upstream`."""

    stack: Stack
    upstream: Upstream

    @property
    def port(self) -> int:
        """The gateway's port."""
        return int(self.stack.env["GATEWAY_PORT"])

    @property
    def key(self) -> str:
        """The key that opens it."""
        return read_gateway_key(self.stack.secrets)

    def ask(self, content: str, **further: object) -> tuple[int, str, str]:
        """Ask for a completion; return status, Retry-After and body."""
        body = json.dumps({"model": "smoke", "messages": [{"role": "user", "content": content}], **further}).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        address = f"http://127.0.0.1:{self.port}{CHAT}"
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=ANSWER_S) as answer:
                return answer.status, "", answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.headers.get("Retry-After", ""), refusal.read().decode()

    def admitted(self) -> int:
        """Return how many requests work or wait."""
        return held_slots(self.stack)


MakeGateway = Callable[..., contextlib.AbstractContextManager[Gateway]]


@pytest.fixture
def make_gateway(state_folder: Path, tmp_path: Path) -> MakeGateway:
    """Give a maker of gateways with settings of their own, started as both runtimes start them: by start.sh."""

    @contextlib.contextmanager
    def make(**pins: str) -> Iterator[Gateway]:
        plan = plan_for(recorded("cpu-small"), pins={**pins, "GATEWAY_PORT": str(free_port())})
        stack, upstream = write_project(tmp_path, tmp_path / "state", plan), Upstream()
        with serve(upstream) as engine_port, run_gateway(stack, state_folder, {"engine": engine_port}):
            yield Gateway(stack=stack, upstream=upstream)

    return make


@pytest.mark.parametrize("lane", LANES)
def test_so_many_work_so_many_wait_and_the_next_is_refused(make_gateway: MakeGateway, lane: str) -> None:
    """Exactly, over two workers: 3 at work, 4 waiting, everything else 429 with a time to come back."""
    limits = {"GATEWAY_MAX_CONCURRENT_REQUESTS": "3", "GATEWAY_MAX_QUEUED_REQUESTS": "4"}
    with (
        make_gateway(LITELLM_NUM_WORKERS="2", GATEWAY_DIRECT=lane, **limits) as gateway,
        ThreadPoolExecutor(20) as clients,
    ):
        asked = [clients.submit(gateway.ask, f"request {number}") for number in range(20)]
        until(lambda: sum(each.done() for each in asked) == 13, ANSWER_S)
        # Those that got a slot are on their way: a worker's first request loads much.
        until(lambda: gateway.upstream.now == 3, ANSWER_S)
        gateway.upstream.go.set()
        answers = [each.result() for each in asked]
        gateway.upstream.asked.clear()
        others = [gateway.ask("another way in", model=name) for name in OTHER_NAMES]
        kind = asyncio.run(exchange(gateway.port, Ask(path="/v1/embeddings", content=VECTORS, key=gateway.key)))
        assert gateway.upstream.asked == []
    assert Counter(status for status, _, _ in answers) == {200: 7, 429: 13}
    assert gateway.upstream.most == 3
    refused = [(int(later), body) for status, later, body in answers if status == 429]
    assert all(later >= 1 and "all 3 slots are in use and 4 requests are queued" in body for later, body in refused)
    assert [status for status, _, _ in others] == [400] * len(others)
    assert "smoke,smoke" in others[0][2]
    assert (kind.status, kind.message) == (400, "`smoke` is served for chat, not for embedding")


@pytest.mark.parametrize("lane", LANES)
def test_those_who_wait_go_by_priority_then_in_order_and_who_is_gone_is_left_out(
    make_gateway: MakeGateway, lane: str
) -> None:
    """One place, one worker: the order in which the upstream sees them."""
    limits = {"GATEWAY_MAX_CONCURRENT_REQUESTS": "1", "GATEWAY_MAX_QUEUED_REQUESTS": "9"}
    with (
        make_gateway(LITELLM_NUM_WORKERS="1", GATEWAY_DIRECT=lane, **limits) as gateway,
        ThreadPoolExecutor(8) as clients,
    ):
        upstream = gateway.upstream
        asked = [clients.submit(gateway.ask, "first")]
        until(lambda: upstream.asked == ["first"], ANSWER_S)
        for content, priority in (("later", 200), ("a", None), ("b", None), ("soon", 1), ("c", None)):
            asked.append(clients.submit(gateway.ask, content, **({"priority": priority} if priority else {})))
            until(lambda: gateway.admitted() == len(asked), ANSWER_S)
        leave_once_queued(gateway, "gone")
        upstream.go.set()
        assert {each.result()[0] for each in asked} == {200}
    assert upstream.asked == ["first", "soon", "a", "b", "c", "later"]


def leave_once_queued(gateway: Gateway, content: str) -> None:
    """Send a request, and close the connection once it waits; return when the gateway knows."""
    before = gateway.admitted()
    body = json.dumps({"model": "smoke", "messages": [{"role": "user", "content": content}]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: gateway.admitted() == before + 1, ANSWER_S)
    until(lambda: gateway.admitted() == before, ANSWER_S)


@pytest.mark.parametrize("lane", LANES)
def test_what_cannot_fit_is_refused_and_a_key_has_so_many_requests(make_gateway: MakeGateway, lane: str) -> None:
    """400 before the upstream sees it; the words of the limit at most pass; the fourth request of a minute is 429.

    What LiteLLM never sees, or cannot read, is none of the four.
    """
    limits = {
        "GATEWAY_MAX_INPUT_TOKENS": "100",
        "GATEWAY_KEY_REQUESTS_PER_MINUTE": "4",
        "GATEWAY_MAX_BODY_BYTES": "9999",
    }
    with make_gateway(LITELLM_NUM_WORKERS="1", GATEWAY_DIRECT=lane, **limits) as gateway:
        gateway.upstream.go.set()
        asks = refused_asks(gateway.key)
        refused = [asyncio.run(exchange(gateway.port, ask)) for ask, _ in asks]
        assert [answer.status for answer in refused] == [status for _, status in asks]
        assert all(answer.message for answer in refused)
        status, _, body = gateway.ask("word " * 101)
        assert (status, gateway.upstream.asked) == (400, [])
        assert "at least 101 tokens; this model takes 100" in body
        assert gateway.ask("word " * 100)[0] == 200
        answers = [gateway.ask("more") for _ in range(4)]
    assert answers[-1][0] == 429
    assert int(answers[-1][1]) >= 1
    assert [status for status, _, _ in answers].count(200) in (2, 3)
