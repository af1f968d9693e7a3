"""Check how the gateway is published: beyond this machine only over TLS, or where a person has said otherwise."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path

from stackwright.domain.finding import Finding, error
from stackwright.project.credentials import TLS_FILES

GUIDE = "docs/how-to/publish.md"


def check_publishing(env: Mapping[str, str], secrets: Path, environment: str) -> Iterator[Finding]:
    """Find a gateway that others could listen to, and a certificate that cannot be used. `secrets` is the folder."""
    certificate, key = (secrets / name for name in TLS_FILES)
    given = [path.name for path in (certificate, key) if _holds_something(path)]
    if len(given) == 1:
        missing = key if given == [certificate.name] else certificate
        fix = f"put the other one into {missing}, with mode 0600; {GUIDE}"
        yield error("tls-incomplete", found=f"{given[0]} alone", expected="a certificate and its key", fix=fix)
    elif given:
        yield from _check_pair(certificate, key)
    beyond = not ipaddress.IPv4Address(env["GATEWAY_BIND"]).is_loopback
    if beyond and not given and env["GATEWAY_PLAIN_HTTP"] != "allowed":
        consent = f"`configure-gpu --env {environment} --set GATEWAY_PLAIN_HTTP=allowed`"
        yield error(
            "gateway-published",
            found=f"GATEWAY_BIND={env['GATEWAY_BIND']}, without TLS: keys and answers could be read on the way",
            expected="127.0.0.1, or TLS, or consent",
            fix=f"{GUIDE} says how to add a certificate; behind a proxy that does TLS: {consent}",
        )


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _check_pair(certificate: Path, key: Path) -> Iterator[Finding]:
    """Let OpenSSL load both, as the gateway will."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as failure:
        why = getattr(failure, "reason", None) or getattr(failure, "strerror", None) or str(failure)
        fix = f"PEM files that belong together, the key without a password; {GUIDE}"
        found = f"OpenSSL does not load {certificate.name} and {key.name}: {why}"
        yield error("tls-unusable", found=found, expected="a certificate and its key", fix=fix)


def _no_password() -> str:
    """Answer OpenSSL's question for a password, which it would ask on the terminal otherwise."""
    raise ValueError("the key is encrypted")
