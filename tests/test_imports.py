"""Imports stay light: each module imports alone, and a command that a person waits for loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layers import MODULES, PACKAGE, module_name

pytestmark = pytest.mark.subprocess

HEAVY = frozenset(
    ("litellm python_on_whales rich pynvml jinja2 pydantic supervisor yaml asyncio urllib.request http.client").split()
)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter on this checkout."""
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(
        command,
        cwd=PACKAGE.parents[1],
        env={"PYTHONPATH": str(PACKAGE.parent), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )


def loaded_modules(importtime: str) -> set[str]:
    """Read the module names from the report of `python -X importtime`."""
    rows = (line.rsplit("|", 1) for line in importtime.splitlines() if line.startswith("import time:"))
    return {row[1].strip() for row in rows if len(row) == 2}


def test_every_module_imports_alone() -> None:
    """One interpreter forks once per module, so that each starts from the same empty table in a few milliseconds."""
    names = [f"stackwright.{module_name(path)}".replace("stackwright.stackwright", "stackwright") for path in MODULES]
    names.remove("stackwright.__main__")
    program = """
import os, sys
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        __import__(name)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        print(name)
"""
    done = run_python("-W", "error", "-c", program, *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "arguments", [("-c", "import stackwright.cli"), ("-m", "stackwright", "--help")], ids=["cli", "help"]
)
def test_nothing_heavy_is_loaded_before_it_is_needed(arguments: tuple[str, ...]) -> None:
    done = run_python("-X", "importtime", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = loaded_modules(done.stderr)
    assert "stackwright.cli" in loaded
    assert loaded & HEAVY == set()


def test_a_dry_run_loads_only_what_rendering_needs(tmp_path: Path) -> None:
    done = run_python(
        "-X", "importtime", "-m", "stackwright", "configure-gpu", "cpu", "--dry-run", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = loaded_modules(done.stderr)
    assert "yaml" in loaded
    assert loaded & (HEAVY - {"yaml", "pynvml"} | {"inspect"}) == set()


def test_a_forecast_for_a_snapshot_asks_no_machine_and_renders_nothing() -> None:
    """A person tries one setting after another: what looks at the host, renders and hashes is not even loaded."""
    snapshot = str(PACKAGE.parents[1] / "tests" / "hosts" / "1x-rtx3090" / "host.yaml")
    done = run_python("-X", "importtime", "-m", "stackwright", "fit", "--model", "smoke", "--host", snapshot)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = loaded_modules(done.stderr)
    others = ("stackwright.services", "stackwright.rendering", "stackwright.runtime", "stackwright.detect.host")
    assert [name for name in loaded if name.startswith(others)] == []
    assert loaded & (HEAVY - {"yaml"} | {"subprocess", "ctypes", "hashlib", "random"}) == set()


def test_the_report_of_imports_is_read() -> None:
    done = run_python("-X", "importtime", "-c", "import json.decoder")
    assert {"json", "json.decoder"} <= loaded_modules(done.stderr)


def test_the_host_is_looked_at_before_the_planner_is_loaded() -> None:
    """The container engine makes up its answer meanwhile."""
    done = run_python("-X", "importtime", "-c", "import stackwright.commands.configure_gpu, stackwright.detect.host")
    loaded = loaded_modules(done.stderr)
    assert "stackwright.detect.containers" in loaded
    assert not [name for name in loaded if name.startswith(("stackwright.planning", "stackwright.catalog"))]
