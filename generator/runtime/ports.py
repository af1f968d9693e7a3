"""Ports of this machine: free ones, and services that answer on theirs. Touches the network of this machine only."""

from __future__ import annotations

import contextlib
import socket

PROBE_TIMEOUT_S = 4.0
"""As the health checks of compose.yaml."""


def is_free(address: str, port: int) -> bool:
    """Say whether a service could listen there now. Connections that linger after a stop do not count."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen()
        except OSError:
            return False
    return True


def http_answers(address: str, port: int, path: str) -> bool:
    """Say whether an HTTP service answers `path` with 200."""
    import http.client

    connection = http.client.HTTPConnection(address, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def redis_answers(port: int, password: str) -> bool:
    """Say whether the Redis of this machine accepts the password and answers PING."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PROBE_TIMEOUT_S) as connection:
        connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        reply = b""
        while reply.count(b"\r\n") < 2 and (part := connection.recv(256)):
            reply += part
        return reply == b"+OK\r\n+PONG\r\n"
    return False
