"""Keeps unit tests away from programs, daemons and the network.

Python's audit events tell of every such attempt before it happens, whichever library makes it, so nothing is patched:
a hook added once for the process (PEP 578: it cannot be removed) fails the running test unless the test may do that.
"""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass

import pytest

PROGRAM_EVENTS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"}
)
ADDRESS_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})


@dataclass(kw_only=True)
class Permission:
    """What the running test may do. Between tests, everything: pytest itself is at work."""

    programs: bool = True
    network: bool = True


def install(permission: Permission) -> None:
    """Begin to watch this process; `permission` is read at each attempt."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in PROGRAM_EVENTS and not permission.programs:
            pytest.fail(f"a unit test started a program ({event} {arguments[0]!r}); mark it `subprocess`", pytrace=True)
        if event in ADDRESS_EVENTS and not permission.network and not is_near(arguments[1], permission):
            pytest.fail(f"a test reached beyond this machine: {arguments[1]!r}", pytrace=True)
        if event == "socket.getaddrinfo" and not permission.network and not is_near((arguments[0],), permission):
            pytest.fail(f"a test looked up a name: {arguments[0]!r}", pytrace=True)

    sys.addaudithook(hook)


def is_near(address: object, permission: Permission) -> bool:
    """Say whether an address is loopback, or a Unix socket of a test that may start what listens on it."""
    if isinstance(address, tuple):
        return is_loopback(address[0])
    return permission.programs


def is_loopback(name: object) -> bool:
    """Say whether a host name or an address leads back to this machine without asking a name server."""
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if text is None or text in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(text)).is_loopback
    except ValueError:
        return False
