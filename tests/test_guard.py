"""The guard itself: unit tests cannot start programs or reach beyond loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.guard import is_loopback

# TEST-NET-1 of RFC 5737: routed nowhere, should the guard fail to stop it.
ELSEWHERE = "192.0.2.1"


def test_a_unit_test_cannot_start_a_program() -> None:
    with pytest.raises(pytest.fail.Exception, match="mark it `subprocess`"):
        subprocess.run([sys.executable, "-c", ""], check=False)
    with pytest.raises(pytest.fail.Exception, match="mark it `subprocess`"):
        os.system("true")


def test_a_unit_test_cannot_reach_beyond_this_machine() -> None:
    with socket.socket() as asking, pytest.raises(pytest.fail.Exception, match="beyond this machine"):
        asking.connect_ex((ELSEWHERE, 80))
    with pytest.raises(pytest.fail.Exception, match="looked up a name"):
        socket.create_connection((ELSEWHERE, 80), timeout=0.1)
    with pytest.raises(pytest.fail.Exception, match="looked up a name"):
        urllib.request.urlopen("http://example.org", timeout=0.1)


def test_a_unit_test_cannot_ask_a_daemon() -> None:
    with socket.socket(socket.AF_UNIX) as asking, pytest.raises(pytest.fail.Exception, match="beyond this machine"):
        asking.connect("/var/run/docker.sock")


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


@pytest.mark.subprocess
def test_a_marked_test_may_start_a_program() -> None:
    assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=False).returncode == 3


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        (b"127.0.0.2", True),
        (None, True),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback_is_told_by_address(name: object, near: bool) -> None:
    assert is_loopback(name) is near
