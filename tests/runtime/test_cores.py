"""The cores of each engine's ranks: compose/engine/cores.py on machines of plain files."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CORES: dict[str, Any] = runpy.run_path(str(Path(__file__).resolve().parents[2] / "compose" / "engine" / "cores.py"))
usable_cores: Callable[..., list[int]] = CORES["usable_cores"]
bind: Callable[..., str] = CORES["bind"]
claim: Callable[..., list[int]] = CORES["claim"]


class Engines:
    """Engines of stacks that share one folder, each with its own descriptor, as its start script opens it."""

    def __init__(self, folder: Path, cores: int) -> None:
        self.folder, self.cores = folder, list(range(cores))
        self.open: list[int] = []

    def start(self, stack: str, place: int = 1, total: int = 1) -> str:
        """Start one; return what its threads are bound to."""
        file = self.folder / f"{stack}.cores"
        self.open.append(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        return bind(claim(file, self.open[-1], self.cores, total), place, place, total)

    def end(self, number: int) -> None:
        """End one by its number, in the order of their starts."""
        os.close(self.open[number])
        self.open[number] = -1


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Callable[[int], Engines]]:
    """Give a maker of engines on so many cores."""
    made: list[Engines] = []

    def make(cores: int) -> Engines:
        made.append(Engines(tmp_path, cores))
        return made[-1]

    yield make
    for number in [number for each in made for number in each.open if number >= 0]:
        os.close(number)


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


def test_two_stacks_have_no_core_in_common(engines: Callable[[int], Engines]) -> None:
    host = engines(2)
    assert host.start("dev") == "0"  # the last core is the server's, and free for another
    assert host.start("prod") == "1"
    assert host.start("staging") == "nobind"


def test_stacks_have_even_shares(engines: Callable[[int], Engines]) -> None:
    """One that began alone has every core; what begins beside it shares them until the first is started again."""
    host = engines(8)
    assert host.start("dev") == "0,1,2,3,4,5,6"
    assert host.start("prod") == "nobind"
    host.end(0)
    assert host.start("dev") == "0,1,2"
    host.end(1)
    assert host.start("prod") == "3,4,5"
    assert host.start("staging") == "6"  # the last is its server's


def test_the_engines_of_one_stack_divide_what_is_left(engines: Callable[[int], Engines]) -> None:
    host = engines(8)
    assert host.start("dev", 1, 2) == "0,1,2"
    assert host.start("prod") == "3"  # and 7, the other part's server's, for its own server
    assert host.start("dev", 2, 2) == "4,5,6"  # as the first of its stack chose


def test_cores_of_a_stack_that_has_ended_are_free(engines: Callable[[int], Engines]) -> None:
    host = engines(4)
    assert host.start("dev", 1, 2) == "0"
    assert host.start("dev", 2, 2) == "2"
    assert host.start("prod") == "1"
    host.end(0)
    assert host.start("staging") == "3"  # one engine of dev runs still, so that both parts are taken
    for number in (1, 2, 3):
        host.end(number)
    assert host.start("staging") == "0,1,2"


@pytest.mark.subprocess
def test_the_start_script_keeps_its_cores_while_the_engine_runs(tmp_path: Path) -> None:
    """The real script under the real shell, with a Python that prints what it is told and waits for its input."""
    (tmp_path / "engine_key").write_text("key\n")
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\ncase "$1" in *cores.py) exec {sys.executable} "$@";; esac\n'
        'echo "bound: ${VLLM_CPU_OMP_THREADS_BIND:-}"\nread -r _\n'
    )
    fake.chmod(0o755)

    def start(stack: str) -> subprocess.Popen[str]:
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHON": str(fake),
            "SECRETS_DIRECTORY": str(tmp_path),
            "ENGINE_PLACES": "1-1/1",
            "ENGINE_CORES": str(tmp_path / "cores" / f"{stack}.cores"),
        }
        script = Path(__file__).resolve().parents[2] / "compose" / "engine" / "start.sh"
        return subprocess.Popen(
            ["/bin/sh", str(script)], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def bound(engine: subprocess.Popen[str]) -> str:
        assert engine.stdout is not None
        return engine.stdout.readline().strip()

    with start("dev") as first:
        assert bound(first) == "bound:"  # alone, the engine chooses by itself
        with start("prod") as second:
            assert bound(second) != "bound:"
            second.communicate("end\n")
        first.communicate("end\n")
    with start("prod") as again:
        assert bound(again) == "bound:"
        again.communicate("end\n")
