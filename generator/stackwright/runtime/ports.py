"""Ports of this machine: free ones, and services that answer on theirs. Touches the network of this machine only."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from stackwright.domain.service import PROBE_TIMEOUT_S

if TYPE_CHECKING:
    from http.client import HTTPConnection

FIRST_PORT, PORTS = 20000, 12000
"""Inner ports lie below Linux's ephemeral range (32768 on), whose ports any outgoing connection may take."""


def choose_ports(names: Iterable[str], kept: Mapping[str, int], *, seed: int) -> dict[str, int]:
    """Give each name its kept port, or a free one on loopback; `seed` keeps two stacks from trying the same first."""
    chosen: dict[str, int] = {}
    candidate = seed % PORTS
    for name in names:
        port = kept.get(name)
        while port is None:
            candidate = (candidate + 1) % PORTS
            number = FIRST_PORT + candidate
            port = number if number not in kept.values() and is_free("127.0.0.1", number) else None
        chosen[name] = port
    return chosen


def is_free(address: str, port: int) -> bool:
    """Return whether a service could listen there now. Connections that linger after a stop do not count."""
    return why_taken(address, port) is None


def why_taken(address: str, port: int) -> OSError | None:
    """Return the kernel's refusal to let a service listen there; None where it would."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen()
        except OSError as failure:
            return failure
    return None


def http_text(address: str, port: int, path: str, limit_s: float) -> str | None:
    """Return what an HTTP service of this machine answers `path` with; None for anything but a 200 in time."""
    import http.client

    connection = http.client.HTTPConnection(address, port, timeout=limit_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return text if response.status == 200 else None


def http_answers(address: str, port: int, path: str, status: int = 200, *, tls: bool = False) -> bool:
    """Return whether an HTTP service of this machine answers `path` with a status, whatever its certificate says."""
    import http.client

    connection = (_trusting if tls else http.client.HTTPConnection)(address, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _trusting(address: str, port: int, timeout: float) -> HTTPConnection:
    """Connect over TLS to a service of our own: the question carries no secret."""
    import http.client
    import ssl

    return http.client.HTTPSConnection(address, port, timeout=timeout, context=ssl._create_unverified_context())


def socket_answers(address: str, port: int, sent: str, expected: str) -> bool:
    """Return whether a service of this machine answers `sent` with just `expected`."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), PROBE_TIMEOUT_S) as connection:
        connection.sendall(sent.encode())
        reply = b""
        while reply != expected.encode() and expected.encode().startswith(reply) and (part := connection.recv(256)):
            reply += part
        return reply == expected.encode()
    return False


def command_succeeds(words: tuple[str, ...]) -> bool:
    """Return whether a command ends with 0 in time."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
        return done.returncode == 0
    return False
