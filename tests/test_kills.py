"""kill -9 at random moments of writing: the files on the disk are always of one set, the old one or the new one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from generator.rendering import RenderedFile
from generator.write import FileChange, compare_files, finish_writing, read_manifest, write_files

KILLS = 300
ENVIRONMENTS = ("dev", "prod")
# Longer than a page, so that a write that is cut short would show.
FILLING = "x" * 20_000


def paths(environment: str) -> tuple[str, ...]:
    """Name the files of one environment."""
    return (f"envs/.env.{environment}", *(f"compose/generated/{environment}/{name}" for name in ("a", "b", "c")))


def write_set(root: Path, number: int) -> None:
    """Write every file of both environments with one number in it."""
    groups: dict[Path, tuple[FileChange, ...]] = {}
    for environment in ENVIRONMENTS:
        folder = root / "compose" / "generated" / environment
        text = f"{number}\n{FILLING}\n{number}\n"
        files = tuple(RenderedFile(path=PurePosixPath(path), text=text) for path in paths(environment))
        groups[folder] = compare_files(root, folder, files)
    write_files(groups)


def numbers(root: Path) -> set[int]:
    """Return the numbers that the files hold; every file is whole and what its manifest says."""
    found = set()
    for environment in ENVIRONMENTS:
        for path in paths(environment):
            first, filling, last = (root / path).read_text().splitlines()
            assert (first, filling) == (last, FILLING)
            found.add(int(first))
    return found


def kill_writers(root: Path, kills: int) -> int:
    """Kill a process that writes set after set, again and again; return how many sets were begun to be switched.

    Raises:
        AssertionError: a file was torn, or a set mixed after the next command had looked.
    """
    import os
    import random
    import signal
    import time

    write_set(root, 0)
    mixed = 0
    for _ in range(kills):
        (number,) = numbers(root)
        child = os.fork()
        if child == 0:
            while True:
                number += 1
                write_set(root, number)
        time.sleep(random.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        mixed += len(numbers(root)) > 1
        finish_writing(root)
        (after,) = numbers(root)
        assert after >= number
        for environment in ENVIRONMENTS:
            folder = root / "compose" / "generated" / environment
            assert set(read_manifest(folder)) == set(paths(environment))
        assert list(root.rglob("*.edited-*")) == []
    write_set(root, -1)
    assert list(root.rglob(".*.tmp")) == list(root.rglob(".switch-*")) == []
    return mixed


@pytest.mark.subprocess
def test_a_kill_at_any_moment_leaves_one_whole_set(tmp_path: Path) -> None:
    """In a process of its own, since it forks."""
    code = f"from pathlib import Path; from tests.test_kills import *; print(kill_writers(Path({str(tmp_path)!r}), {KILLS}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_switch_that_was_cut_short_is_finished_by_the_next_command(tmp_path: Path) -> None:
    """Half of the files have their new names; an edit made after the kill is kept."""
    write_set(tmp_path, 1)
    generated = tmp_path / "compose" / "generated"
    token, text = "0123456789ab", f"2\n{FILLING}\n2\n"
    expected = {path: read_manifest(generated / "dev")[path] for path in paths("dev")}
    for path in paths("dev")[2:]:
        staged = (tmp_path / path).with_name(f".{(tmp_path / path).name}.{token}.tmp")
        staged.write_text(text)
    for path in paths("dev")[:2]:
        (tmp_path / path).write_text(text)
    (tmp_path / paths("dev")[3]).write_text("mine\n")
    files = {f"../../../{path}": over for path, over in expected.items()}
    (generated / "dev" / f".switch-{token}.json").write_text(json.dumps({"token": token, "files": files}))
    assert finish_writing(tmp_path) == (
        "a command was killed while it wrote: the files that it had made ready are in place now",
        "c had been edited: your version is kept as c.edited-1",
    )
    assert {(tmp_path / path).read_text() for path in paths("dev")} == {text}
    assert (generated / "dev" / "c.edited-1").read_text() == "mine\n"
    assert finish_writing(tmp_path) == ()


@pytest.mark.parametrize(
    "journal", ["", "{", "[]", '{"token": 1}', '{"token": "x", "files": 1}', '{"token": "x", "files": {"../../..": 1}}']
)
def test_a_damaged_journal_switches_nothing(journal: str, tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    (tmp_path / "compose/generated/dev/.switch-x.json").write_text(journal)
    finish_writing(tmp_path)
    assert numbers(tmp_path) == {1}
    assert list(tmp_path.rglob(".switch-*")) == []
