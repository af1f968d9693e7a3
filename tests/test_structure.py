"""What benchmarks/structure.py counts, on a small package written for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.structure import measure

FILES = {
    "__init__.py": '"""A package."""\n',
    "engines/__init__.py": "",
    "engines/vllm/__init__.py": '"""vLLM."""\n',
    "catalog/engines.yaml": "vllm: 1\n",
    "notes.yaml": "# as in VLLM\n",
    "first.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from sample.second import Group\n",
    "second.py": "def f():\n    from sample import first\n    return first\n\n\nclass Group:\n    pass\n",
    "third.py": "from sample.second import Group as Other\n\n\nclass Group:\n    slot = slot_key('A', 2)\n",
    "rendering/__init__.py": "slot_key('A', 2)\n",
    "wide.py": (
        '"""Wide."""\n\n# a comment\nclass Wide(Struct, frozen=True):\n    """Has many."""\n\n'
        + "".join(f"    field_{number}: int\n" for number in range(13))
        + f"\n    def call(self, a, b, c, d, e, f, g):\n        return {'1 + ' * 25}1\n"
    ),
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Write the sample package."""
    for name, text in FILES.items():
        path = tmp_path / "sample" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "sample"


def test_what_is_counted(package: Path) -> None:
    found = measure(package)

    assert found.files_naming_vllm == ("notes.yaml",)
    assert found.slot_helper_uses == {"third.py": 1}
    assert found.class_names_used_twice == {"Group": 2}
    assert found.import_circles == (("first", "second"),)
    assert found.functions_with_many_parameters == ("wide.py: call (7)",)
    assert found.records_with_many_fields == ("wide.py: Wide (13)",)
    assert found.code_lines == 3 + 5 + 3 + 1 + 16
    assert found.long_line_percent == pytest.approx(100 / 28, abs=0.05)
