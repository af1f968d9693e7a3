"""How programs of this machine are told to reach the internet: proxies, certificate authorities, a hub's mirror.

Reads files below a root folder and Docker's configuration of this user; the parsers are pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from stackwright.detect.fact import Fact, Unread, is_plain, read_file
from stackwright.domain.host import Network, is_offline

BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Where distributions keep what an administrator trusts further, and the bundle that is made of it:
# update-ca-certificates(8) of Debian, update-ca-trust(8) of Fedora and RHEL, p11-kit's trust of Arch, SUSE's.
ANCHORS = (
    ("/usr/local/share/ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
    ("/etc/pki/ca-trust/source/anchors", "/etc/pki/tls/certs/ca-bundle.crt"),
    ("/etc/ca-certificates/trust-source/anchors", "/etc/ssl/certs/ca-certificates.crt"),
    ("/etc/pki/trust/anchors", "/var/lib/ca-certificates/ca-bundle.pem"),
)
DEFAULT_HUB = re.compile(r"https://(www\.)?huggingface\.co/*")
_URL = re.compile(r"(https?)://(?:([^/?#\s]*)@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?", re.ASCII)


class Proxy(Struct, frozen=True, kw_only=True):
    """A proxy: its URL without what it is to be shown, `login` that (`user:password`), and who is asked without it."""

    url: str
    login: str = ""
    direct: tuple[str, ...] = ()


def find_network(environment: Mapping[str, str], root: Path, daemon: Mapping[str, str]) -> Network | None:
    """Return what this user's shell, Docker's files and its daemon say; None where they say nothing.

    Args:
        daemon: the daemon's own `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, which reach no container.
    """
    proxy = find_proxy(environment, root, daemon)
    hub = environment.get("HF_ENDPOINT", "").rstrip("/")
    found = Network(
        proxy=proxy.url if proxy else None,
        no_proxy=proxy.direct if proxy else (),
        certificates=_find_certificates(environment, root),
        hub=hub if is_plain(hub) and not DEFAULT_HUB.fullmatch(hub) else None,
        offline=is_offline(environment),
    )
    return None if found == Network() else found


def find_proxy(environment: Mapping[str, str], root: Path, daemon: Mapping[str, str]) -> Proxy | None:
    """Return the proxy of the shell, else of Docker's configuration for containers, else of its daemon.

    Docker Desktop's own proxy (*.docker.internal) is in every daemon's answer there, and no container needs it.
    """
    named = _first(environment)
    if named is None:
        named = next((found for one in _docker_proxies(environment, root) if (found := _first(one))), None)
    if named is None and ".docker.internal" not in " ".join(daemon.values()):
        named = _first(daemon)
    return named


def _first(variables: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that variables name, that of https first: hubs are asked over it. `NO_PROXY=*` names none.

    The lower-case names come first (curl(1), Python's urllib.request.getproxies_environment).
    """
    for name in ("https_proxy", "all_proxy", "http_proxy"):
        text = variables.get(name) or variables.get(name.upper()) or ""
        url = _URL.fullmatch(text if "://" in text else f"http://{text}")
        direct = _hosts(variables.get("no_proxy") or variables.get("NO_PROXY") or "")
        if text and url and "*" not in direct:
            return Proxy(url=f"{url[1]}://{url[3]}{url[4] or ''}", login=url[2] or "", direct=direct)
    return None


def _hosts(text: str) -> tuple[str, ...]:
    """Split NO_PROXY; what no environment file can hold is left out."""
    hosts = (host.strip() for host in re.split(r"[,\s]+", text))
    return tuple(dict.fromkeys(host for host in hosts if re.fullmatch(r"[A-Za-z0-9.*:/\[\]_-]{1,200}", host)))


def _docker_proxies(environment: Mapping[str, str], root: Path) -> Iterator[dict[str, str]]:
    """Yield what Docker gives every container of this user (~/.docker/config.json, `proxies`), as variables."""
    folder = environment.get("DOCKER_CONFIG") or f"{environment.get('HOME', '')}/.docker"
    for proxies in parse_docker_proxies(read_file(root, f"{folder}/config.json")):
        names = {"httpsProxy": "HTTPS_PROXY", "httpProxy": "HTTP_PROXY", "allProxy": "ALL_PROXY", "noProxy": "NO_PROXY"}
        yield {name: value for key, name in names.items() if isinstance(value := proxies.get(key), str)}


def parse_docker_proxies(text: Fact[str]) -> tuple[Mapping[str, Any], ...]:
    """Read the proxies of Docker's configuration file, the `default` ones first."""
    try:
        document = {} if isinstance(text, Unread) else json.loads(text)
    except (ValueError, RecursionError):
        return ()
    proxies = document.get("proxies") if isinstance(document, dict) else None
    rows = sorted(proxies.items(), key=lambda row: row[0] != "default") if isinstance(proxies, dict) else ()
    return tuple(row for _, row in rows if isinstance(row, dict))


def _find_certificates(environment: Mapping[str, str], root: Path) -> str | None:
    """Return the bundle that this user's programs trust, unless it is the distribution's own, with nothing added."""
    added = {bundle for folder, bundle in ANCHORS if _holds_something(root / folder.lstrip("/"))}
    known = {bundle for _, bundle in ANCHORS}
    named = [environment[name] for name in BUNDLE_VARIABLES if environment.get(name)]
    for path in (*(path for path in named if path not in known), *sorted(added)):
        if path.startswith("/") and is_plain(path) and (root / path.lstrip("/")).is_file():
            return path
    return None


def _holds_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
