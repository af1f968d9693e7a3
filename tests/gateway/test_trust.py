"""How services of the stack ask a gateway over TLS: by its own certificate alone, whatever its name."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from pathlib import Path

import pytest
from trust import GatewayTrust, certificate_in, trust_gateway

from tests.watching.test_tls import make_certificate, serving

pytestmark = pytest.mark.subprocess


def ask(port: int, trust: GatewayTrust) -> int:
    """Return the status of an answer."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


async def greet(port: int, trust: GatewayTrust, host: str) -> bytes:
    """Ask the server of this port as `host`, as aiohttp does, and return the first line of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=host)
    try:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


def test_only_the_gateways_own_certificate_is_trusted_and_a_renewed_one_at_once(tmp_path: Path) -> None:
    own, other = make_certificate(tmp_path / "own"), make_certificate(tmp_path / "other")
    known = tmp_path / "tls_certificate"
    known.write_bytes(own.read_bytes())
    trust = trust_gateway(known)
    with serving(own) as port:
        assert ask(port, trust) == 200
        known.write_bytes(other.read_bytes())
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, trust)
    with serving(other) as port:
        assert ask(port, trust) == 200


def test_the_gateway_is_known_by_its_certificate_and_others_by_authorities(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path / "own")
    trust = trust_gateway(certificate, "gateway")
    with serving(certificate) as port:
        assert asyncio.run(greet(port, trust, "gateway")).startswith(b"HTTP/1.0 200")
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(greet(port, trust, "llm.example.org"))
        certificate.write_bytes(make_certificate(tmp_path / "other").read_bytes())
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(greet(port, trust, "gateway"))


def test_an_empty_file_is_no_certificate(tmp_path: Path) -> None:
    assert certificate_in(tmp_path) is None
    held = tmp_path / "tls_certificate"
    held.touch()
    assert certificate_in(tmp_path) is None
    held.write_text("-----BEGIN CERTIFICATE-----")
    assert certificate_in(tmp_path) == held
