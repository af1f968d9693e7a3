"""Ports: chosen where nothing listens, and services told from what merely listens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from stackwright.runtime.ports import FIRST_PORT, PORTS, choose_ports, http_answers, is_free, socket_answers

PING = "AUTH word\r\nPING\r\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give a listening socket that its test answers on."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


def answer(listener: socket.socket, words: bytes) -> threading.Thread:
    """Answer one connection with `words`, whatever it asks."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(words)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_port_in_use_is_not_free(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert not is_free("127.0.0.1", port)
    listener.close()
    assert is_free("127.0.0.1", port)


def test_chosen_ports_are_free_distinct_and_kept() -> None:
    first = choose_ports(["engine", "engine-2", "redis"], {}, seed=PORTS - 1)
    assert len(set(first.values())) == 3
    assert all(FIRST_PORT <= port < 32768 for port in first.values())
    second = choose_ports(["engine", "engine-2", "engine-3"], first, seed=PORTS - 1)
    assert (second["engine"], second["engine-2"]) == (first["engine"], first["engine-2"])
    assert second["engine-3"] not in first.values()


def test_taken_port_is_passed_over() -> None:
    wanted = choose_ports(["engine"], {}, seed=77)["engine"]
    with socket.create_server(("127.0.0.1", wanted)):
        assert choose_ports(["engine"], {}, seed=77)["engine"] != wanted


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 503 Busy\r\n\r\n", False),
        (b"noise\n", False),
    ],
)
def test_only_a_200_is_an_answer(listener: socket.socket, words: bytes, expected: bool) -> None:
    thread = answer(listener, words)
    assert http_answers("127.0.0.1", listener.getsockname()[1], "/health") is expected
    thread.join()


@pytest.mark.parametrize(
    ("words", "expected"),
    [(b"+OK\r\n+PONG\r\n", True), (b"-WRONGPASS\r\n-NOAUTH\r\n", False), (b"", False)],
)
def test_redis_must_know_the_password(listener: socket.socket, words: bytes, expected: bool) -> None:
    thread = answer(listener, words)
    assert socket_answers("127.0.0.1", listener.getsockname()[1], PING, "+OK\r\n+PONG\r\n") is expected
    thread.join()


def test_nobody_there_is_no_answer(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert not http_answers("127.0.0.1", port, "/health")
    assert not socket_answers("127.0.0.1", port, PING, "+OK\r\n+PONG\r\n")
