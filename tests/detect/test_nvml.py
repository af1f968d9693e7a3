"""The real pynvml over the fake library: what each failure at the boundary makes of a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from stackwright.detect.nvml import sysfs_address

from tests.detect.conftest import DetectHosts, Shown
from tests.fakes.nvml import build_fake_nvml

WELL = """\
system driver_version 580.95.05
system cuda_version 13000
gpu 0-1 name NVIDIA GeForce RTX 3090
gpu 0 uuid GPU-aaaa
gpu 1 uuid GPU-bbbb
gpu 0-1 memory 1000 10
gpu 0-1 compute_capability 8.6
gpu 0-1 mig 0
gpu 0 pci_bus_id 00000000:01:00.0
gpu 1 pci_bus_id 00000000:02:00.0
gpu 0 lane 0-3 gpu 1 5
gpu 1 lane 0-3 gpu 0 5
pair 0-1 0-1 ancestor 30
pair 0-1 0-1 p2p 0
"""

# Each function of the boundary, and the places of the snapshot that its failure for GPU 1 leaves null.
FUNCTIONS = {
    "nvmlDeviceGetName": ["gpus.1.name"],
    "nvmlDeviceGetUUID": ["gpus.1.uuid"],
    "nvmlDeviceGetMemoryInfo": ["gpus.1.memory_bytes", "gpus.1.memory_used_bytes"],
    "nvmlDeviceGetCudaComputeCapability": ["gpus.1.compute_capability"],
    "nvmlDeviceGetPciInfo_v3": ["gpus.1.numa_node", "gpus.1.pci_bus_id"],
    "nvmlDeviceGetMigMode": ["gpus.1.mig"],
    # The other end still names its lanes and their version.
    "nvmlDeviceGetNvLinkState": [],
    "nvmlDeviceGetNvLinkRemotePciInfo_v2": [],
    "nvmlDeviceGetNvLinkRemoteDeviceType": [],
    "nvmlDeviceGetNvLinkVersion": [],
    # Not asked where NVLink is found.
    "nvmlDeviceGetTopologyCommonAncestor": [],
    "nvmlDeviceGetP2PStatus": ["p2p.0.1", "p2p.1.0"],
}
SILENT = {"nvmlDeviceGetNvLinkRemoteDeviceType", "nvmlDeviceGetTopologyCommonAncestor"}

CODES = {
    3: "Not Supported",
    4: "Insufficient Permissions",
    13: "Function Not Found",
    15: "GPU is lost",
    16: "GPU requires restart",
    17: "The operating system has blocked the request",
    27: "Not Ready",
    999: "Unknown Error",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write the files of a machine with two PCI devices."""
    folder = tmp_path / "root"
    for bus in ("01", "02"):
        device = folder / "sys/bus/pci/devices" / f"0000:{bus}:00.0"
        device.mkdir(parents=True)
        (device / "numa_node").write_text("0\n")
    return folder


def answers(folder: Path, name: str, text: str) -> Path:
    """Write a file of answers."""
    path = folder / name
    path.write_text(text)
    return path


def nulls(value: object, place: str = "") -> set[str]:
    """List the places of a snapshot's GPUs and P2P matrix that are null."""
    if isinstance(value, dict):
        return {spot for key, item in value.items() for spot in nulls(item, f"{place}.{key}" if place else str(key))}
    if isinstance(value, list):
        return {spot for position, item in enumerate(value) for spot in nulls(item, f"{place}.{position}")}
    return {place} if value is None else set()


def gpu_nulls(shown: Shown) -> set[str]:
    """List what is null of the GPUs and between them."""
    data = yaml.safe_load(shown.snapshot)
    return nulls({"gpus": data["gpus"], "p2p": data["p2p"]})


def gpu_warnings(shown: Shown) -> list[str]:
    """List the warnings about GPUs and driver; the machine's own files are not these tests' matter."""
    return [warning for warning in shown.warnings if warning.startswith(("GPU", "NVIDIA driver"))]


@pytest.mark.subprocess
@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_failing_function_costs_its_own_facts(
    function: str, root: Path, tmp_path: Path, fake_nvml: Path, detect_hosts: DetectHosts
) -> None:
    """Whatever code a function answers for GPU 1, only its facts are null, and the warning has NVML's words."""
    files = [answers(tmp_path, f"{code}.txt", f"{WELL}fail {function} {code} gpu 1\n") for code in CODES]
    whole = answers(tmp_path, "whole.txt", WELL)
    well, *failed = detect_hosts([(root, path) for path in (whole, *files)], fake_nvml)
    assert gpu_warnings(well) == []
    assert gpu_nulls(well) == set()
    for (code, words), shown in zip(CODES.items(), failed, strict=True):
        if code == 3 and function in ("nvmlDeviceGetMigMode", "nvmlDeviceGetNvLinkState"):
            # Not Supported is an answer: no MIG, no lanes.
            assert (gpu_nulls(shown), gpu_warnings(shown)) == (set(), [])
            continue
        assert gpu_nulls(shown) == set(FUNCTIONS[function])
        warnings = gpu_warnings(shown)
        assert bool(warnings) == (function not in SILENT)
        assert all(warning.endswith(f"cannot be read: {words}") for warning in warnings)
        assert yaml.safe_load(shown.snapshot)["links"] == [{"a": 0, "b": 1, "kind": "nvlink", "lanes": 4, "version": 3}]


@pytest.mark.subprocess
def test_failures_of_the_whole_library(root: Path, tmp_path: Path, fake_nvml: Path, detect_hosts: DetectHosts) -> None:
    """What fails before any GPU is reached is the driver's error, or its missing fact."""
    cases = {
        "fail nvmlInitWithFlags 9": {"version": None, "cuda": None, "error": "Driver Not Loaded"},
        "fail nvmlInitWithFlags 18": {
            "version": None,
            "cuda": None,
            "error": "RM has detected an NVML/RM version mismatch",
        },
        "missing nvmlInitWithFlags": {"version": None, "cuda": None, "error": "Function Not Found"},
        "fail nvmlDeviceGetCount_v2 999": {"version": "580.95.05", "cuda": "13.0", "error": "Unknown Error"},
        "fail nvmlSystemGetDriverVersion 999": {"version": None, "cuda": "13.0"},
        "missing nvmlSystemGetCudaDriverVersion_v2": {"version": "580.95.05", "cuda": None},
        "fail nvmlShutdown 999": {"version": "580.95.05", "cuda": "13.0"},
    }
    files = [answers(tmp_path, f"{n}.txt", f"{WELL}{line}\n") for n, line in enumerate(cases)]
    for (line, driver), shown in zip(
        cases.items(), detect_hosts([(root, path) for path in files], fake_nvml), strict=True
    ):
        assert yaml.safe_load(shown.snapshot)["driver"] == driver, line
        assert len(gpu_warnings(shown)) == (0 if "Shutdown" in line else 1), line


@pytest.mark.subprocess
def test_p2p_is_asked_in_each_direction(root: Path, tmp_path: Path, fake_nvml: Path, detect_hosts: DetectHosts) -> None:
    """Row reads column: the first GPU cannot read the second, which can read the first."""
    [shown] = detect_hosts([(root, answers(tmp_path, "one-way.txt", f"{WELL}pair 0 1 reads 5\n"))], fake_nvml)
    assert yaml.safe_load(shown.snapshot)["p2p"] == [[True, False], [True, True]]


@pytest.mark.subprocess
def test_gpu_that_is_lost_after_its_handle_was_given(
    root: Path, tmp_path: Path, fake_nvml: Path, detect_hosts: DetectHosts
) -> None:
    """Every fact of it fails: one sentence for all of them, one for each neighbour."""
    lines = "".join(f"fail {function} 15 gpu 1\n" for function in FUNCTIONS)
    [shown] = detect_hosts([(root, answers(tmp_path, "lost.txt", WELL + lines))], fake_nvml)
    facts = "memory, compute capability, NUMA node, UUID, name, PCI address, MIG mode, NVLink state and P2P to GPU 0"
    assert gpu_warnings(shown) == [
        f"GPU 1: {facts} cannot be read: GPU is lost",
        "GPU 0: connection to GPU 1 and P2P to GPU 1 cannot be read: GPU is lost",
    ]


CUT = f"""\
{WELL}gpu 1 mig 1
slice 1 0 name NVIDIA GeForce RTX 3090 MIG 1g.5gb
slice 1 0 uuid MIG-cccc
slice 1 0 memory 400 4
slice 1 0 gpu_instance 7
slice 1 2 name NVIDIA GeForce RTX 3090 MIG 1g.5gb
slice 1 2 uuid MIG-dddd
slice 1 2 memory 400 4
slice 1 2 gpu_instance 9
"""


@pytest.mark.subprocess
def test_slices_stand_behind_the_gpus(root: Path, tmp_path: Path, fake_nvml: Path, detect_hosts: DetectHosts) -> None:
    """NVML's numbers of MIG devices may have gaps; what a slice does not tell itself is its GPU's."""
    [shown] = detect_hosts([(root, answers(tmp_path, "cut.txt", CUT))], fake_nvml)
    data = yaml.safe_load(shown.snapshot)
    assert gpu_warnings(shown) == []
    assert [(row["index"], row["uuid"], row["mig"], row.get("mig_slice")) for row in data["gpus"]] == [
        (0, "GPU-aaaa", False, None),
        (1, "GPU-bbbb", True, None),
        (2, "MIG-cccc", False, {"gpu": 1, "gpu_instance": 7}),
        (3, "MIG-dddd", False, {"gpu": 1, "gpu_instance": 9}),
    ]
    shared = ("compute_capability", "pci_bus_id", "numa_node")
    assert {key: data["gpus"][3][key] for key in shared} == {key: data["gpus"][1][key] for key in shared}
    assert (data["gpus"][3]["memory_bytes"], data["gpus"][3]["memory_used_bytes"]) == (400, 4)
    assert data["p2p"] == [
        *([True, True, False, False], [True, True, False, False]),
        *([False, False, True, False], [False, False, False, True]),
    ]
    assert [(link["a"], link["b"]) for link in data["links"]] == [(0, 1)]


SLICE_FAILURES = {
    "missing nvmlDeviceGetMaxMigDeviceCount": ([], "GPU 1: MIG slices cannot be read: Function Not Found"),
    "missing nvmlDeviceGetMigDeviceHandleByIndex": ([], "GPU 1: a MIG slice cannot be read: Function Not Found"),
    "fail nvmlDeviceGetMigDeviceHandleByIndex 4 slice 1 0": (
        ["MIG-dddd"],
        "GPU 1: a MIG slice cannot be read: Insufficient Permissions",
    ),
    "fail nvmlDeviceGetUUID 999 slice 1 0": (
        [None, "MIG-dddd"],
        "MIG slice 0 of GPU 1: UUID cannot be read: Unknown Error",
    ),
    "slice 1 0 uuid GPU-cccc": (
        [None, "MIG-dddd"],
        "MIG slice 0 of GPU 1: UUID cannot be read: not a MIG slice's UUID",
    ),
    "fail nvmlDeviceGetMemoryInfo 4 gpu 1": (
        ["MIG-cccc", "MIG-dddd"],
        "GPU 1: memory cannot be read: Insufficient Permissions",
    ),
    "missing nvmlDeviceGetGpuInstanceId": (
        ["MIG-cccc", "MIG-dddd"],
        "MIG slice 0 of GPU 1 and MIG slice 2 of GPU 1: GPU instance cannot be read: Function Not Found",
    ),
}


@pytest.mark.subprocess
def test_slices_that_cannot_be_read(root: Path, tmp_path: Path, fake_nvml: Path, detect_hosts: DetectHosts) -> None:
    """An old driver, or a container that may not ask, costs what it does not tell, in one sentence."""
    files = [answers(tmp_path, f"{n}.txt", f"{CUT}{line}\n") for n, line in enumerate(SLICE_FAILURES)]
    shown = detect_hosts([(root, path) for path in files], fake_nvml)
    for (line, (uuids, warning)), found in zip(SLICE_FAILURES.items(), shown, strict=True):
        rows = yaml.safe_load(found.snapshot)["gpus"]
        assert [row["uuid"] for row in rows[2:]] == uuids, line
        assert [each for each in found.warnings if "GPU 1" in each] == [warning], line


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        (b"gpu 1 name \xff\xfe", "name", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"gpu 1 name \x1b[31mRTX", "name", "not plain text"),
        (b"gpu 1 name  ", "name", "not plain text"),
        (b"gpu 1 uuid ../../etc", "uuid", "not a GPU's UUID"),
        (b"gpu 1 uuid GPU-a b", "uuid", "not a GPU's UUID"),
        (b"gpu 1 compute_capability -2.0", "compute_capability", "not a compute capability"),
        (b"gpu 1 pci_bus_id ../../../etc/passwd", "pci_bus_id", "not a PCI address"),
    ],
)
def test_strange_values_are_unread(
    line: bytes, place: str, words: str, root: Path, tmp_path: Path, fake_nvml: Path, detect_hosts: DetectHosts
) -> None:
    """What could not stand in a rendered file does not enter the host."""
    path = tmp_path / "strange.txt"
    path.write_bytes(WELL.encode() + line + b"\n")
    [shown] = detect_hosts([(root, path)], fake_nvml)
    assert f"gpus.1.{place}" in gpu_nulls(shown)
    [warning] = [warning for warning in gpu_warnings(shown) if warning.startswith("GPU 1")]
    assert warning.endswith(f"cannot be read: {words}")


@pytest.mark.subprocess
def test_symbol_that_the_library_lacks(root: Path, tmp_path: Path, detect_hosts: DetectHosts) -> None:
    """A function that is not there at all fails as one that answers so: pynvml looks each up when it is called."""
    path = answers(tmp_path, "old.txt", f"{WELL}missing nvmlDeviceGetMigMode\n")
    (tmp_path / "library").mkdir()
    library = build_fake_nvml(tmp_path / "library", path)
    assert b"nvmlDeviceGetMigMode\0" not in exported(library / "libnvidia-ml.so.1")
    [shown] = detect_hosts([(root, path)], library)
    assert gpu_warnings(shown) == ["GPUs 0 and 1: MIG mode cannot be read: Function Not Found"]


@pytest.mark.subprocess
def test_library_that_cannot_be_loaded(root: Path, tmp_path: Path, detect_hosts: DetectHosts) -> None:
    """A damaged library is a broken driver, not a machine without one."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    [shown] = detect_hosts([(root, None)], tmp_path)
    driver = yaml.safe_load(shown.snapshot)["driver"]
    assert driver["version"] is None
    assert "libnvidia-ml.so.1" in driver["error"]
    assert len(gpu_warnings(shown)) == 1


@given(domain=st.integers(0, 2**32 - 1), bus=st.integers(0, 255), device=st.integers(0, 31))
def test_sysfs_address(domain: int, bus: int, device: int) -> None:
    """The kernel's spelling of every address that NVML can write."""
    assert sysfs_address(f"{domain:08X}:{bus:02X}:{device:02X}.0") == f"{domain:04x}:{bus:02x}:{device:02x}.0"


def exported(library: Path) -> bytes:
    """Return the file's dynamic string table, roughly: the names stand in it with a zero byte after each."""
    data = library.read_bytes()
    start = data.index(b"\0nvml")
    return data[start : data.index(b"\0\0", start)]
