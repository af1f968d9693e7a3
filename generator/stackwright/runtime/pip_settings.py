"""Where a person has told pip to look for packages, in uv's words: uv reads nothing of pip's settings.

Reads pip's configuration files and the variables that it is given. Standard library only and no import from the
package: scripts/virtual_environment.py loads this file by itself, before anything is installed.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from pathlib import Path

CONSTRAINTS = "UV_CONSTRAINT"
PYPI = "https://pypi.org/simple"


def uv_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv look where pip would; what is set for uv itself stays as it is.

    pip treats its indexes as equals and takes the best file of all. uv is told to take the best version of all; of two
    indexes that have it, it takes the first one's files alone, so PyPI, or what stands for it, comes before the others,
    which may lack the files for this machine.
    """
    options = read_options(environ)
    first = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or options.get("index-url") or PYPI
    further = options.get("extra-index-url", "").split()
    bundle = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or ""
    wanted = {
        "UV_DEFAULT_INDEX": "" if "UV_INDEX_URL" in environ else options.get("index-url", ""),
        "UV_INDEX": " ".join([first, *further]) if further and "UV_EXTRA_INDEX_URL" not in environ else "",
        "UV_INDEX_STRATEGY": "unsafe-best-match" if further else "",
        "UV_FIND_LINKS": ",".join(filter(None, map(_location, options.get("find-links", "").split()))),
        CONSTRAINTS: " ".join(filter(None, map(_location, options.get("constraint", "").split()))),
        "UV_INSECURE_HOST": " ".join(options.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": options.get("timeout", options.get("default-timeout", "")),
        "UV_HTTP_RETRIES": options.get("retries", ""),
        "SSL_CERT_FILE": options.get("cert", bundle),
        "SSL_CLIENT_CERT": options.get("client-cert", ""),
        "ALL_PROXY": options.get("proxy", ""),
    }
    return {name: value for name, value in wanted.items() if value and name not in environ}


def forbids_index(environ: Mapping[str, str]) -> bool:
    """Return whether pip is told to ask no index at all (`no-index`), for which uv has an argument and no variable."""
    return read_options(environ).get("no-index", "").lower() in ("1", "y", "yes", "t", "true", "on")


def read_options(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what pip's `install` is told: its files from the widest to the narrowest, then the variables PIP_*.

    The order is pip's own (pip 26, "Configuration", "Precedence"); an empty value counts as none.
    """
    merged: dict[str, str] = {}
    if environ.get("PIP_CONFIG_FILE") != os.devnull:
        read = [_options_of(path) for path in _files(environ)]
        for section in ("global", "install"):
            for options in read:
                merged |= options.get(section, {})
    variables = {name[4:]: value for name, value in environ.items() if name.startswith("PIP_") and value}
    return merged | {_spelled(name): value for name, value in variables.items()}


def _files(environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ.get("HOME") or Path.home())
    wide = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [*(Path(folder) / "pip" / "pip.conf" for folder in wide), Path("/etc/pip.conf")]
    files += [home / ".pip" / "pip.conf", own / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    return files + ([Path(environ["PIP_CONFIG_FILE"])] if environ.get("PIP_CONFIG_FILE") else [])


def _options_of(path: Path) -> dict[str, dict[str, str]]:
    """Read one file by section; one that is not there or not to be read says nothing."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}
    return {
        name: {_spelled(option): value for option, value in parser.items(name) if value} for name in parser.sections()
    }


def _spelled(option: str) -> str:
    return option.lower().replace("_", "-")


def _location(text: str) -> str:
    """Return an address as it is and a path in full, since uv runs elsewhere.

    Pip passes over paths that lead nowhere.
    """
    if "://" in text:
        return text
    path = Path(text).expanduser().absolute()
    return str(path) if path.exists() else ""
