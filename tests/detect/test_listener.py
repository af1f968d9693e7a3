"""Who listens on a port: a real socket of this process, and files of /proc as they could be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stackwright.detect.listener import find_listener


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_this_process_is_found_while_it_listens(family: socket.AddressFamily) -> None:
    with socket.socket(family) as taken:
        taken.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert find_listener(port) is None
        taken.listen()
        name = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
        assert find_listener(port) == f"{name} (pid {os.getpid()})"
    assert find_listener(port) is None


def test_a_process_without_a_name_is_one_all_the_same(tmp_path: Path) -> None:
    table = tmp_path / "proc/net/tcp"
    table.parent.mkdir(parents=True)
    table.write_text("  sl local\n 0: 0100007F:0FA0 00000000:0000 0A 0:0 00:0 0 0 0 777 1\n", encoding="utf-8")
    assert find_listener(4000, tmp_path) is None
    files = tmp_path / "proc/12/fd"
    files.mkdir(parents=True)
    (files / "3").symlink_to("socket:[777]")
    assert find_listener(4000, tmp_path) == "a process (pid 12)"
    assert find_listener(4001, tmp_path) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=300) | st.from_regex(r"( [0-9]: [0-9A-F:]{1,14} 0 0A( [0-9x]{1,4}){0,8}\n)*"))
def test_any_table_is_read(text: str, tmp_path: Path) -> None:
    table = tmp_path / "proc/net/tcp"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"head\n{text}", encoding="utf-8", errors="replace")
    assert find_listener(4000, tmp_path) is None
