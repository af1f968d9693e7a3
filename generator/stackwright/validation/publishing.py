"""How the gateway is published: beyond this machine only over TLS, or where a person has said otherwise."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from stackwright.domain.finding import Finding, error
from stackwright.domain.service import Front
from stackwright.validation.check import Check, Observation

GUIDE = "docs/how-to/publish.md"


class SeenCertificate(Struct, frozen=True, kw_only=True):
    """The certificate and its key: the names of those that hold something, and why OpenSSL does not load the two."""

    folder: Path
    given: tuple[str, ...]
    problem: str | None = None


def inspect_certificate(secrets: Path, tls: tuple[str, str]) -> SeenCertificate:
    """Look at both files in the folder of secrets, and let OpenSSL load them where both are given."""
    certificate, key = (secrets / name for name in tls)
    given = tuple(path.name for path in (certificate, key) if path.is_file() and path.stat().st_size > 0)
    problem = load_pair(certificate, key) if len(given) == len(tls) else None
    return SeenCertificate(folder=secrets, given=given, problem=problem)


def load_pair(certificate: Path, key: Path) -> str | None:
    """Let OpenSSL load both, as the gateway will; return why it does not."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as failure:
        return getattr(failure, "reason", None) or getattr(failure, "strerror", None) or str(failure)
    return None


def _no_password() -> str:
    """Answer OpenSSL's question for a password, which it would ask on the terminal otherwise."""
    raise ValueError("the key is encrypted")


def check_publishing(
    front: Front, env: Mapping[str, str], certificate: SeenCertificate, environment: str
) -> Iterator[Finding]:
    """Find a gateway that others could listen to, and a certificate that cannot be used."""
    given, pair = certificate.given, "a certificate and its key"
    if len(given) == 1:
        (missing,) = set(front.tls) - set(given)
        fix = f"put the other one into {certificate.folder / missing}, with mode 0600; {GUIDE}"
        yield error("tls-incomplete", found=f"{given[0]} alone", expected=pair, fix=fix)
    elif certificate.problem is not None:
        fix = f"replace them with matching PEM files, the key without a password; see {GUIDE}"
        found = f"OpenSSL does not load {' and '.join(front.tls)}: {certificate.problem}"
        yield error("tls-unusable", found=found, expected=pair, fix=fix)
    bind, consent = front.address[0].key, front.plain_http.key
    if not ipaddress.IPv4Address(env[bind]).is_loopback and not given and env[consent] != "allowed":
        allow = f"`configure-gpu {environment} --set {consent}=allowed`"
        yield error(
            "gateway-published",
            found=f"{bind}={env[bind]} without TLS exposes keys and answers",
            expected="127.0.0.1, or TLS, or consent",
            fix=f"add a certificate (see {GUIDE}); behind a TLS proxy: {allow}",
        )


CERTIFICATE = Observation(take=lambda machine: inspect_certificate(machine.stack.secrets, machine.stack.access.tls))


PUBLISHING = Check(
    name="publishing",
    about="an address beyond this machine needs TLS or consent (GATEWAY_PLAIN_HTTP); the certificate and its key",
    findings=tuple("gateway-published tls-incomplete tls-unusable".split()),
    rule=lambda on, certificate: check_publishing(on.stack.access, on.env, certificate, on.environment),
    observations=(CERTIFICATE,),
)
