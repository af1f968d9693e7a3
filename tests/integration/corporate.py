"""A company's network on one machine: an authority of its own, a name for its hub, and a proxy that wants a login.

The proxy answers CONNECT alone (RFC 9110, 9.3.6), reaches every name on loopback, and notes who asked it for what.
Touches loopback, one address of this machine's bridge, and the folder that it is given.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

NAME = "hub.corp.test"
LOGIN = "me:s%40cret-of-the-proxy"


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority, and what it signed for the hub's name."""

    file: Path
    certificate: Path
    key: Path


def make_authority(folder: Path) -> Authority:
    """Make an authority and a certificate of `NAME`, with openssl."""
    folder.mkdir()
    days = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority, signed = folder / "authority.pem", folder / "hub.pem"
    steps = [
        ["req", "-x509", *days, "-subj", "/CN=Corp root", "-keyout", f"{folder}/root.key", "-out", str(authority)],
        ["req", *days, "-subj", f"/CN={NAME}", "-keyout", f"{folder}/hub.key", "-out", f"{folder}/hub.csr"],
        ["x509", "-req", "-in", f"{folder}/hub.csr", "-CA", str(authority), "-CAkey", f"{folder}/root.key"],
    ]
    names = folder / "names"
    names.write_text(f"subjectAltName=DNS:{NAME}\n")
    steps[-1] += ["-CAcreateserial", "-days", "2", "-extfile", str(names), "-out", str(signed)]
    for step in steps:
        subprocess.run(["openssl", *step], check=True, capture_output=True)
    return Authority(file=authority, certificate=signed, key=folder / "hub.key")


@dataclass(kw_only=True)
class Proxy:
    """A running proxy; `asked` holds the client's address and the target of every request that it let through."""

    address: str
    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its URL without a login."""
        return f"http://{self.address}:{self.port}"

    @property
    def with_login(self) -> str:
        """Its URL as a person's shell has it."""
        return f"http://{LOGIN}@{self.address}:{self.port}"


@contextlib.contextmanager
def serve_proxy(address: str) -> Iterator[Proxy]:
    """Run a proxy on an address of this machine until the block ends."""
    with _Server((address, 0), _Handler) as server:
        server.proxy = Proxy(address=address, port=server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    def do_CONNECT(self) -> None:
        """Join the client with loopback, whatever the name."""
        assert isinstance(self.server, _Server)
        expected = base64.b64encode(LOGIN.replace("%40", "@").encode()).decode()
        if self.headers["Proxy-Authorization"] != f"Basic {expected}":
            self.send_error(407)
            return
        self.server.proxy.asked.append((self.client_address[0], self.path))
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as target:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(target, self.connection))
            back.start()
            _pump(self.connection, target)
            back.join()

    def do_GET(self) -> None:
        """Note what should never have come here."""
        assert isinstance(self.server, _Server)
        self.server.proxy.asked.append((self.client_address[0], self.path))
        self.send_error(502)

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `Proxy.asked` holds what was asked."""


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
