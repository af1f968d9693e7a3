"""GPUs and NVLinks that leave a running engine: compose/engine/heartbeat/gpus.py with the fake NVML library."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.nvml import environment

pytestmark = pytest.mark.subprocess
PROGRAM = Path(__file__).resolve().parents[2] / "compose" / "engine" / "heartbeat" / "gpus.py"
MODULE: dict[str, Any] = runpy.run_path(str(PROGRAM))
Gpus, faults_since = MODULE["Gpus"], MODULE["faults_since"]
TWO = """\
gpu 0-1 name NVIDIA GeForce RTX 3090
gpu 0 uuid GPU-a
gpu 1 uuid GPU-b
gpu 0-1 memory 25769803776 325058560
gpu 0 lane 0-3 gpu 1 3
gpu 1 lane 0-3 gpu 0 3
"""


@pytest.fixture
def look(fake_nvml: Path, tmp_path: Path) -> Any:
    """Give a look at GPUs that a text describes."""

    def at(answers: str) -> Any:
        file = tmp_path / "nvml.txt"
        file.write_text(answers)
        done = subprocess.run(
            [sys.executable, "-B", str(PROGRAM)],
            env=environment(fake_nvml, file),
            capture_output=True,
            text=True,
            check=True,
        )
        told = json.loads(done.stdout)
        return Gpus(links=told["links"], faults=tuple(told["faults"]))

    return at


def test_a_look_counts_gpus_and_nvlinks(look: Any) -> None:
    assert look(TWO) == Gpus(links={"GPU-a": 4, "GPU-b": 4})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("", []),
        ("fail nvmlInitWithFlags 999", ["Failed to initialize NVML: Unknown Error"]),
        ("fail nvmlDeviceGetHandleByIndex_v2 15 gpu 1", ["GPU 1: GPU is lost", "GPU-b is gone"]),
        ("fail nvmlDeviceGetMemoryInfo 15 gpu 1", ["GPU-b: GPU is lost"]),
        ("gpu 0 lane 1-2 off", ["GPU-a has 2 of 4 NVLinks"]),
    ],
)
def test_what_went_since_the_first_look(look: Any, changed: str, told: list[str]) -> None:
    assert faults_since(look(TWO), look(f"{TWO}{changed}\n")) == told


def test_what_was_wrong_from_the_start_is_not_told(look: Any) -> None:
    lost = look(f"{TWO}fail nvmlDeviceGetMemoryInfo 15 gpu 1\n")
    assert faults_since(lost, lost) == []
    assert faults_since(lost, look(TWO)) == []
