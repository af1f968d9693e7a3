"""How a service of the stack trusts the gateway over TLS. Standard library alone; mounted beside whoever asks it."""

import ssl
from pathlib import Path
from typing import Any


def certificate_in(secrets: Path) -> Path | None:
    """Return the gateway's certificate among a service's secrets; None where it has none: the file is empty."""
    certificate = secrets / "tls_certificate"
    return certificate if certificate.is_file() and certificate.stat().st_size > 0 else None


class GatewayTrust(ssl.SSLContext):
    """Trusts the gateway's own certificate and no other, whatever name it has: inside it is asked by another one.

    `host`: where it is asked; other hosts are known by their authorities. None: it alone is asked.
    The file is read at each connection: a certificate is renewed.
    """

    certificate: Path
    host: str | None

    def wrap_socket(self, *given: Any, **named: Any) -> ssl.SSLSocket:
        """Begin TLS on a connection."""
        own = self._own(named.get("server_hostname"))
        return super().wrap_socket(*given, **named) if own is None else own.wrap_socket(*given, **named)

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        """Begin TLS on a connection of asyncio's."""
        own = self._own(named.get("server_hostname"))
        return super().wrap_bio(*given, **named) if own is None else own.wrap_bio(*given, **named)

    def _own(self, asked: str | None) -> ssl.SSLContext | None:
        """Return how the gateway is known; None where another host is asked."""
        if self.host not in (None, asked):
            return None
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        own.check_hostname = False
        own.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        own.load_verify_locations(self.certificate)
        return own


def trust_gateway(certificate: Path, host: str | None = None) -> GatewayTrust:
    """Return how TLS is spoken with the gateway that has this certificate; with `host`, with others as always."""
    trust = GatewayTrust(ssl.PROTOCOL_TLS_CLIENT)
    if host is not None:
        trust.load_default_certs()
    trust.certificate, trust.host = certificate, host
    return trust
