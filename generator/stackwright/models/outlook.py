"""What a place sees of the world: a hub's answer, folders that can be read and written, locks that hold.

Asked by the host's own checks, and inside a container, whose Python runs this file's text: it imports nothing of ours.
Touches the network and the folders that it is given; leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import ssl
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

PATIENCE_S = 5


class _Unredirected(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the answer that it is: the file exists, and the token stays with the hub."""

    def redirect_request(self, *_: object) -> None:
        """Follow nothing; urllib then raises the redirect as an HTTPError."""
        return


def ask_address(url: str, token: str | None, variables: Mapping[str, str]) -> dict[str, Any]:
    """Ask for a file's headers as programs with these variables would, which name the proxy and the authorities.

    Returns `status`, `code` (X-Error-Code) and `date`; or `why` there is no answer.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=headers, method="HEAD")
        authorities = ssl.create_default_context()
        if variables.get("SSL_CERT_FILE"):
            authorities.load_verify_locations(variables["SSL_CERT_FILE"])
        handlers = (_proxies(url, variables), urllib.request.HTTPSHandler(context=authorities), _Unredirected)
        with urllib.request.build_opener(*handlers).open(request, timeout=PATIENCE_S) as response:
            status, told = response.status, response.headers
    except urllib.error.HTTPError as refusal:
        with refusal:
            status, told = refusal.code, refusal.headers
    except (OSError, HTTPException, ValueError) as failure:  # URLError is an OSError; ValueError: no such host name
        reason = getattr(failure, "reason", failure)
        words = getattr(reason, "strerror", None) or str(reason) or type(failure).__name__
        return {"why": str(words)[:160]}
    return {"status": status, "code": told.get("X-Error-Code", ""), "date": told.get("Date")}


def _proxies(url: str, variables: Mapping[str, str]) -> urllib.request.ProxyHandler:
    """Return the proxies that variables name, none where they except the address's host."""
    named = {name.lower(): value for name, value in variables.items() if name.isupper()}
    named |= {name: value for name, value in variables.items() if name.islower()}
    host = urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
    # The mapping's type is a plain one in typeshed, and urllib asks it for `no` alone.
    if urllib.request.proxy_bypass_environment(host, {"no": named.get("no_proxy", "")}):  # type: ignore[attr-defined]
        return urllib.request.ProxyHandler({})
    both = {scheme: named.get(f"{scheme}_proxy") or named.get("all_proxy") for scheme in ("http", "https")}
    return urllib.request.ProxyHandler({scheme: proxy for scheme, proxy in both.items() if proxy})


def try_writing(folder: str) -> str | None:
    """Return why no file can be made in a folder; None where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as failure:
        return failure.strerror or "cannot be written"


def try_reading(folder: str) -> str | None:
    """Return the first of a folder's files that cannot be read, and why; None where all can."""
    try:
        for path in sorted(Path(folder).iterdir()):
            if not path.is_dir():
                with path.open("rb") as file:
                    file.read(1)
    except OSError as failure:
        return f"{failure.filename or folder}: {failure.strerror}"
    return None


def try_locking(folder: str) -> str | None:
    """Return why a lock in a folder does not keep a second one out; None where it does.

    Downloads and compilers lock by flock(2) (filelock 4.2, UnixFileLock), and wait for ever where that fails.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as first, Path(first.name).open("rb") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "two programs get the same lock"
    except OSError as failure:
        return failure.strerror or "no lock"
    return None


def look_around(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Answer everything at once: `urls`, and folders to `write`, to `read` and to `lock`, each with what is wrong."""
    token = Path(asked["token"]).read_text(encoding="ascii").strip() if asked["token"] else None
    checks: dict[str, Callable[[str], str | None]] = {"write": try_writing, "read": try_reading, "lock": try_locking}
    answer: dict[str, Any] = {"urls": {url: ask_address(url, token, os.environ) for url in asked["urls"]}}
    for name, check in checks.items():
        answer[name] = {folder: why for folder in asked[name] if (why := check(folder)) is not None}
    return answer


if __name__ == "__main__":
    print(json.dumps(look_around(json.loads(sys.argv[1]))))
