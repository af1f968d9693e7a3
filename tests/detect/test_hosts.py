"""Recorded hosts: each folder of tests/hosts holds what a machine answers and what is to be detected from it.

Adding hardware means adding a folder; `--update-golden` writes its host.yaml and warnings.txt.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from stackwright.detect.nvml import LIBRARY
from stackwright.detect.snapshot import format_snapshot, read_snapshot

from tests.detect.conftest import DetectHosts
from tests.fakes.nvml import build_fake_nvml, missing_functions

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[1] / "hosts").glob("*/root"))
NAMES = [folder.name for folder in FOLDERS]


@pytest.mark.subprocess
@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_host_is_detected_whole(
    folder: Path, fake_nvml: Path, tmp_path: Path, detect_hosts: DetectHosts, update_golden: bool
) -> None:
    """The snapshot and every warning are as recorded."""
    answers = folder / "nvml.txt" if (folder / "nvml.txt").exists() else None
    if answers is None and machine_has_nvml():
        pytest.skip("this machine's own NVML would answer for a host without one")
    library = build_fake_nvml(tmp_path, answers) if missing_functions(answers) else fake_nvml
    [shown] = detect_hosts([(folder / "root", answers)], None if answers is None else library)
    warnings = "".join(f"{warning}\n" for warning in shown.warnings)
    if update_golden:
        (folder / "host.yaml").write_text(shown.snapshot)
        (folder / "warnings.txt").write_text(warnings)
    assert shown.snapshot == (folder / "host.yaml").read_text()
    assert warnings == (folder / "warnings.txt").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_snapshot_reads_back_to_its_own_text(folder: Path) -> None:
    """A recorded snapshot is valid, and writing what was read changes nothing."""
    path = folder / "host.yaml"
    assert format_snapshot(read_snapshot(path)) == path.read_text()


def machine_has_nvml() -> bool:
    """Tell whether the machine that runs the tests has a real NVIDIA driver's library."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True
