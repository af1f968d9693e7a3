"""The gateway over TLS: asked by its address, trusted by its own certificate alone.

Real OpenSSL, a real HTTPS server.
"""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.runtime.ports import http_answers
from stackwright.services import access_to, base_services
from stackwright.validation.publishing import check_publishing, inspect_certificate
from stackwright.watching.probe import Endpoint, complete

pytestmark = pytest.mark.subprocess
BODY = b'{"choices": [{"message": {"content": "Hello."}}]}'


class Answering(BaseHTTPRequestHandler):
    """Gives a completion to whoever asks."""

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def make_certificate(folder: Path, name: str = "llm.example.org") -> Path:
    """Make a certificate and its key as the how-to does, for a name that no test resolves."""
    folder.mkdir(exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-keyout", folder / "tls_key", "-out", folder / "tls_certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "tls_certificate"


@contextmanager
def serving(certificate: Path) -> Iterator[int]:
    """Serve with a certificate, and give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("tls_key"))
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_the_gateway_is_known_by_its_certificate(tmp_path: Path) -> None:
    """Its name is another than the address by which it is asked; another's certificate is refused."""
    certificate, other = make_certificate(tmp_path / "own"), make_certificate(tmp_path / "other")
    with serving(certificate) as port:
        endpoint = Endpoint(bind="127.0.0.1", port=port, certificate=certificate)
        assert endpoint.url == f"https://127.0.0.1:{port}"
        assert complete(endpoint, "key", "m").text == "Hello."
        assert http_answers("127.0.0.1", port, "/health/readiness", tls=True)
        assert not http_answers("127.0.0.1", port, "/health/readiness")
        refused = complete(replace(endpoint, certificate=other), "key", "m")
    assert refused.status is None
    assert "certificate" in refused.text.lower()


def test_a_certificate_that_is_none_is_an_answer_too(tmp_path: Path) -> None:
    """The key is not sent then."""
    junk = tmp_path / "tls_certificate"
    junk.write_text("-----BEGIN CERTIFICATE-----\n")
    with serving(make_certificate(tmp_path / "own")) as port:
        answer = complete(Endpoint(bind="127.0.0.1", port=port, certificate=junk), "key", "m")
    assert answer.status is None


FRONT = access_to(base_services())


def checks(folder: Path, bind: str = "0.0.0.0", plain: str = "refused") -> list[str]:
    """Return the names of what is found."""
    env = {"GATEWAY_BIND": bind, "GATEWAY_PLAIN_HTTP": plain}
    return [finding.check for finding in check_publishing(FRONT, env, inspect_certificate(folder, FRONT.tls), "prod")]


def test_publishing_wider_takes_tls_or_consent(tmp_path: Path) -> None:
    """Nothing leaves this machine in the clear unasked."""
    assert checks(tmp_path, bind="127.0.0.1") == []
    assert checks(tmp_path, bind="127.0.0.2") == []
    assert checks(tmp_path) == ["gateway-published"]
    assert checks(tmp_path, bind="192.0.2.7") == ["gateway-published"]
    assert checks(tmp_path, plain="allowed") == []
    make_certificate(tmp_path)
    assert checks(tmp_path) == []


@pytest.mark.parametrize(
    ("certificate", "key", "found"),
    [
        ("own", "", "tls-incomplete"),
        ("", "own", "tls-incomplete"),
        ("own", "other", "tls-unusable"),
        ("junk", "own", "tls-unusable"),
        ("own", "encrypted", "tls-unusable"),
    ],
)
def test_a_pair_that_the_gateway_could_not_load_is_found(
    tmp_path: Path, certificate: str, key: str, found: str
) -> None:
    """Before a start, and without a question on the terminal."""
    texts = {"": "", "junk": "not PEM\n"}
    keys = {"": ""}
    for name in ("own", "other"):
        texts[name] = make_certificate(tmp_path / name).read_text()
        keys[name] = (tmp_path / name / "tls_key").read_text()
    if key == "encrypted":
        done = subprocess.run(
            ["openssl", "ec", "-aes256", "-passout", "pass:word", "-in", tmp_path / "own" / "tls_key"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        keys[key] = done.stdout
    (tmp_path / "tls_certificate").write_text(texts[certificate])
    (tmp_path / "tls_key").write_text(keys[key])
    assert checks(tmp_path) == [found]
