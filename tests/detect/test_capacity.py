"""Room on disks, memory and limits of this machine, and of the files that tell them elsewhere."""

from __future__ import annotations

import resource
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from stackwright.detect.capacity import (
    has_infiniband,
    read_disk,
    read_memory,
    read_process_limits,
)
from stackwright.detect.cpu import parse_meminfo
from stackwright.domain.machine import Disk, MemoryState, Unseen


def test_a_folder_that_is_yet_to_be_made_is_measured_where_it_will_be(tmp_path: Path) -> None:
    there, later = read_disk(tmp_path), read_disk(tmp_path / "models" / "hub")
    assert isinstance(there, Disk)
    assert isinstance(later, Disk)
    assert (there.path, later.path, there.device) == (str(tmp_path), str(tmp_path), tmp_path.stat().st_dev)
    assert there.free_bytes > 0


def test_a_folder_that_cannot_be_is_unseen(tmp_path: Path) -> None:
    assert read_disk(tmp_path / ("x" * 300)) == Unseen(why="File name too long")


def test_memory_and_swap_are_read(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    file = tmp_path / "proc/meminfo"
    assert isinstance(read_memory(tmp_path), Unseen)
    file.write_text("MemTotal: 9 kB\nMemAvailable:  4 kB\nSwapTotal: 2 kB\nSwapFree: 1 kB\nHugePages_Total: 0\n")
    assert read_memory(tmp_path) == MemoryState(available_bytes=4096, swap_bytes=2048, swap_free_bytes=1024)
    file.write_text("MemTotal: 9 kB\n")
    assert read_memory(tmp_path) == Unseen(why="/proc/meminfo has no MemAvailable")


@given(text=st.text() | st.from_regex(r"(Mem[A-Za-z]+: +-?[0-9²]{1,25} kB\n)*"))
def test_whatever_meminfo_says_sizes_are_not_negative(text: str) -> None:
    assert all(value >= 0 for value in parse_meminfo(text).values())


def test_limits_are_this_process_own() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert read_process_limits().open_files == (None if hard == resource.RLIM_INFINITY else hard)


def test_adapters_are_looked_for() -> None:
    assert has_infiniband() == any(Path("/sys/class").glob("infiniband/*"))
