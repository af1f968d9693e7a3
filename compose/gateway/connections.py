"""Who may hold a connection to the gateway open: whoever asks something, with the right key.

uvicorn closes a kept connection after five quiet seconds, and lets one that never asks anything stay for ever, with as
long a head as it likes. 20,000 of those shut everybody out. Here a head has its time and its length, and those who have
not shown the key give way, the oldest of the address that has most of them first. serve.py gives uvicorn this class.
"""

import asyncio
import resource
from collections import OrderedDict
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 10.0
"""For a request's head, from the connection or from its first byte on: browsers and libraries send it in one piece."""

HEAD_BYTES = 64 * 1024
"""As nginx has it at most (large_client_header_buffers, 4 of 8 KiB) and twice over."""


MOST_PIPELINED = 64
"""Requests that wait on a connection behind the one that is answered. uvicorn reads on after each answer, however many
wait (0.54.0 protocols/http/httptools_impl.py, `on_response_complete`).
"""


class Unkeyed:
    """The connections that have not shown the key, by address, each in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._by_address: dict[str, OrderedDict[Connection, None]] = {}

    def add(self, connection: "Connection") -> None:
        """Take one in; where there are too many, end the oldest of the address that has the most."""
        self._by_address.setdefault(connection.address, OrderedDict())[connection] = None
        self._count += 1
        if self._count > self._most:
            most = max(self._by_address.values(), key=len)
            next(iter(most)).give_way()

    def discard(self, connection: "Connection") -> None:
        """Forget one: it is gone, or has shown the key."""
        of_address = self._by_address.get(connection.address, {})
        if connection in of_address:
            del of_address[connection]
            self._count -= 1
            if not of_address:
                del self._by_address[connection.address]


UNKEYED = Unkeyed(max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
_CONNECTIONS: dict[tuple[str, int], "Connection"] = {}


def note_key(client: tuple[str, int] | None) -> None:
    """Remember that the right key came over the connection of this client."""
    connection = _CONNECTIONS.get(client) if client else None
    if connection is not None:
        UNKEYED.discard(connection)


def hang_up(client: tuple[str, int] | None) -> None:
    """End the connection of a client that does not read what it asked for."""
    connection = _CONNECTIONS.get(client) if client else None
    if connection is not None:
        connection.give_way()


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a limit to a head's time and length."""

    address = ""
    _head_bytes = _fields_bytes = 0
    _head_ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        if self.client:
            _CONNECTIONS[self.client] = self
        self._await_head()
        UNKEYED.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head_came()
        UNKEYED.discard(self)
        if self.client:
            _CONNECTIONS.pop(self.client, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, if the head that this belongs to is not too long."""
        if self._head_ends is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        if self._head_ends is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_ends is not None and self._head_bytes > HEAD_BYTES:
            self.give_way()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._fields_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or of the trailers, which come behind the last chunk and have no end of their own.

        uvicorn keeps both.
        """
        self._fields_bytes += len(name) + len(value)
        if self._fields_bytes > HEAD_BYTES:
            self.give_way()
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head has come."""
        self._head_came()
        super().on_headers_complete()
        if len(self.pipeline) > MOST_PIPELINED:
            self.give_way()

    def give_way(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_bytes, self._head_ends = 0, self.loop.call_later(HEAD_S, self.give_way)

    def _head_came(self) -> None:
        if self._head_ends is not None:
            self._head_ends.cancel()
            self._head_ends = None
