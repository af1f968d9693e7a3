"""The real pynvml over the fake library: how each GPU is doing, and what a lost one or a silent library makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stackwright.detect.gpu_state import read_gpu_states
from stackwright.domain.machine import Unseen

from tests.detect.conftest import PACKAGES
from tests.detect.test_nvml import WELL, answers
from tests.fakes.nvml import environment

ASK = """
import json
from stackwright.detect.gpu_state import read_gpu_states
from stackwright.reading import to_plain
print(json.dumps(to_plain(read_gpu_states())))
"""


def look(library: Path, file: Path, ask: str = ASK) -> Any:
    """Ask in a process that meets the fake library."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ask],
        cwd=PACKAGES,
        env=environment(library, file),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.subprocess
def test_health_lanes_and_holders_are_told(fake_nvml: Path, tmp_path: Path) -> None:
    text = (
        f"{WELL}gpu 0 process {os.getpid()} 1073741824\ngpu 0 process 4194304\ngpu 1 no_processes\n"
        "gpu 1 lane 3 off\ngpu 1 ecc 2\ngpu 1 rows_broken 1\ngpu 0 ecc 0\ngpu 0 rows_broken 0\n"
    )
    first, second = look(fake_nvml, answers(tmp_path, "now.txt", text))
    assert (first["uuid"], first["lanes"], first["lanes_up"]) == ("GPU-aaaa", 4, 4)
    assert (second["lanes"], second["lanes_up"], second["ecc_errors"], second["rows_broken"]) == (4, 3, 2, True)
    assert (first["ecc_errors"], first["rows_broken"], first["failure"]) == (0, False, None)
    own = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert first["processes"] == [
        {"pid": os.getpid(), "name": own, "memory_bytes": 2**30, "gpu_instance": None, "holder": None},
        {"pid": 4194304, "name": None, "memory_bytes": None, "gpu_instance": None, "holder": None},
    ]
    assert second["processes"] == []


LOAD = "gpu 0 busy 97\ngpu 0 temperature 71\ngpu 0 power 312500 350000\ngpu 0 clock 1695\ngpu 0 slowed 37\n"


@pytest.mark.subprocess
@pytest.mark.parametrize("older", ["", "missing nvmlDeviceGetCurrentClocksEventReasons\n"])
def test_how_hard_a_device_works_is_told(older: str, fake_nvml: Path, tmp_path: Path) -> None:
    first, second = look(fake_nvml, answers(tmp_path, "load.txt", WELL + LOAD + older))
    assert first["reading"] == {
        "name": "NVIDIA GeForce RTX 3090",
        "memory_bytes": 1000,
        "memory_used_bytes": 10,
        "busy_percent": 97,
        "temperature_c": 71,
        "power_w": 312.5,
        "power_limit_w": 350.0,
        "clock_mhz": 1695,
        "slowed": ["power limit", "heat"],
        "xids": [],
    }
    assert {second["reading"][name] for name in ("busy_percent", "temperature_c", "power_w", "slowed")} == {None}


@pytest.mark.subprocess
def test_faults_come_to_the_device_that_they_befell(fake_nvml: Path, tmp_path: Path) -> None:
    ask = """
import json
from stackwright.detect.gpu_state import GpuWatch
with GpuWatch() as watch:
    print(json.dumps([[list(state.reading.xids) for state in watch.read()] for _ in range(2)]))
"""
    file = answers(tmp_path, "xid.txt", f"{WELL}gpu 1 xid 79\ngpu 1 xid 13\n")
    assert look(fake_nvml, file, ask) == [[[], [13, 79]]] * 2
    # One look alone waits for none.
    assert [state["reading"]["xids"] for state in look(fake_nvml, file)] == [[], []]


@pytest.mark.subprocess
def test_slices_are_told_with_their_memory_and_holders(fake_nvml: Path, tmp_path: Path) -> None:
    text = (
        "gpu 0 mig 1\nslice 0 1 uuid MIG-a\nslice 0 1 name A100 MIG 3g.20gb\nslice 0 1 memory 2000 700\n"
        "slice 0 1 gpu_instance 2\ngpu 0 process 4194304 500 2\n"
    )
    first, second = look(fake_nvml, answers(tmp_path, "slices.txt", WELL + text))
    assert first["slices"] == [
        {
            "uuid": "MIG-a",
            "name": "A100 MIG 3g.20gb",
            "gpu_instance": 2,
            "memory_bytes": 2000,
            "memory_used_bytes": 700,
        }
    ]
    assert [process["gpu_instance"] for process in first["processes"]] == [2]
    assert second["slices"] == []


@pytest.mark.subprocess
def test_what_a_driver_does_not_tell_is_none(fake_nvml: Path, tmp_path: Path) -> None:
    [first, _] = look(fake_nvml, answers(tmp_path, "old.txt", WELL))
    assert (first["processes"], first["ecc_errors"], first["rows_broken"]) == (None, None, None)


@pytest.mark.subprocess
@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"])
def test_a_lost_gpu_is_told_with_its_number(function: str, fake_nvml: Path, tmp_path: Path) -> None:
    first, second = look(fake_nvml, answers(tmp_path, "lost.txt", f"{WELL}fail {function} 15 gpu 1\n"))
    assert first["failure"] is None
    assert (second["failure"], second["code"]) == ("GPU is lost", 15)


@pytest.mark.subprocess
def test_a_gpu_without_figures_of_its_own_is_well(fake_nvml: Path, tmp_path: Path) -> None:
    """Unified memory: NVML answers Not Supported."""
    first, second = look(fake_nvml, answers(tmp_path, "unified.txt", f"{WELL}fail nvmlDeviceGetMemoryInfo 3\n"))
    assert (first["failure"], second["failure"]) == (None, None)


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("fail nvmlInitWithFlags 18", "RM has detected an NVML/RM version mismatch"),
        ("fail nvmlDeviceGetCount_v2 999", "Unknown Error"),
    ],
)
def test_a_library_that_does_not_answer_is_unseen(line: str, why: str, fake_nvml: Path, tmp_path: Path) -> None:
    assert look(fake_nvml, answers(tmp_path, "silent.txt", f"{WELL}{line}\n")) == {"why": why}


def test_without_a_library_nothing_is_seen() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    assert isinstance(read_gpu_states(), Unseen)
