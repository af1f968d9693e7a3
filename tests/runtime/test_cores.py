"""The cores of each engine's ranks: compose/engine/cores.py on machines of plain files."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORES: dict[str, Any] = runpy.run_path(str(Path(__file__).resolve().parents[2] / "compose" / "engine" / "cores.py"))
usable_cores: Callable[..., list[int]] = CORES["usable_cores"]
bind: Callable[..., str] = CORES["bind"]


def machine(folder: Path, cpus: dict[int, tuple[int, int, int]]) -> Path:
    """Write a machine: logical CPU → package, core and memory node."""
    for number, (package, core, node) in cpus.items():
        topology = folder / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
        (folder / f"cpu{number}" / f"node{node}").mkdir()
    return folder


def test_one_thread_of_each_core_and_the_nodes_one_after_another(tmp_path: Path) -> None:
    """Two packages of two cores with two threads each, numbered across the packages."""
    cpus = {number: (number % 2, number // 2 % 2, number % 2) for number in range(8)}
    assert usable_cores(range(8), machine(tmp_path, cpus)) == [4, 6, 5, 7]
    assert usable_cores([1, 3, 5], tmp_path) == [3, 5]


def test_where_the_kernel_says_nothing_each_cpu_is_a_core(tmp_path: Path) -> None:
    assert usable_cores([0, 3, 1], tmp_path) == [0, 1, 3]


@pytest.mark.parametrize(
    ("cores", "asked", "bound"),
    [
        (2, (1, 1, 2), "0"),
        (2, (2, 2, 2), "1"),
        (8, (1, 1, 2), "0,1,2"),  # the last core of a part is the server's
        (8, (2, 2, 2), "4,5,6"),
        (5, (1, 1, 2), "0"),
        (5, (2, 2, 2), "2,3"),
        (8, (2, 3, 4), "2|4"),  # two ranks in one engine
        (2, (1, 1, 3), "nobind"),
        (2, (3, 3, 3), "nobind"),
    ],
)
def test_parts_are_disjoint_and_none_is_empty(cores: int, asked: tuple[int, int, int], bound: str) -> None:
    assert bind(list(range(cores)), *asked) == bound
