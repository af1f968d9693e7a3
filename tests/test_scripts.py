"""The scripts on a small checkout of their own: a real virtual environment, made offline from a lock of uv alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_layers import PACKAGE
from tests.wheels import make_uv_wheel, make_wheel

pytestmark = pytest.mark.subprocess

ROOT = PACKAGE.parents[1]
# Stands for the package: says how it was called, and from where it came.
ECHO = """
import json, sys
from pathlib import Path
print(json.dumps({"arguments": sys.argv[1:], "from": str(Path(__file__).parent.parent), "cwd": str(Path.cwd())}))
"""

# The tests may run in an environment that was named so; those of the checkouts here stand in their own folders.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "STACKWRIGHT_VENV"}


@pytest.fixture(scope="module", autouse=True)
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let pip, and so uv, know one folder of wheels and no index; in it lies uv."""
    folder = tmp_path_factory.mktemp("wheels")
    (folder / "sha256").write_text(make_uv_wheel(folder))
    ENVIRONMENT.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder), UV_CACHE_DIR=str(folder / "cache"))
    return folder


def lay_out(root: Path, wheels: Path) -> Path:
    """Lay out a checkout with scripts, a lock of uv alone, an empty one, and the echo package."""
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "requirements").mkdir()
    (root / "requirements" / "run.txt").write_text(f"uv==1.0 \\\n    --hash=sha256:{(wheels / 'sha256').read_text()}\n")
    (root / "requirements" / "dev.txt").write_text("# empty\n")
    runtime = root / "generator" / "stackwright" / "runtime"
    runtime.mkdir(parents=True)
    shutil.copy(PACKAGE / "runtime" / "pip_settings.py", runtime)
    (runtime.parent / "__init__.py").write_text("")
    (runtime.parent / "__main__.py").write_text(ECHO)
    return root


def change_lock(checkout: Path, *lines: str) -> None:
    """Add lines to the lock of the commands."""
    lock = checkout / "requirements" / "run.txt"
    lock.write_text("\n".join([lock.read_text(), *lines, ""]))


@pytest.fixture
def checkout(tmp_path: Path, wheels: Path) -> Path:
    """Give a fresh checkout, in a path that has a blank."""
    return lay_out(tmp_path / "a checkout", wheels)


@pytest.fixture(scope="module")
def once_prepared(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    """Prepare one environment, to be copied."""
    root = lay_out(tmp_path_factory.mktemp("prepared") / "checkout", wheels)
    assert start(root).returncode == 0
    return root / ".venv"


@pytest.fixture
def prepared(checkout: Path, once_prepared: Path) -> Path:
    """Give a checkout that has been started before."""
    shutil.copytree(once_prepared, checkout / ".venv", symlinks=True)
    assert start(checkout).stderr == ""
    return checkout


def start(
    checkout: Path, *arguments: str, name: str = "stackwright", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one script to its end."""
    return subprocess.run(
        [str(checkout / "scripts" / name), *arguments],
        cwd=cwd or checkout.parent,
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def expected_output(checkout: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Say what the echo package prints."""
    words = ", ".join(f'"{word}"' for word in arguments)
    return f'{{"arguments": [{words}], "from": "{checkout}/generator", "cwd": "{cwd or checkout.parent}"}}\n'


def announced(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a preparation says that it does; a line for each of its steps comes after it."""
    first, *steps = done.stderr.splitlines()
    assert steps
    assert all(re.fullmatch(r"  (fetching uv, .+|installing [0-9]+ packages? of .+|compiling)", step) for step in steps)
    return first


def test_the_first_start_prepares_and_the_second_does_not(checkout: Path) -> None:
    first = start(checkout, "dev", "--set", "A=b c", name="start-environment")
    assert (first.returncode, announced(first)) == (0, f"preparing the Python environment in {checkout}/.venv (once)")
    assert first.stdout == expected_output(checkout, "start-environment", "dev", "--set", "A=b c")
    second = start(checkout, "--help")
    assert (second.returncode, second.stderr, second.stdout) == (0, "", expected_output(checkout, "--help"))


def test_a_changed_lock_is_installed_and_what_stands_is_kept(prepared: Path) -> None:
    kept = prepared / ".venv" / "kept"
    kept.touch()
    change_lock(prepared, "# changed")
    changed = start(prepared)
    bringing = f"updating the Python environment in {prepared}/.venv"
    assert (changed.returncode, announced(changed), kept.exists()) == (0, bringing, True)
    assert start(prepared).stderr == ""


def test_an_interrupted_installation_is_thrown_away(prepared: Path) -> None:
    (prepared / ".venv" / "unfinished").touch()
    (prepared / ".venv" / "half").touch()
    change_lock(prepared, "# changed")
    again = start(prepared)
    assert (again.returncode, (prepared / ".venv" / "half").exists()) == (0, False)
    assert announced(again) == f"preparing the Python environment in {prepared}/.venv (once)"


def test_ctrl_c_while_preparing_leaves_nothing_that_is_taken_for_whole(checkout: Path) -> None:
    with subprocess.Popen(
        [str(checkout / "scripts" / "stackwright")],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as child:
        assert child.stderr is not None
        first_words = child.stderr.readline()
        os.killpg(child.pid, signal.SIGINT)
        child.communicate()
    assert first_words.startswith("preparing")
    assert child.returncode in (130, -signal.SIGINT)
    assert not (checkout / ".venv" / "installed-run.txt").exists()
    assert start(checkout).returncode == 0


def test_two_first_starts_at_once_prepare_one_environment(checkout: Path) -> None:
    command = [str(checkout / "scripts" / "stackwright")]
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for _ in range(2)
    ]
    outputs = [child.communicate() for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert sum(words.count("preparing the Python environment") for _, words in outputs) == 1
    assert all(out.startswith('{"arguments": []') for out, _ in outputs)


def test_from_anywhere_through_a_link_and_past_a_package_of_the_same_name(prepared: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "stackwright").mkdir(parents=True)
    (elsewhere / "stackwright" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    (elsewhere / "configure-gpu").symlink_to(prepared / "scripts" / "configure-gpu")
    done = subprocess.run(
        ["./configure-gpu", "cpu"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT | {"PYTHONPATH": str(elsewhere)},
    )
    assert done.stdout == expected_output(prepared, "configure-gpu", "cpu", cwd=elsewhere)


def test_another_folder_can_be_named(checkout: Path, tmp_path: Path) -> None:
    done = start(checkout, STACKWRIGHT_VENV="named folder", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "named folder" / "bin" / "python").exists()) == (0, True)
    assert not (checkout / ".venv").exists()


def test_a_folder_of_someone_else_is_left_alone(checkout: Path) -> None:
    precious = checkout / ".venv" / "precious"
    precious.parent.mkdir()
    precious.write_text("mine")
    done = start(checkout)
    assert (done.returncode, done.stdout, precious.read_text()) == (2, "", "mine")
    assert done.stderr == (
        f"error: {checkout}/.venv exists, but these scripts did not create it\n"
        "hint: remove it, or set STACKWRIGHT_VENV to another folder\n"
    )


def test_a_folder_that_cannot_be_made_is_one_sentence(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = start(checkout, STACKWRIGHT_VENV=str(tmp_path / "file" / "venv"))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/file/venv: Not a directory\nhint: set STACKWRIGHT_VENV to a folder that you can write to\n"
    )


def test_a_package_that_cannot_be_had_is_one_sentence(prepared: Path) -> None:
    change_lock(prepared, f"stackwright-is-not-there==1.0 --hash=sha256:{'0' * 64}")
    done = start(prepared)
    assert done.returncode == 6
    assert f"error: uv could not install {prepared}/requirements/run.txt\nhint: " in done.stderr
    assert not (prepared / ".venv" / "installed-run.txt").exists()


def test_a_package_that_is_not_what_the_lock_says_is_refused(prepared: Path, wheels: Path) -> None:
    make_wheel(wheels, "tiny")
    change_lock(prepared, f"tiny==1.0 --hash=sha256:{'0' * 64}")
    done = start(prepared)
    assert done.returncode == 6
    assert "Hash mismatch for `tiny==1.0`" in done.stderr
    assert not (prepared / ".venv" / "installed-run.txt").exists()


def test_uv_that_is_not_what_the_lock_says_is_refused(checkout: Path) -> None:
    lock = checkout / "requirements" / "run.txt"
    lock.write_text(f"uv==1.0 --hash=sha256:{'0' * 64}\n")
    done = start(checkout)
    assert done.returncode == 6
    assert "error: pip could not install uv\nhint: see the lines above; check the network" in done.stderr
    assert not (checkout / ".venv" / "bin" / "uv").exists()


def test_a_python_without_pip_brings_its_own(checkout: Path, tmp_path: Path) -> None:
    """As Debian's python3 with python3-venv and without python3-pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    done = start(checkout, "--help", PATH=f"{tmp_path / 'bare' / 'bin'}:{ENVIRONMENT['PATH']}")
    assert (done.returncode, done.stdout) == (0, expected_output(checkout, "--help"))


def test_nothing_is_compiled_at_a_start_where_python_writes_no_compiled_modules(checkout: Path) -> None:
    package = checkout / "generator" / "stackwright"
    assert start(checkout, PYTHONDONTWRITEBYTECODE="1").returncode == 0
    compiled = next((package / "__pycache__").glob("__main__.*.pyc"))
    before = compiled.read_bytes()
    (package / "__main__.py").write_text(ECHO + "# changed\n")
    later = time.time() + 5  # surely after the mark, whatever the clock of the disk can tell apart
    os.utime(package / "__main__.py", (later, later))
    assert start(checkout, PYTHONDONTWRITEBYTECODE="1").returncode == 0
    assert compiled.read_bytes() != before


def test_without_a_python_that_is_new_enough(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "readlink", "cmp", "sh"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "python3").write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.9.2' && exit\nexit 1\n")
    (tools / "python3").chmod(0o755)
    done = start(checkout, PATH=str(tools))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: Python 3.11 or newer is needed, found: Python 3.9.2\n"
        "hint: install one beside it: on Ubuntu 22.04 apt-get install python3.11 python3.11-venv;"
        " elsewhere uv python install 3.12 (https://docs.astral.sh/uv)\n"
    )


def test_an_interpreter_that_is_gone_is_replaced(prepared: Path) -> None:
    link = prepared / ".venv" / "bin" / "python"
    link.unlink()
    link.symlink_to("/nowhere/python3.10")
    done = start(prepared)
    assert (done.returncode, announced(done)) == (0, f"preparing the Python environment in {prepared}/.venv (once)")


def test_the_tests_tell_their_usage_before_anything_is_prepared(checkout: Path) -> None:
    done = start(checkout, "--unit", "--help", name="test")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ./scripts/test [--unit] [ARGUMENT OF PYTEST]...\n")
    assert "./scripts/test --unit    the quick part" in done.stdout
    assert not (checkout / ".venv").exists()


def test_the_tests_let_pytest_refuse_an_unknown_option_first(checkout: Path, tmp_path: Path) -> None:
    """With a Python that knows pytest in the place of the one that would be prepared."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for lock in ("run", "dev"):
        shutil.copy(checkout / "requirements" / f"{lock}.txt", checkout / ".venv" / f"installed-{lock}.txt")
    done = start(checkout, "--unit", "--bogus", name="test")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments: --bogus" in done.stderr
    assert (tmp_path / "calls").read_text() == "-P -m pytest --markers --bogus\n"
