"""Every module keeps to its room: who may import whom, which libraries, and what purity means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rooms import ROOMS, room_of, violations

PACKAGE = Path(__file__).parent.parent / "generator" / "stackwright"


def module_name(path: Path) -> str:
    """Name a module from below the package: `runtime.compose`; `stackwright` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "stackwright"


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_keeps_to_its_room(path: Path) -> None:
    assert list(violations(module_name(path), path.read_text(encoding="utf-8"))) == []


def test_every_room_is_lived_in() -> None:
    named = {room_of(module_name(path)) for path in MODULES}
    assert set(ROOMS) - named == set()


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("planning.image", "import os", "planning.image:1: os: room planning is pure"),
        ("planning.image", "from time import time", "planning.image:1: time: room planning is pure"),
        ("planning.image", "def f(p): return p.read_text()", "planning.image:1: read_text(): room planning is pure"),
        ("planning.image", "f = open('x')", "planning.image:1: open(): room planning is pure"),
        ("planning.image", "def f(): import yaml", "planning.image:1: yaml: not a library of room planning"),
        (
            "planning.image",
            "from stackwright import report",
            "planning.image:1: room planning may not import report",
        ),
        ("planning.image", "from stackwright.cli import main", "planning.image:1: room planning may not import cli"),
        (
            "domain.host",
            "from stackwright.settings import SETTINGS",
            "domain.host:1: room domain may not import settings",
        ),
        ("runtime.compose", "import litellm", "runtime.compose:1: litellm: not a library of room runtime.compose"),
        (
            "runtime.compose",
            "import python_on_whales",
            "runtime.compose:1: python_on_whales: import it inside the function that needs it",
        ),
        (
            "runtime.processes",
            "from stackwright.detect.host import detect_host",
            "runtime.processes:1: room runtime.processes may not import detect",
        ),
        ("cli", "from . import report", "cli:1: .: write the whole name"),
        ("cli", "f = __import__('litellm')", "cli:1: __import__: write an import statement"),
        ("cli", "f = import_module(name)", "cli:1: import_module: write an import statement"),
        ("tools", "", "tools: no room declares it; add a row to ROOMS in tests/rooms.py"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_a_broken_rule_is_one_sentence(module: str, source: str, sentence: str) -> None:
    assert list(violations(module, source)) == [sentence]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("runtime.compose", "def f():\n    import python_on_whales"),
        ("cli", "f = import_module(f'stackwright.commands.{name}')"),
        ("runtime.compose", "from stackwright.runtime import Runtime"),
        ("detect", "from stackwright.detect.nvml import probe"),
        ("planning.planner", "from stackwright.engines.vllm.image import choose_image"),
        ("cli", "from stackwright import __version__"),
        ("report", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rich.console import Console"),
    ],
)
def test_what_the_table_allows_passes(module: str, source: str) -> None:
    assert list(violations(module, source)) == []
