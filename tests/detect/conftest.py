"""What the detection tests share: the fake NVML and Level Zero libraries, and detection in a process that loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec import Struct, convert

from tests.fakes.level_zero import build_fake_level_zero
from tests.fakes.nvml import build_fake_nvml

PACKAGES = Path(__file__).parents[2] / "generator"


class Shown(Struct, frozen=True, kw_only=True):
    """A detected host as its snapshot's text, and the warnings, with those that a plan tells."""

    snapshot: str
    warnings: tuple[str, ...]
    notable: tuple[str, ...]


DetectHosts = Callable[[Sequence[tuple[Path, Path | None]], Path | None], list[Shown]]
"""Called with rows of (root, answers), and the folder of the NVML library, None for the machine's own."""


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the fake library, with every function; return its folder."""
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def fake_level_zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the fake library of Intel's GPUs; return its folder."""
    return build_fake_level_zero(tmp_path_factory.mktemp("level-zero"))


@pytest.fixture
def detect_hosts(tmp_path: Path) -> DetectHosts:
    """Detect hosts where no container engine is on PATH."""

    def run(rows: Sequence[tuple[Path, Path | None]], library: Path | None) -> list[Shown]:
        asked = json.dumps([[str(root), None if answers is None else str(answers)] for root, answers in rows])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.detect.show_hosts"],
            input=asked,
            cwd=PACKAGES,
            env={"PATH": str(tmp_path), "PYTHONPATH": os.environ["PYTHONPATH"]}
            | ({} if library is None else {"LD_LIBRARY_PATH": str(library)}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return convert(json.loads(done.stdout), list[Shown])

    return run
