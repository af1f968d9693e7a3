"""Rules over disks, memory, swap, shared memory and limits."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.domain.finding import Finding
from stackwright.domain.machine import Disk, MemoryState, ModelFiles, ProcessLimits, Seen, Unseen
from stackwright.domain.plan import Mode
from stackwright.rendering.numbered import flat_settings
from stackwright.validation.capacity import (
    check_disks,
    check_limits,
    check_memory,
    check_shared_memory,
    check_swap,
    needed_bytes,
)
from stackwright.validation.compose_config import size_bytes

from tests.planning_requests import plan_for, recorded

GIB = 2**30
GPU_HOST, CPU_HOST = recorded("2x-rtx3090-nvlink"), recorded("cpu-large")
GPU_PLAN, CPU_PLAN = plan_for(GPU_HOST), plan_for(CPU_HOST)
GPU_ENV = {key: setting.value for key, setting in flat_settings(GPU_PLAN).items()}
CPU_ENV = {key: setting.value for key, setting in flat_settings(CPU_PLAN).items()}
WHOLE = ModelFiles(folder="/m", complete=True, weight_bytes=GIB, missing_bytes=0)


def told(findings: Iterable[Finding]) -> list[tuple[str, str, str]]:
    """Return what was found and how bad it is."""
    return [(each.check, each.severity.value, each.found) for each in findings]


def disk(free_bytes: int, *, device: int = 1, files: int | None = 1000) -> Disk:
    """Return a file system."""
    return Disk(path=f"/disk{device}", free_bytes=free_bytes, free_files=files, device=device)


def test_room_for_everything_has_no_finding() -> None:
    disks = {"models": disk(50 * GIB), "files": disk(50 * GIB)}
    assert told(check_disks(GPU_PLAN, disks, [replace(WHOLE, missing_bytes=49 * GIB)], {})) == []


def test_what_shares_a_file_system_is_added_up() -> None:
    disks = {"models": disk(50 * GIB), "images": disk(50 * GIB), "files": disk(GIB, device=2)}
    half = replace(WHOLE, complete=False, missing_bytes=45 * GIB)
    (finding,) = check_disks(GPU_PLAN, disks, [half], {"images": 11 * GIB})
    assert told([finding]) == [("disk", "error", "/disk1: 50.0 GiB free, 6.0 GiB too little")]
    assert finding.expected == "45.0 GiB for models and 11.0 GiB for images"
    assert finding.fix.startswith("free space (check `docker system df` and ")
    assert "STACKWRIGHT_STATE" not in finding.fix
    apart = disks | {"images": disk(12 * GIB, device=3)}
    assert told(check_disks(GPU_PLAN, apart, [half], {"images": 11 * GIB})) == []


def test_packages_are_moved_by_the_folder_that_holds_them() -> None:
    """Without Docker there are no images to remove, and the cache of models needs no room here."""
    unknown = ModelFiles(folder=None, complete=False)
    (unsure,) = check_disks(GPU_PLAN, {"models": disk(GIB)}, [WHOLE, unknown], {})
    assert unsure.found == "disk space for models: not checked: the size of the weights is unknown"
    assert told(check_disks(GPU_PLAN, {"models": disk(GIB)}, [replace(unknown, problem="damaged")], {})) == []
    (finding,) = check_disks(GPU_PLAN, {"models": disk(GIB), "packages": disk(GIB)}, [WHOLE], {"packages": 2 * GIB})
    assert finding.fix == (
        "free space (check `du -xh --max-depth=2`), "
        "or move the packages: `export STACKWRIGHT_STATE=…`, then `configure-gpu prod`"
    )


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (disk(0), ("disk-full", "error", "/disk1: no bytes free")),
        (disk(GIB, files=0), ("disk-full", "error", "/disk1: no files free")),
        (Unseen(why="gone"), ("not-checked", "warning", "disk space for files: not checked: gone")),
    ],
    ids=["bytes", "files", "unseen"],
)
def test_a_full_disk_is_an_error(seen: Seen[Disk], found: tuple[str, str, str]) -> None:
    assert told(check_disks(GPU_PLAN, {"files": seen}, [WHOLE], {})) == [found]


def memory(available: int, swap: int = 0, swap_free: int = 0) -> MemoryState:
    """Return memory in GiB."""
    return MemoryState(available_bytes=available * GIB, swap_bytes=swap * GIB, swap_free_bytes=swap_free * GIB)


def test_a_processor_holds_cache_and_weights() -> None:
    cache = int(CPU_ENV["VLLM_CPU_KVCACHE_SPACE"]) * GIB
    workers = int(CPU_ENV["LITELLM_NUM_WORKERS"]) * 360 * 10**6
    assert CPU_PLAN.mode is Mode.CPU
    assert needed_bytes(CPU_PLAN, CPU_ENV, [GIB]) - workers >= cache + GIB
    assert needed_bytes(GPU_PLAN, GPU_ENV, [GIB]) == int(GPU_ENV["LITELLM_NUM_WORKERS"]) * 360 * 10**6


def test_memory_that_is_there_and_free_has_no_finding() -> None:
    assert told(check_memory(CPU_PLAN, CPU_ENV, CPU_HOST, memory(10_000), [WHOLE])) == []
    assert told(check_memory(CPU_PLAN, CPU_ENV, CPU_HOST, memory(10_000), [Unseen(why="no")])) == []


@pytest.mark.parametrize(
    ("total_gib", "state", "check", "severity"),
    [
        (2, memory(1), "memory", "error"),
        (4096, memory(1), "memory-free", "warning"),
        (4096, memory(1, swap=4000, swap_free=4000), "swap", "warning"),
        (4096, Unseen(why="gone"), "not-checked", "warning"),
    ],
)
def test_memory_that_lacks_is_told(total_gib: int, state: Seen[MemoryState], check: str, severity: str) -> None:
    host = replace(CPU_HOST, memory_bytes=total_gib * GIB)
    ((found, bad, _),) = told(check_memory(CPU_PLAN, CPU_ENV, host, state, [WHOLE]))
    assert (found, bad) == (check, severity)


def test_windows_gives_half_and_says_where_to_ask_for_more() -> None:
    host = replace(CPU_HOST, memory_bytes=2 * GIB, os=replace(CPU_HOST.os, wsl=True))
    (finding,) = check_memory(CPU_PLAN, CPU_ENV, host, memory(1), [WHOLE])
    assert ".wslconfig" in finding.found


def test_a_machine_that_lives_in_its_swap_is_told() -> None:
    assert told(check_swap(GPU_PLAN, memory(8, swap=8, swap_free=8))) == []
    assert told(check_swap(GPU_PLAN, memory(2, swap=8, swap_free=1))) == [
        ("swap", "warning", "7.0 GiB of swap in use, 2.0 GiB of memory free")
    ]
    assert told(check_swap(GPU_PLAN, Unseen(why="no"))) == []


@pytest.mark.parametrize(
    ("shared", "found"),
    [
        (disk(64 * GIB), []),
        (disk(GIB), [("shared-memory", "warning", "/dev/shm: 1.0 GiB free")]),
        (disk(64 * 2**20), [("shared-memory", "error", "/dev/shm: 64 MiB free")]),
        (Unseen(why="gone"), [("not-checked", "warning", "shared memory: not checked: /dev/shm: gone")]),
    ],
    ids=["much", "less", "little", "unseen"],
)
def test_shared_memory_is_for_several_workers(shared: Seen[Disk], found: list[tuple[str, str, str]]) -> None:
    assert told(check_shared_memory(GPU_PLAN, GPU_ENV, shared)) == found
    assert told(check_shared_memory(plan_for(recorded("1x-h200")), GPU_ENV, shared)) == []


def test_the_fix_for_shared_memory_is_a_command() -> None:
    (finding,) = check_shared_memory(GPU_PLAN, GPU_ENV, disk(GIB))
    assert finding.fix == "`sudo mount -o remount,size=16g /dev/shm`"


@pytest.mark.parametrize(
    ("open_files", "locked", "infiniband", "found"),
    [
        (None, None, True, []),
        (16384, 2**16, False, []),
        (1024, None, False, ["open-files"]),
        (4096, 2**16, True, ["open-files", "locked-memory"]),
    ],
)
def test_limits(open_files: int | None, locked: int | None, infiniband: bool, found: list[str]) -> None:
    limits = ProcessLimits(open_files=open_files, locked_bytes=locked)
    assert [check for check, *_ in told(check_limits(GPU_PLAN, limits, infiniband=infiniband))] == found
    assert "locked-memory" not in [check for check, *_ in told(check_limits(CPU_PLAN, limits, infiniband=infiniband))]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16gb", 16 * GIB),
        ("16G", 16 * GIB),
        ("512m", 2**29),
        ("64k", 2**16),
        ("17179869184", 16 * GIB),
        ("", None),
        ("16 potatoes", None),
        ("²", None),
    ],
)
def test_sizes_as_compose_writes_them(text: str, size: int | None) -> None:
    assert size_bytes(text) == size


@given(
    free=st.integers(0, 2**50),
    files=st.none() | st.integers(0, 9),
    missing=st.none() | st.integers(0, 2**50),
    available=st.integers(0, 2**45),
    swap=st.integers(0, 2**45),
)
def test_any_machine_is_judged_with_a_remedy(
    free: int, files: int | None, missing: int | None, available: int, swap: int
) -> None:
    model = replace(WHOLE, missing_bytes=missing, weight_bytes=missing)
    state = MemoryState(available_bytes=available, swap_bytes=swap, swap_free_bytes=swap // 2)
    shown = Disk(path="/", free_bytes=free, free_files=files, device=1)
    for finding in (
        *check_disks(CPU_PLAN, {"models": shown, "files": shown}, [model], {}),
        *check_memory(CPU_PLAN, CPU_ENV, CPU_HOST, state, [model]),
        *check_swap(CPU_PLAN, state),
        *check_shared_memory(GPU_PLAN, GPU_ENV, shown),
    ):
        assert "`" in finding.fix
