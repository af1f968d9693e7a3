"""Who may hold a connection to the gateway open, and what a request is answered that shows no right key.

uvicorn closes a kept connection after five quiet seconds, and lets one that never asks anything stay for ever, with as
long a head as it likes. 20,000 of those shut everybody out. Here a head has its time and its length, and those who have
not shown a key give way, the oldest of the address that has most of them first.

A request is admitted as soon as its head is there. What is refused gets its answer from here: no task, no body, nothing
of the application. A connection over which only wrong keys have come is then not read for a second, so that it cannot
ask as quickly as it is answered. serve.py gives uvicorn this class.
"""

import asyncio
import random
import resource
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

import httptools
from admission import Message, RefusedError, error_document, header
from keys import CALLER
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

HEAD_S = 10.0
"""For a request's head, from the connection or from its first byte on: browsers and libraries send it in one piece."""

HEAD_BYTES = 64 * 1024
"""As nginx has it at most (large_client_header_buffers, 4 of 8 KiB) and twice over."""

RESTS_S = 1.0
"""The least after a wrong key, and half of the most. A person does not see it, and a proxy that mixes its clients has
shown a right key by then.
"""

MOST_PIPELINED = 64
"""Requests that wait on a connection behind the one that is answered. uvicorn reads on after each answer, however many
wait (0.54.0 protocols/http/httptools_impl.py, `on_response_complete`).
"""


class _GivenUpError(Exception):
    """Ends the parser of a connection that is closed: it would go on through what has come."""


class Unkeyed:
    """The connections that have not shown a key, by address, each in the order in which they came."""

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


def admit_by(admit: Callable[[Message], None]) -> None:
    """Let each request's head be judged by this: it raises RefusedError, and notes a caller in the scope."""
    Connection.admit = admit


def hang_up(client: tuple[str, int] | None) -> None:
    """End the connection of a client that does not read what it asked for."""
    connection = _CONNECTIONS.get(client) if client else None
    if connection is not None:
        connection.give_way()


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a limit to a head's time and length, and with refusals of its own."""

    admit: ClassVar[Callable[[Message], None] | None] = None
    address = ""
    _is_keyed = _is_in_head = _is_refused = False
    _head_bytes = _fields_bytes = 0
    _head_ends: asyncio.TimerHandle | None = None
    _rests_until_s = 0.0
    _held = b""
    _goes_on: asyncio.TimerHandle | None = None

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
        if self._goes_on is not None:
            self._goes_on.cancel()
        UNKEYED.discard(self)
        if self.client:
            _CONNECTIONS.pop(self.client, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, if the head that this belongs to is not too long, and no wrong key has just come."""
        if self._rests_until_s > self.loop.time():
            self._hold(data)
            return
        if self._head_ends is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._head_ends is not None and self._head_bytes > HEAD_BYTES:
            self.give_way()

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._rests_until_s > self.loop.time():
            self._give_up()
        self._fields_bytes, self._is_in_head, self._is_refused = 0, True, False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or of the trailers, which come behind the last chunk and have no end of their own.

        uvicorn keeps both; a trailer is none of the head's fields, which have been judged.
        """
        self._fields_bytes += len(name) + len(value)
        if self._fields_bytes > HEAD_BYTES:
            self._give_up()
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head has come."""
        if self.parser.should_upgrade():
            return
        self._head_came()
        self._is_in_head = False
        super().on_headers_complete()
        if len(self.pipeline) > MOST_PIPELINED:
            self._give_up()

    def on_message_complete(self) -> None:
        """A request is whole."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless its head was refused, or nobody listens any more."""
        if self._is_refused:
            self.transport.close()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def give_way(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def _parse(self, data: bytes) -> None:
        """Read on. What is no HTTP is answered 400, and no line is written of it: strangers would fill the log."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            method = self.parser.get_method()
            if method == b"CONNECT":
                self.send_400_response("Invalid HTTP request received.")
                return
            head = self._head_without_offer(method)
            self.parser = httptools.HttpRequestParser(self)
            self._parse(head + data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _head_without_offer(self, method: bytes) -> bytes:
        """Return the head that has just been read, as if it offered no other protocol.

        A server may pass an offer over (RFC 9110, 7.8). Java's client offers HTTP/2 with each first request, whose body
        the parser would not read.
        """
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = (option.strip() for option in value.split(b","))
                lines.append(b"connection: " + b", ".join(one for one in options if one.lower() != b"upgrade"))
            elif name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join((*lines, b"", b""))

    def _give_up(self) -> None:
        self.give_way()
        raise _GivenUpError

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin with a request, if it may come in."""
        admit = type(self).admit
        try:
            if admit is not None:
                admit(cycle.scope)
        except RefusedError as refused:
            self._refuse(cycle, refused)
            return
        if not self._is_keyed and CALLER in cycle.scope:
            self._is_keyed = True
            UNKEYED.discard(self)
        super()._start_asgi_task(cycle, app)

    def _refuse(self, cycle: RequestResponseCycle, refused: RefusedError) -> None:
        scope = cycle.scope
        content = error_document(scope["path"], refused)
        lines = [STATUS_LINE[refused.status]]
        lines += [b"%b: %b\r\n" % pair for pair in cycle.default_headers]
        lines.append(b"content-type: application/json\r\nx-content-type-options: nosniff\r\n")
        lines.append(b"content-length: %d\r\n" % len(content))
        if header(scope, b"origin"):
            lines.append(b"access-control-allow-origin: *\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join((*lines, b"\r\n", b"" if scope["method"] == "HEAD" else content)))
        self._is_refused = cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        if not self._is_keyed:
            # By chance: those that came together do not come again together.
            self._rests_until_s = self.loop.time() + RESTS_S * (1 + random.random())
        cycle.on_response = None  # it holds this connection, which holds it: only the collector would end both
        self.on_response_complete()

    def _hold(self, data: bytes) -> None:
        """Keep what comes too early, and read no more until it may."""
        self._held += data
        if len(self._held) > HEAD_BYTES:
            self.give_way()
        elif self._goes_on is None:
            self.flow.pause_reading()
            self._goes_on = self.loop.call_at(self._rests_until_s, self._go_on)

    def _go_on(self) -> None:
        held, self._held, self._rests_until_s, self._goes_on = self._held, b"", 0.0, None
        self.flow.resume_reading()
        self.data_received(held)

    def _await_head(self) -> None:
        self._head_bytes, self._head_ends = 0, self.loop.call_later(HEAD_S, self.give_way)

    def _head_came(self) -> None:
        if self._head_ends is not None:
            self._head_ends.cancel()
            self._head_ends = None
