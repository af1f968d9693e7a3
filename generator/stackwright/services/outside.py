"""The way out of a container: a proxy, further certificate authorities, a hub's mirror, SELinux's label. Pure.

A service has none of it unless its setting is in the plan, and what stays inside never takes the proxy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from stackwright.domain.service import FileRef, HostFolder, Joined, MountedFile, ScratchRef, Service, SettingRef, Word
from stackwright.domain.setting_spec import Kind, SettingSpec
from stackwright.services.engine import ENGINE, OUTSIDE

PROXY, DIRECT, CERTIFICATES = "OUTBOUND_PROXY", "OUTBOUND_NO_PROXY", "CA_CERTIFICATES"
HUB, OFFLINE, LABEL = "HF_ENDPOINT", "HF_HUB_OFFLINE", "SELINUX_LABEL"
_SECTION = "Network"

SETTINGS = (
    SettingSpec(key=PROXY, section=_SECTION, kind=Kind.URL, meaning="HTTP proxy for downloads"),
    SettingSpec(key=DIRECT, section=_SECTION, kind=Kind.TEXT, meaning="Hosts reached without the proxy, with commas"),
    SettingSpec(
        key=CERTIFICATES,
        section=_SECTION,
        kind=Kind.PATH,
        meaning="PEM file of certificate authorities to trust beside the public ones",
    ),
    SettingSpec(key=HUB, section=_SECTION, kind=Kind.URL, meaning="Mirror of the Hugging Face hub"),
    SettingSpec(
        key=OFFLINE,
        section=_SECTION,
        kind=Kind.TEXT,
        meaning="1: no hub is asked; the models must be in HF_HOME",
        choices=("1", "0"),
    ),
    SettingSpec(key=LABEL, section=_SECTION, kind=Kind.TEXT, meaning="SELinux option of the containers: label=…"),
)
KEYS = frozenset(spec.key for spec in SETTINGS)

LOGIN = "proxy_login"
"""The secret that holds `user:password` for the proxy, or nothing."""

# What is read by whom: SSL_CERT_FILE by OpenSSL and so by Python's ssl, httpx, aiohttp, uv and hf_xet (rustls), the
# others by requests, pip and curl (their documentation, 2026-11).
_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Programs disagree on which spelling they read: curl takes http_proxy in lower case only.
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
_INSIDE = ("localhost", "127.0.0.1", "::1")


def way_out(env: Mapping[str, str], login: str) -> dict[str, str]:
    """Return the variables of the way out, as a start script exports them, for the values in force."""
    scheme, _, rest = env.get(PROXY, "").partition("://")
    url = f"{scheme}://{login}{'@' * bool(login)}{rest}"
    proxies = {**dict.fromkeys(_PROXIES, url), "no_proxy": env.get(DIRECT, "")} if rest else {}
    return proxies | (dict.fromkeys(_BUNDLES, env[CERTIFICATES]) if CERTIFICATES in env else {})


def with_way_out(service: Service, names: Collection[str], keys: Collection[str]) -> Service:
    """Return a service with what it needs to reach the world.

    Args:
        names: those of all services of its stack, which are never asked through a proxy.
        keys: the settings of the plan.
    """
    environment: dict[str, Word] = {}
    if PROXY in keys:
        direct: tuple[str | SettingRef, ...] = (",", SettingRef(key=DIRECT)) if DIRECT in keys else ()
        inside = Joined(parts=(",".join((*_INSIDE, *names)), *direct))
        environment |= dict.fromkeys(("NO_PROXY", "no_proxy"), inside)
    if LABEL in keys:
        service = replace(service, security=replace(service.security, label=SettingRef(key=LABEL)))
    if service.downloads:
        service = _downloading(service, keys)
        environment |= dict.fromkeys(_PROXIES if PROXY in keys else (), SettingRef(key=PROXY))
        environment |= dict.fromkeys(_BUNDLES if CERTIFICATES in keys else (), SettingRef(key=CERTIFICATES))
        environment |= {
            key: SettingRef(key=key) for key in (HUB, OFFLINE) if key in keys and key in service.environment
        }
    return replace(service, environment={**service.environment, **environment}) if environment else service


def _downloading(service: Service, keys: Collection[str]) -> Service:
    """Return a service with the files of the way out: the login, the authorities, and the script that joins them."""
    folders = (HostFolder(path=SettingRef(key=CERTIFICATES), read_only=True),) if CERTIFICATES in keys else ()
    secrets = (LOGIN,) if PROXY in keys else ()
    if not (folders or secrets):
        return service
    service = replace(service, folders=(*service.folders, *folders), secrets=(*service.secrets, *secrets))
    if service.script is None:
        return service
    file = MountedFile(source=f"{ENGINE.name}/{OUTSIDE}", name=OUTSIDE)
    has_it = any(not mounted.name for mounted in service.files)
    script: Mapping[str, Word] = {
        "OUTSIDE": FileRef(name=OUTSIDE),
        "TRUSTED": ScratchRef(name=f"{service.name}.authorities.pem"),
    }
    return replace(
        service,
        files=service.files if has_it else (*service.files, file),
        environment={**service.environment, **script},
    )
