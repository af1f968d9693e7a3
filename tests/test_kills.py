"""kill -9 at random moments of writing: the files on the disk are always of one set, the old one or the new one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest
from stackwright.project.write import MANIFEST, FileChange, compare_files, is_edited, read_manifest, write_files
from stackwright.rendering import RenderedFile

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
    """Return the numbers that the files hold as they lie there; every file is whole and what its manifest says."""
    found = set()
    for environment in ENVIRONMENTS:
        manifest = read_manifest(root / "compose" / "generated" / environment)
        for path in paths(environment):
            text = (root / path).read_text()
            first, filling, last = text.splitlines()
            assert (first, filling) == (last, FILLING)
            assert not is_edited(path, text, manifest)
            found.add(int(first))
    return found


def kill_writers(root: Path, kills: int) -> None:
    """Kill a process that writes set after set, again and again, and look at what lies there.

    Raises:
        AssertionError: a file was torn or lost, or the files were not all of one set.
    """
    import os
    import random
    import signal
    import time

    write_set(root, 0)
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
        (after,) = numbers(root)
        assert after >= number
    write_set(root, -1)
    assert list(root.rglob(".*.tmp")) == list(root.rglob("*.edited-*")) == []
    for folder in (root / "compose/generated", *(root / "compose/generated" / each for each in ENVIRONMENTS)):
        assert len(list((folder / ".sets").iterdir())) <= 2


@pytest.mark.subprocess
def test_a_kill_at_any_moment_leaves_one_whole_set(tmp_path: Path) -> None:
    """In a process of its own, since it forks."""
    code = f"from pathlib import Path; from tests.test_kills import *; kill_writers(Path({str(tmp_path)!r}), {KILLS})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def write_one(root: Path, environment: str, number: int) -> None:
    """Write the files of one environment alone."""
    folder = root / "compose" / "generated" / environment
    text = f"{number}\n{FILLING}\n{number}\n"
    files = tuple(RenderedFile(path=PurePosixPath(path), text=text) for path in paths(environment))
    write_files({folder: compare_files(root, folder, files)})


def test_two_that_write_an_environment_each_do_not_take_the_others_back(tmp_path: Path) -> None:
    """Each holds its own environment; the link to all of them is one."""
    with ThreadPoolExecutor() as pool:
        for number in range(20):
            list(pool.map(lambda environment, number=number: write_one(tmp_path, environment, number), ENVIRONMENTS))
            assert numbers(tmp_path) == {number}


def put_in_the_place_of_the_links(root: Path) -> None:
    """Make files of their own of the links, as `cp -rL`, `zip` and some editors do."""
    for environment in ENVIRONMENTS:
        for path in (*paths(environment), f"compose/generated/{environment}/{MANIFEST}"):
            text = (root / path).read_text()
            (root / path).unlink()
            (root / path).write_text(text)


@pytest.mark.parametrize("also", ["nothing else", "the folders too", "the folders alone", "an edit"])
def test_files_in_the_place_of_links_are_taken_as_they_are(also: str, tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    if also != "the folders alone":
        put_in_the_place_of_the_links(tmp_path)
    generated = tmp_path / "compose" / "generated"
    if also.startswith("the folders"):
        shutil.copytree(generated / ".current", generated / "copy")
        (generated / ".current").unlink()
        (generated / "copy").rename(generated / ".current")
    if also == "an edit":
        (tmp_path / "envs/.env.dev").write_text("MINE=1\n")
    write_set(tmp_path, 2)
    assert numbers(tmp_path) == {2}
    kept = {path.name: path.read_text() for path in tmp_path.rglob("*.edited-*")}
    assert kept == ({".env.dev.edited-1": "MINE=1\n"} if also == "an edit" else {})
    assert (tmp_path / "envs/.env.dev").is_symlink()


def test_an_edit_through_the_link_is_kept(tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    with (tmp_path / "envs/.env.dev").open("a") as file:
        file.write("MINE=1\n")
    write_set(tmp_path, 2)
    assert (tmp_path / "envs/.env.dev.edited-1").read_text().endswith("1\nMINE=1\n")
    assert numbers(tmp_path) == {2}
