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


def look(library: Path, file: Path) -> Any:
    """Ask in a process that meets the fake library."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK],
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
        {"pid": os.getpid(), "name": own, "memory_bytes": 2**30},
        {"pid": 4194304, "name": None, "memory_bytes": None},
    ]
    assert second["processes"] == []


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
