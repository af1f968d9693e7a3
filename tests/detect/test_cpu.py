"""The processor, the memory and the kernel: parsers, and small machines that the recorded hosts do not show."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stackwright.detect.cpu import (
    FLAGS,
    granted,
    parse_cpuinfo,
    parse_flags,
    parse_meminfo,
    parse_model,
    probe_cpu,
    probe_memory,
    probe_operating_system,
    usable_processors,
)
from stackwright.detect.fact import Missing, is_plain
from stackwright.detect.limits import ResourceLimits
from stackwright.domain.host import Cpu, OperatingSystem

from tests.detect.test_limits import write_tree

UNLIMITED = ResourceLimits(affinity=None, cpus=None, memory_bytes=None)

ARM = """\
processor\t: 0
BogoMIPS\t: 2000.00
Features\t: fp asimd evtstrm aes asimdhp asimddp sve bf16 i8mm
CPU implementer\t: 0x41

processor\t: 1
BogoMIPS\t: 2000.00
Features\t: fp asimd evtstrm aes asimdhp asimddp bf16 i8mm
CPU implementer\t: 0x41
"""


@given(text=st.text() | st.text(st.sampled_from("processor: \tphysical idcore01239\n")))
def test_parsers_take_any_text(text: str) -> None:
    """Any text is some processors; what is named of them is plain and known."""
    processors = parse_cpuinfo(text)
    assert all(processor.number >= 0 for processor in processors)
    assert (model := parse_model(processors)) is None or is_plain(model)
    assert set(parse_flags(processors)) <= set(FLAGS)
    assert parse_meminfo(text).get("MemTotal", 0) >= 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example writes the same file whole
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 2)),
    flags=st.lists(st.sampled_from([*FLAGS, "fpu", "lm"]), unique=True),
)
def test_cpuinfo_is_read_whole(tmp_path: Path, shape: tuple[int, int, int], flags: list[str]) -> None:
    """Sockets × cores × threads come back as cores and threads, and the flags in the snapshot's order."""
    sockets, cores, threads = shape
    places = [(socket, core) for _ in range(threads) for socket in range(sockets) for core in range(cores)]
    text = "\n".join(
        f"processor\t: {number}\nmodel name\t: A  B\n"
        f"physical id\t: {socket}\ncore id\t: {core}\nflags\t: {' '.join(flags)}\n"
        for number, (socket, core) in enumerate(places)
    )
    root = write_tree(tmp_path, {"proc/cpuinfo": text})
    cpu, warnings = probe_cpu(root, UNLIMITED, [])
    assert (cpu.model, cpu.cores, cpu.threads) == ("A B", sockets * cores, sockets * cores * threads)
    assert cpu.flags == tuple(flag for flag in FLAGS if flag in flags)
    assert warnings == ()


def test_arm_names_no_model_and_leaves_cores_to_sys(tmp_path: Path) -> None:
    """Cores come from /sys, the flags are those of every core, and the missing model has a warning."""
    topology = {
        f"sys/devices/system/cpu/cpu{number}/topology/{name}": f"{value}\n"
        for number in (0, 1)
        for name, value in (("physical_package_id", 0), ("core_id", number))
    }
    nodes = {"sys/devices/system/node/online": "0-1\n", "sys/devices/system/node/node0/cpulist": "0-1\n"}
    # The second node is a Grace Hopper's GPU memory: no CPUs.
    nodes["sys/devices/system/node/node1/cpulist"] = "\n"
    root = write_tree(tmp_path, {"proc/cpuinfo": ARM} | topology | nodes)
    missing: list[Missing] = []
    cpu, _ = probe_cpu(root, UNLIMITED, missing)
    flags = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16")
    assert cpu == Cpu(model=None, cores=2, threads=2, numa_nodes=1, flags=flags)
    assert missing == [Missing(subject="CPU", fact="model", words="/proc/cpuinfo names none")]


def test_machine_without_proc_and_sys(tmp_path: Path) -> None:
    """Nothing is guessed, and each file that is not there is named once."""
    missing: list[Missing] = []
    cpu, _ = probe_cpu(tmp_path, UNLIMITED, missing)
    memory_bytes, _ = probe_memory(tmp_path, UNLIMITED, missing)
    system = probe_operating_system(tmp_path, missing)
    assert cpu == Cpu(model=None, cores=None, threads=None, numa_nodes=None, flags=())
    assert memory_bytes is None
    assert system == OperatingSystem(kernel=None, wsl=None)
    assert [row.words for row in missing] == [
        "/proc/cpuinfo: No such file or directory",
        "/sys/devices/system/node/online: No such file or directory",
        "/proc/meminfo: No such file or directory",
        "/proc/sys/kernel/osrelease: No such file or directory",
    ]


def test_malformed_files_are_missing_facts(tmp_path: Path) -> None:
    """Files without the facts are as good as none, and say so."""
    files = {
        "proc/cpuinfo": "processor\t: zero\n\nprocessor\t: 0\n",
        "proc/meminfo": "MemTotal: lots kB\n",
        "sys/devices/system/node/online": "all\n",
        "proc/sys/kernel/osrelease": "\n",
    }
    root = write_tree(tmp_path, files)
    missing: list[Missing] = []
    cpu, _ = probe_cpu(root, UNLIMITED, missing)
    assert probe_memory(root, UNLIMITED, missing) == (None, ())
    assert probe_operating_system(root, missing) == OperatingSystem(kernel=None, wsl=None)
    assert cpu == Cpu(model=None, cores=None, threads=1, numa_nodes=None, flags=())
    assert [(row.subject, row.fact, row.words) for row in missing] == [
        ("CPU", "cores", "neither /proc/cpuinfo nor /sys lists them"),
        ("CPU", "model", "/proc/cpuinfo names none"),
        ("CPU", "flags", "/proc/cpuinfo names none"),
        ("CPU", "NUMA nodes", "/sys/devices/system/node/online is malformed"),
        ("memory", "size", "/proc/meminfo has no MemTotal"),
        ("kernel", "release", "not plain text"),
    ]


@given(count=st.integers(1, 1000), cpus=st.none() | st.floats(0.001, 2000))
def test_granted_is_whole_and_within(count: int, cpus: float | None) -> None:
    """A quota leaves at least one CPU, never more than there are, and never more than it pays for."""
    whole = granted(count, cpus)
    assert 1 <= whole <= count
    assert cpus is None or whole == 1 or whole <= cpus


def test_affinity_that_names_no_listed_processor_counts_for_nothing() -> None:
    """A container whose /proc/cpuinfo is renumbered keeps what it shows."""
    processors = parse_cpuinfo("processor: 0\n\nprocessor: 1\n")
    limits = ResourceLimits(affinity=frozenset({64, 65}), cpus=None, memory_bytes=None)
    assert usable_processors(processors, limits) == processors
    some = ResourceLimits(affinity=frozenset({1, 65}), cpus=None, memory_bytes=None)
    assert [processor.number for processor in usable_processors(processors, some)] == [1]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, (2**30, ())),
        (2**31, (2**30, ())),
        (2**30, (2**30, ())),
        (2**28, (2**28, ("memory: the control group limits this process to 256 MiB of 1.0 GiB",))),
    ],
)
def test_memory_is_what_the_group_grants(
    tmp_path: Path, limit: int | None, expected: tuple[int, tuple[str, ...]]
) -> None:
    """A limit below the machine's memory is the memory, and is said."""
    root = write_tree(tmp_path, {"proc/meminfo": "MemTotal:        1048576 kB\nMemFree: 1 kB\n"})
    assert probe_memory(root, ResourceLimits(affinity=None, cpus=None, memory_bytes=limit), []) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/sys/kernel/osrelease": "6.8.0-49-generic\n"}, OperatingSystem(kernel="6.8.0-49-generic", wsl=False)),
        (
            {"proc/sys/kernel/osrelease": "4.4.0-19041-Microsoft\n"},
            OperatingSystem(kernel="4.4.0-19041-Microsoft", wsl=True),
        ),
        (
            {"proc/sys/kernel/osrelease": "6.9.1-mine\n", "proc/sys/fs/binfmt_misc/WSLInterop": "enabled\n"},
            OperatingSystem(kernel="6.9.1-mine", wsl=True),
        ),
    ],
)
def test_windows_subsystem_is_told_apart(tmp_path: Path, files: dict[str, str], expected: OperatingSystem) -> None:
    """By the kernel's name, or by its way to run Windows programs."""
    assert probe_operating_system(write_tree(tmp_path, files), []) == expected
