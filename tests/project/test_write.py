"""Putting files on the disk: all or none, only where they differ, never over what a person wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from stackwright.errors import UsageError
from stackwright.project.write import (
    MANIFEST,
    FileStatus,
    check_writable,
    compare_files,
    is_edited,
    read_manifest,
    write_files,
)
from stackwright.rendering import RenderedFile

TEXTS = {"envs/.env.dev": "A=1\n", "compose/generated/dev/override.yaml": "a: 1\n"}


def rendered(texts: dict[str, str] = TEXTS) -> tuple[RenderedFile, ...]:
    """Return texts as rendered files."""
    return tuple(RenderedFile(path=PurePosixPath(path), text=text) for path, text in texts.items())


def generated(root: Path) -> Path:
    """Name the folder of the manifest."""
    return root / "compose" / "generated" / "dev"


def write(root: Path, texts: dict[str, str] = TEXTS) -> tuple[str, ...]:
    """Compare and write, as a command does."""
    return write_files({generated(root): compare_files(root, generated(root), rendered(texts))})


def tree(root: Path) -> dict[str, tuple[str, int, int]]:
    """Return the text, mode and time of every file where it is to stand; temporary ones are among them."""
    return {
        str(path.relative_to(root)): (path.read_text(), path.stat().st_mode & 0o777, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and ".sets" not in path.parts
    }


def test_new_files_are_private_and_told_apart(tmp_path: Path) -> None:
    changes = compare_files(tmp_path, generated(tmp_path), rendered())
    assert [change.status for change in changes] == [FileStatus.NEW, FileStatus.NEW]
    assert changes[0].diff() == "--- /dev/null\n+++ envs/.env.dev\n@@ -0,0 +1 @@\n+A=1\n"
    assert write_files({generated(tmp_path): changes}) == ()
    found = tree(tmp_path)
    assert {path: text for path, (text, _, _) in found.items() if not path.endswith(MANIFEST)} == TEXTS
    assert {mode for _, mode, _ in found.values()} == {0o600}


def test_writing_again_touches_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    before = tree(tmp_path)
    changes = compare_files(tmp_path, generated(tmp_path), rendered())
    assert {change.status for change in changes} == {FileStatus.UNCHANGED}
    assert [change.diff() for change in changes] == ["", ""]
    assert write_files({generated(tmp_path): changes}) == ()
    assert tree(tmp_path) == before


def test_a_file_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "envs/.env.dev").chmod(0o644)
    write(tmp_path)
    assert (tmp_path / "envs/.env.dev").stat().st_mode & 0o777 == 0o600


def test_a_strict_umask_does_not_lock_the_owner_out(tmp_path: Path) -> None:
    """The mode is what is asked for, neither wider nor narrower."""
    for folder in ("envs", "compose/generated/dev"):
        (tmp_path / folder).mkdir(parents=True)
    before = os.umask(0o377)
    try:
        write(tmp_path)
    finally:
        os.umask(before)
    assert {mode for _, mode, _ in tree(tmp_path).values()} == {0o600}


def test_a_changed_file_is_shown_and_replaced(tmp_path: Path) -> None:
    write(tmp_path)
    after = TEXTS | {"envs/.env.dev": "A=2\n"}
    changes = compare_files(tmp_path, generated(tmp_path), rendered(after))
    assert [(change.status, change.edited) for change in changes] == [
        (FileStatus.CHANGED, False),
        (FileStatus.UNCHANGED, False),
    ]
    assert changes[0].diff() == "--- envs/.env.dev\n+++ envs/.env.dev\n@@ -1 +1 @@\n-A=1\n+A=2\n"
    assert write(tmp_path, after) == ()
    assert (tmp_path / "envs/.env.dev").read_text() == "A=2\n"


def test_every_edit_is_kept_aside_under_a_name_of_its_own(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "envs/.env.dev"
    told = []
    for number in (1, 2):
        file.write_text(f"MINE={number}\n")
        told.append(write(tmp_path, TEXTS | {"envs/.env.dev": f"A={number + 1}\n"}))
    assert told == [
        ("envs/.env.dev was edited: your version is kept as envs/.env.dev.edited-1",),
        ("envs/.env.dev was edited: your version is kept as envs/.env.dev.edited-2",),
    ]
    assert [(tmp_path / f"envs/.env.dev.edited-{number}").read_text() for number in (1, 2)] == ["MINE=1\n", "MINE=2\n"]
    assert file.read_text() == "A=3\n"


def test_an_edit_that_says_the_same_is_not_kept(tmp_path: Path) -> None:
    """Someone made the change that the new rendering makes."""
    write(tmp_path)
    (tmp_path / "envs/.env.dev").write_text("A=2\n")
    assert write(tmp_path, TEXTS | {"envs/.env.dev": "A=2\n"}) == ()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"A=1"])
def test_a_file_that_was_never_ours_is_kept_aside(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "envs/.env.dev"
    file.parent.mkdir()
    file.write_bytes(content)
    assert write(tmp_path) == ("envs/.env.dev was edited: your version is kept as envs/.env.dev.edited-1",)
    assert (tmp_path / "envs/.env.dev.edited-1").read_bytes() == content


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"envs/.env.dev": 1}', "[" * 100_000])
def test_a_damaged_manifest_makes_nothing_lost(content: str, tmp_path: Path) -> None:
    """Nobody can tell any more whether the files were edited, so they are taken for edited."""
    write(tmp_path)
    (generated(tmp_path) / MANIFEST).write_text(content)
    assert write(tmp_path, TEXTS | {"envs/.env.dev": "A=2\n"}) != ()
    assert (tmp_path / "envs/.env.dev.edited-1").read_text() == "A=1\n"
    assert not is_edited("envs/.env.dev", "A=2\n", read_manifest(generated(tmp_path)))


def test_a_symbolic_link_is_replaced_and_what_it_names_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine\n")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/.env.dev").symlink_to(elsewhere)
    write(tmp_path)
    assert elsewhere.read_text() == "mine\n"
    assert (tmp_path / "envs/.env.dev").read_text() == "A=1\n"


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "envs/.env.dev").mkdir(parents=True)
    with pytest.raises(UsageError) as failure:
        compare_files(tmp_path, generated(tmp_path), rendered())
    assert failure.value.message == f"{tmp_path}/envs/.env.dev: cannot be read: Is a directory"
    assert failure.value.hint == "move it away"


def test_a_file_in_the_place_of_a_folder_changes_nothing(tmp_path: Path) -> None:
    """The second file cannot be written, so the first is not either."""
    (tmp_path / "compose").write_text("mine")
    changes = compare_files(tmp_path, generated(tmp_path), rendered())
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        write_files({generated(tmp_path): changes})
    assert list(tree(tmp_path)) == ["compose"]


def test_what_stands_in_the_way_of_a_second_environment_spares_the_first(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "compose/generated/prod").write_text("mine")
    before = tree(tmp_path)
    dev = compare_files(tmp_path, generated(tmp_path), rendered(TEXTS | {"envs/.env.dev": "A=2\n"}))
    folder = tmp_path / "compose/generated/prod"
    prod = compare_files(tmp_path, folder, rendered({"compose/generated/prod/override.yaml": "a: 1\n"}))
    with pytest.raises(UsageError):
        write_files({generated(tmp_path): dev, folder: prod})
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a/file", None),
        ("new/folders/file", None),
        ("file/below", "{root}/file: cannot be written: not a folder"),
        ("file/deep/below", "{root}/file: cannot be written: not a folder"),
        ("a", "{root}/a: cannot be written: it is a folder"),
        ("/dev/null/below", "/dev/null: cannot be written: not a folder"),
    ],
)
def test_what_cannot_be_written_is_found_beforehand(target: str, message: str | None, tmp_path: Path) -> None:
    """Modes hold no root back, so here something else stands in the way."""
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_text("")
    before = list(tmp_path.rglob("*"))
    if message is None:
        check_writable([tmp_path / target])
    else:
        with pytest.raises(UsageError) as failure:
            check_writable([tmp_path / "fine", tmp_path / target])
        assert failure.value.message == message.format(root=tmp_path)
    assert list(tmp_path.rglob("*")) == before


def test_a_folder_that_is_there_need_not_take_new_files(tmp_path: Path) -> None:
    """A shared cache may be for reading only; one that is missing must be made."""
    check_writable((), folders=[tmp_path, tmp_path / "new" / "cache", Path("/proc/self")])
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(UsageError, match="file: cannot be written: not a folder"):
            check_writable((), folders=[folder])


IN_A_PROCESS = """
import os, resource, signal, sys
from pathlib import Path
from tests.project.test_write import TEXTS, compare_files, generated, rendered, write_files
from stackwright.errors import UsageError
root = Path(sys.argv[1])
texts = TEXTS | {"envs/.env.dev": "A=2\\n", "compose/generated/dev/override.yaml": "b" * 100_000}
changes = compare_files(root, generated(root), rendered(texts))
"""
FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_files({generated(root): changes})
except UsageError as failure:
    print(failure.message)
"""
# The kernel kills the process in the middle of writing the second file.
KILLED = """
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_files({generated(root): changes})
"""


def run(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, whose limits are its own."""
    return subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS + code, str(root)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.subprocess
def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    before = tree(tmp_path)
    ended = run(FULL_DISK, tmp_path)
    assert "cannot be written: File too large" in ended.stdout
    assert tree(tmp_path) == before


@pytest.mark.subprocess
def test_a_killed_run_leaves_every_file_whole(tmp_path: Path) -> None:
    """What it had begun lies in a set that is not in force, until the next run."""
    write(tmp_path)
    before = tree(tmp_path)
    assert run(KILLED, tmp_path).returncode < 0
    assert tree(tmp_path) == before
    (whole,) = [each for each in (generated(tmp_path) / ".sets").iterdir() if (each / MANIFEST).exists()]
    assert len(list((generated(tmp_path) / ".sets").iterdir())) == 2
    write(tmp_path)
    assert tree(tmp_path) == before
    assert list((generated(tmp_path) / ".sets").iterdir()) == [whole]


def test_a_manifest_names_what_was_written(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = json.loads((generated(tmp_path) / MANIFEST).read_text())
    assert list(manifest) == list(TEXTS)
    assert not any(is_edited(path, text, manifest) for path, text in TEXTS.items())
    assert is_edited("envs/.env.dev", "A=1", manifest)
