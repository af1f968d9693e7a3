"""A model hub on loopback that the real huggingface_hub downloads from: one repository, open or gated.

Speaks what huggingface_hub 2.4 asks for to look a repository up and to fetch its files (hub API documentation and
the client's own source: hf_api.py, file_download.py, utils/_http.py): repository and tree listings, and
`resolve` with HEAD, Range, ETag, X-Repo-Commit and X-Error-Code. Serves the files of one folder; writes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

COMMIT = hashlib.sha1(b"the only commit of the fake hub").hexdigest()


class Hub(Struct, frozen=True, kw_only=True):
    """One repository at one address. `token` is what a gated repository asks for; None where it is open.

    `requests` collects `METHOD PATH` of everything that was asked.
    """

    url: str
    repository: str
    folder: Path
    token: str | None
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve_hub(
    folder: Path,
    repository: str,
    *,
    token: str | None = None,
    certificate: tuple[Path, Path] | None = None,
    name: str = "127.0.0.1",
) -> Iterator[Hub]:
    """Serve `folder` as the main branch of `repository` until the block ends.

    Over TLS with a `certificate` and its key, which is then for `name`.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        scheme = "http"
        if certificate is not None:
            scheme, tls = "https", ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(*certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        url = f"{scheme}://{name}:{server.server_port}"
        server.hub = Hub(url=url, repository=repository, folder=folder, token=token)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    """A server that knows its hub; `server_port` is known only once it listens."""

    daemon_threads = True
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    """Answers for the hub of its server."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        """The hub that was asked."""
        assert isinstance(self.server, _Server)
        return self.server.hub

    def do_HEAD(self) -> None:
        """Answer a request for headers alone."""
        self.do_GET()

    def do_POST(self) -> None:
        """Answer `paths-info`, the only thing that a download posts; everything else is not here."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def do_GET(self) -> None:
        """Answer listings and files."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        name = re.escape(self.hub.repository)
        if not re.match(rf"^(/api/models)?/{name}(/|$)", path):
            return self._fail(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        if re.fullmatch(rf"/api/models/{name}(/revision/[^/]+)?", path):
            # The hub lists a gated repository for everyone; only its files are kept back.
            return self._send_json(self._listing())
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._fail(HTTPStatus.FORBIDDEN, "GatedRepo")
        if re.fullmatch(rf"/api/models/{name}/(tree|paths-info)/[^/]+", path):
            return self._send_json(self._tree())
        found = re.fullmatch(rf"/{name}/resolve/[^/]+/(.+)", path)
        file = self.hub.folder / found.group(1) if found else None
        if file is None or not file.is_file():
            return self._fail(HTTPStatus.NOT_FOUND, "EntryNotFound")
        return self._send_file(file.read_bytes())

    def _listing(self) -> dict[str, object]:
        files = [{"rfilename": file.name} for file in sorted(self.hub.folder.iterdir())]
        gated = "manual" if self.hub.token else False
        named = {"id": self.hub.repository, "modelId": self.hub.repository, "sha": COMMIT, "siblings": files}
        return {**named, "private": False, "gated": gated, "disabled": False, "tags": [], "downloads": 0, "likes": 0}

    def _tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file.read_bytes())[:40]}
            for file in sorted(self.hub.folder.iterdir())
        ]

    def _send_file(self, content: bytes) -> None:
        """Send a file, or the part of it that was asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first = int(wanted.group(1)) if wanted else 0
        last = int(wanted.group(2)) if wanted and wanted.group(2) else len(content) - 1
        part = content[first : last + 1]
        headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self._send(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK, part, headers)

    def _send_json(self, document: object) -> None:
        headers = {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        self._send(HTTPStatus.OK, json.dumps(document).encode(), headers)

    def _fail(self, status: HTTPStatus, code: str) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `Hub.requests` holds what was asked."""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
