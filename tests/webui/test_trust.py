"""How the front end asks a gateway over TLS: by its own certificate alone, and every other host as always."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from webui import GatewayTrust, trust_gateway

from tests.watching.test_tls import make_certificate, serving

pytestmark = pytest.mark.subprocess


async def greet(port: int, trust: GatewayTrust, host: str) -> bytes:
    """Ask the server of this port as `host`, and return the first line of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=host)
    try:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


def test_the_gateway_is_known_by_its_certificate_and_others_by_authorities(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path / "own")
    trust = trust_gateway("gateway", str(certificate))
    with serving(certificate) as port:
        assert asyncio.run(greet(port, trust, "gateway")).startswith(b"HTTP/1.0 200")
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(greet(port, trust, "llm.example.org"))
        certificate.write_bytes(make_certificate(tmp_path / "other").read_bytes())
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(greet(port, trust, "gateway"))
