"""Limits: affinity and control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.detect.limits import (
    ResourceLimits,
    cgroup_folders,
    parse_affinity,
    parse_byte_limit,
    parse_cpu_list,
    parse_cpu_max,
    read_limits,
)

LISTS = st.text(st.sampled_from("0123456789,- \n"), max_size=20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-3,8,10-11\n", frozenset({0, 1, 2, 3, 8, 10, 11})),
        ("7", frozenset({7})),
        ("\n", frozenset()),
        ("0-", None),
        ("-1", None),
        ("3-99999999999", None),
        ("0,,1", None),
        ("two", None),
    ],
)
def test_cpu_list(text: str, expected: frozenset[int] | None) -> None:
    """The kernel's form, and nothing else."""
    assert parse_cpu_list(text) == expected


@given(text=LISTS)
def test_cpu_list_takes_any_text(text: str) -> None:
    """Any text is a set of bearable numbers or None."""
    numbers = parse_cpu_list(text)
    assert numbers is None or all(0 <= number < 2**16 for number in numbers)


@given(numbers=st.frozensets(st.integers(0, 600), min_size=1))
def test_cpu_list_reads_every_set(numbers: frozenset[int]) -> None:
    """A list of single numbers is the set of them."""
    assert parse_cpu_list(",".join(str(number) for number in sorted(numbers))) == numbers


@given(text=st.text())
def test_parsers_take_any_text(text: str) -> None:
    """Any text is a positive limit or none; folders stay below the mount."""
    affinity = parse_affinity(f"Cpus_allowed_list:\t{text}")
    assert affinity is None or all(number >= 0 for number in affinity)
    assert (parse_cpu_max(text) or 1) > 0
    assert (parse_byte_limit(text) or 1) > 0
    for folder in cgroup_folders(f"0::{text}", "cpu"):
        assert folder.startswith("/sys/fs/cgroup")
        assert ".." not in folder.split("/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("400000 100000\n", 4.0),
        ("150000 100000", 1.5),
        ("max 100000", None),
        ("0 100000", None),
        ("1 0", None),
        ("1", None),
    ],
)
def test_cpu_max(text: str, expected: float | None) -> None:
    """Time by period; `max` is no limit."""
    assert parse_cpu_max(text) == expected


def test_cgroup_folders_of_both_versions() -> None:
    """Innermost first, up to the mount, for the unified group and for the controller's own."""
    text = "9:name=systemd:/\n4:memory:/pod/box\n2:cpu,cpuacct:/pod\n0::/user/me\n"
    assert cgroup_folders(text, "memory") == (
        "/sys/fs/cgroup/memory/pod/box",
        "/sys/fs/cgroup/memory/pod",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/user/me",
        "/sys/fs/cgroup/user",
        "/sys/fs/cgroup",
    )
    assert cgroup_folders(text, "cpu")[:4] == (
        "/sys/fs/cgroup/cpu/pod",
        "/sys/fs/cgroup/cpu",
        "/sys/fs/cgroup/cpu,cpuacct/pod",
        "/sys/fs/cgroup/cpu,cpuacct",
    )


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """Write files of a machine below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ResourceLimits(affinity=None, cpus=None, memory_bytes=None)),
        (
            # Version 2, nested: the tightest of each kind counts, wherever it stands.
            {
                "proc/self/status": "Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\n",
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/memory.max": "4294967296\n",
                "sys/fs/cgroup/a/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.max": "1073741824\n",
            },
            ResourceLimits(affinity=frozenset(range(4)), cpus=2.0, memory_bytes=2**30),
        ),
        (
            # Version 1 in a container without a namespace: the text names a path of the host, the mount is the group.
            {
                "proc/self/cgroup": "4:memory:/docker/0123\n1:cpu,cpuacct:/docker/0123\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
            },
            ResourceLimits(affinity=None, cpus=0.5, memory_bytes=2**29),
        ),
        (
            # Version 1 without limits.
            {
                "proc/self/cgroup": "4:memory:/\n1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            ResourceLimits(affinity=None, cpus=None, memory_bytes=9223372036854771712),
        ),
        (
            # A group outside this namespace.
            {"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "4096\n"},
            ResourceLimits(affinity=None, cpus=None, memory_bytes=4096),
        ),
    ],
    ids=["nothing", "v2-nested", "v1-container", "v1-unlimited", "outside"],
)
def test_limits_of_a_machine(tmp_path: Path, files: dict[str, str], expected: ResourceLimits) -> None:
    """Every file together."""
    assert read_limits(write_tree(tmp_path, files)) == expected
