"""How retrieval and the multimodal worker ask a gateway over TLS: by its own certificate alone, whatever its name."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

import pytest
from trust import trust_gateway

from tests.watching.test_tls import make_certificate, serving

pytestmark = pytest.mark.subprocess


def ask(port: int, certificate: Path) -> int:
    """Return the status of an answer from whoever has this certificate."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust_gateway(certificate))
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def test_only_the_gateways_own_certificate_is_trusted(tmp_path: Path) -> None:
    own, other = make_certificate(tmp_path / "own"), make_certificate(tmp_path / "other")
    with serving(own) as port:
        assert ask(port, own) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, other)
