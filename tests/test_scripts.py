"""The scripts on a small checkout of their own: a real virtual environment, made offline from empty locks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.test_layers import PACKAGE

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


def lay_out(root: Path) -> Path:
    """Lay out a checkout with scripts, empty locks and the echo package."""
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "requirements").mkdir()
    for name in ("run.txt", "dev.txt"):
        (root / "requirements" / name).write_text("# empty\n")
    (root / "generator" / "stackwright").mkdir(parents=True)
    (root / "generator" / "stackwright" / "__init__.py").write_text("")
    (root / "generator" / "stackwright" / "__main__.py").write_text(ECHO)
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a fresh checkout, in a path that has a blank."""
    return lay_out(tmp_path / "a checkout")


@pytest.fixture(scope="module")
def once_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare one environment, to be copied."""
    root = lay_out(tmp_path_factory.mktemp("prepared") / "checkout")
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


def test_the_first_start_prepares_and_the_second_does_not(checkout: Path) -> None:
    first = start(checkout, "dev", "--set", "A=b c", name="start-environment")
    preparing = f"preparing the Python environment in {checkout}/.venv (once)\n"
    assert (first.returncode, first.stderr) == (0, preparing)
    assert first.stdout == expected_output(checkout, "start-environment", "dev", "--set", "A=b c")
    second = start(checkout, "--help")
    assert (second.returncode, second.stderr, second.stdout) == (0, "", expected_output(checkout, "--help"))


def test_a_changed_lock_is_installed_and_what_stands_is_kept(prepared: Path) -> None:
    kept = prepared / ".venv" / "kept"
    kept.touch()
    (prepared / "requirements" / "run.txt").write_text("# changed\n")
    changed = start(prepared)
    bringing = f"bringing the Python environment in {prepared}/.venv up to date\n"
    assert (changed.returncode, changed.stderr, kept.exists()) == (0, bringing, True)
    assert start(prepared).stderr == ""


def test_an_interrupted_installation_is_thrown_away(prepared: Path) -> None:
    (prepared / ".venv" / "unfinished").touch()
    (prepared / ".venv" / "half").touch()
    (prepared / "requirements" / "run.txt").write_text("# changed\n")
    again = start(prepared)
    assert (again.returncode, (prepared / ".venv" / "half").exists()) == (0, False)
    assert again.stderr == f"preparing the Python environment in {prepared}/.venv (once)\n"


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
    assert (done.returncode, done.stdout, precious.read_text()) == (1, "", "mine")
    assert done.stderr == (
        f"error: {checkout}/.venv exists and was not made by these scripts\n"
        "hint: remove it, or set STACKWRIGHT_VENV to another folder\n"
    )


def test_a_folder_that_cannot_be_made_is_one_sentence(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = start(checkout, STACKWRIGHT_VENV=str(tmp_path / "file" / "venv"))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path}/file/venv: Not a directory\nhint: set STACKWRIGHT_VENV to a folder that you can write to\n"
    )


def test_a_package_that_cannot_be_had_is_one_sentence(prepared: Path) -> None:
    (prepared / "requirements" / "run.txt").write_text(f"stackwright-is-not-there==1.0 --hash=sha256:{'0' * 64}\n")
    done = start(prepared, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(prepared), PIP_EXTRA_INDEX_URL="")
    assert done.returncode == 1
    assert f"error: pip could not install {prepared}/requirements/run.txt\nhint: " in done.stderr
    assert not (prepared / ".venv" / "installed-run.txt").exists()


def test_without_a_python_that_is_new_enough(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "readlink", "cmp", "sh"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "python3").write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.9.2' && exit\nexit 1\n")
    (tools / "python3").chmod(0o755)
    done = start(checkout, PATH=str(tools))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: Python 3.11 or newer is needed, found: Python 3.9.2\n"
        "hint: install it, on Debian or Ubuntu: apt-get install python3 python3-venv\n"
    )


def test_an_interpreter_that_is_gone_is_replaced(prepared: Path) -> None:
    link = prepared / ".venv" / "bin" / "python"
    link.unlink()
    link.symlink_to("/nowhere/python3.10")
    done = start(prepared)
    assert (done.returncode, done.stderr) == (0, f"preparing the Python environment in {prepared}/.venv (once)\n")
