"""`stackwright backup` and `restore` against a stand-in for the proxy; the real one is in integration/retrieval."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.commands import CPU, Run

ARCHIVE = b"an archive" * 300_000
TOLD = {"collections": 2, "documents": 80, "lost": 0}


class Proxy(ThreadingHTTPServer):
    """Gives an archive, `cut` after so many bytes; takes one, unless `there` says what it would replace."""

    daemon_threads = True
    cut: int | None = None
    there = ""
    taken = b""


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(ARCHIVE)))
        self.end_headers()
        self.wfile.write(ARCHIVE[: self.server.cut])

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.there and "overwrite" not in self.path:
            self.answer(409, {"error": {"message": self.server.there}})
        elif not content:
            self.answer(400, {"error": {"message": "the backup is not whole"}})
        else:
            self.server.taken = content
            self.answer(200, TOLD)

    def answer(self, status: int, fields: object) -> None:
        content = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Give a running stand-in."""
    with Proxy(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def configured(run: Run, proxy: Proxy) -> None:
    """Configure a project whose retrieval proxy is the stand-in."""
    ran = run(*CPU, "--with=retrieval", f"--set=RETRIEVAL_PORT={proxy.server_address[1]}", host="cpu-small")
    assert ran.code in (0, 5), ran.err  # a plan without an embedding model does not pass


@pytest.mark.usefixtures("configured")
def test_a_backup_is_written_whole_and_for_its_owner_alone(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"

    ran = run("backup", "dev", file)

    assert (ran.code, file.read_bytes(), file.stat().st_mode & 0o777) == (0, ARCHIVE, 0o600)
    assert f"to bring it back: stackwright restore dev {file}" in ran.err


@pytest.mark.usefixtures("configured")
def test_a_file_that_is_there_stays(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    file.write_bytes(b"mine")

    ran = run("backup", "dev", file)

    assert (ran.code, file.read_bytes()) == (2, b"mine")
    assert f"error: {file} is there already" in ran.err


@pytest.mark.usefixtures("configured")
def test_one_that_breaks_off_leaves_nothing(run: Run, proxy: Proxy, tmp_path: Path) -> None:
    proxy.cut = 1_500_000

    ran = run("backup", "dev", tmp_path / "backup.tar")

    assert ran.code == 6
    assert "error: retrieval of dev does not answer: " in ran.err
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


@pytest.mark.usefixtures("configured")
def test_what_was_saved_comes_back(run: Run, proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    file.write_bytes(ARCHIVE)

    ran = run("restore", "dev", file)

    assert (ran.code, proxy.taken) == (0, ARCHIVE)
    assert "restored 2 collections with 80 documents\n" in ran.err


@pytest.mark.usefixtures("configured")
def test_documents_are_replaced_only_where_that_is_said(run: Run, proxy: Proxy, tmp_path: Path) -> None:
    proxy.there = "there are 2 collections, which this would replace"
    file = tmp_path / "backup.tar"
    file.write_bytes(ARCHIVE)

    refused = run("restore", "dev", file)
    assert (refused.code, proxy.taken) == (2, b"")
    assert f"error: {proxy.there}\nhint: " in refused.err
    assert f"restore dev {file} --overwrite" in refused.err

    assert (run("restore", "dev", file, "--overwrite").code, proxy.taken) == (0, ARCHIVE)


def test_without_retrieval_there_is_nothing_to_save(run: Run, tmp_path: Path) -> None:
    assert run(*CPU, host="cpu-small").code == 0

    ran = run("backup", "dev", tmp_path / "backup.tar")

    assert ran.code == 2
    assert "error: dev has no retrieval, and so no documents" in ran.err
