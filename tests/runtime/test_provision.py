"""Provisioning with the real pip and real virtual environments, from wheels made here: no index is asked."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stackwright.domain.plan import Engine
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime.provision import (
    MARK,
    REQUIREMENTS,
    Attempt,
    Recipe,
    cpu_engine_recipe,
    ensure,
    environment_folder,
    gateway_recipe,
    gpu_engine_recipe,
    is_complete,
    last_words,
    locked_version,
    progress,
)

VLLM = Engine(name="vllm", version="0.32.0", image="vllm/vllm-openai-cpu:v0.32.0", cuda=None)


def make_wheel(folder: Path, name: str) -> str:
    """Write the least wheel that pip takes, and return its SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    information = f"{name}-1.0.dist-info"
    parts = {
        f"{name}.py": "NUMBER = 7\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    parts[f"{information}/RECORD"] = "".join(f"{part},,\n" for part in [*parts, f"{information}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, text in parts.items():
            archive.writestr(part, text)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Give a recipe for one small package from a lock with its hash."""
    wheels = tmp_path / "wheels"
    lock = tmp_path / "gateway.txt"
    lock.write_text(f"tiny==1.0 \\\n    --hash=sha256:{make_wheel(wheels, 'tiny')}\n", encoding="utf-8")
    offline = ("--no-index", "--find-links", str(wheels), "--require-hashes", "-r", str(lock))
    return Recipe(
        service="gateway",
        name="gateway",
        title="tiny 1.0",
        attempts=(Attempt(arguments=offline),),
        locks=(lock,),
        packages=1,
        size_bytes=1000,
    )


class Told:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, service: str, words: str) -> None:
        """Take one progress line."""
        self.lines.append(f"{service}: {words}")


@pytest.mark.subprocess
def test_first_use_installs_and_the_second_does_not(tmp_path: Path, recipe: Recipe) -> None:
    told = Told()
    folder = ensure(tmp_path / "state", recipe, told.say)
    number = subprocess.run(
        [folder / "bin" / "python", "-c", "import tiny; print(tiny.NUMBER)"], check=True, capture_output=True
    )
    assert number.stdout == b"7\n"
    assert told.lines[0] == "gateway: installing tiny 1.0 (about 1000 B, once)"
    assert told.lines[-1] == "gateway: installed tiny 1.0"
    told.lines.clear()
    assert ensure(tmp_path / "state", recipe, told.say) == folder
    assert told.lines == []


@pytest.mark.subprocess
def test_environment_without_its_mark_is_made_again(tmp_path: Path, recipe: Recipe) -> None:
    half = environment_folder(tmp_path / "state", recipe)
    (half / "lib").mkdir(parents=True)
    (half / "lib" / "left-over").touch()
    assert ensure(tmp_path / "state", recipe, Told().say) == half
    assert not (half / "lib" / "left-over").exists()
    assert is_complete(half)


@pytest.mark.subprocess
def test_changed_wheel_is_refused_with_the_words_of_pip(tmp_path: Path, recipe: Recipe) -> None:
    with (tmp_path / "wheels" / "tiny-1.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"more")
    with pytest.raises(RuntimeRefusedError) as refused:
        ensure(tmp_path / "state", recipe, Told().say)
    assert refused.value.message.startswith("tiny 1.0 could not be installed: ")
    assert "HASH" in (tmp_path / "state" / "logs" / "install-gateway.log").read_text().upper()
    assert refused.value.hint == f"see {tmp_path / 'state' / 'logs' / 'install-gateway.log'}"
    assert not is_complete(environment_folder(tmp_path / "state", recipe))


@pytest.mark.subprocess
def test_second_way_is_taken_where_the_first_fails(tmp_path: Path, recipe: Recipe) -> None:
    absent = ("--no-index", "--no-deps", "tiny==2.0+cpu")
    two_ways = replace(recipe, attempts=(Attempt(arguments=absent, otherwise=recipe.attempts[0].arguments),))
    assert is_complete(ensure(tmp_path / "state", two_ways, Told().say))


@pytest.mark.subprocess
def test_no_room_is_told_before_anything_is_installed(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(RuntimeRefusedError) as refused:
        ensure(tmp_path / "state", replace(recipe, size_bytes=2**60), Told().say)
    assert refused.value.message.startswith(f"tiny 1.0 needs about {2**30 * 3 // 2}.0 GiB in ")
    assert not environment_folder(tmp_path / "state", recipe).exists()


INSTALL = """
import sys
from pathlib import Path
from stackwright.runtime.provision import Attempt, Recipe, ensure
state, index = Path(sys.argv[1]), sys.argv[2]
attempt = Attempt(arguments=("--index-url", index, "--retries", "0", "--timeout", "600", "tiny"))
recipe = Recipe(
    service="engine", name="engine", title="tiny", attempts=(attempt,), locks=(), packages=None, size_bytes=1
)
ensure(state, recipe, lambda service, words: print(words, flush=True))
"""


@pytest.fixture
def stuck_index() -> Iterator[str]:
    """Give the address of a package index that takes a connection and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


@pytest.mark.subprocess
def test_interruption_ends_pip_and_leaves_no_mark(tmp_path: Path, stuck_index: str) -> None:
    command = [sys.executable, "-c", INSTALL, str(tmp_path), stuck_index]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[2] / "generator"))),
    }
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        log = tmp_path / "logs" / "install-engine.log"
        while not (log.exists() and "index" in log.read_text().lower()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == -signal.SIGINT
    assert pips(tmp_path) == []
    assert not list(tmp_path.glob(f"venvs/*/{MARK}"))


def pips(state: Path) -> list[str]:
    """Return the command lines that name this state folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        found += [" ".join(words)] if any(word.startswith(str(state)) for word in words) else []
    return found


@pytest.mark.subprocess
def test_second_installation_waits_for_the_first(tmp_path: Path, recipe: Recipe) -> None:
    import fcntl
    import threading

    folder = environment_folder(tmp_path / "state", recipe)
    folder.parent.mkdir(parents=True)
    told = Told()
    with (folder.parent / ".gateway.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=ensure, args=(tmp_path / "state", recipe, told.say))
        waiting.start()
        while not told.lines:
            time.sleep(0.01)
        assert told.lines == ["gateway: waiting for another installation of tiny 1.0"]
        # The first one ends: the environment is whole when the lock is free.
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()
        (folder / MARK).touch()
    waiting.join()
    assert told.lines == ["gateway: waiting for another installation of tiny 1.0"]


def test_environment_whose_python_is_gone_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / MARK).touch()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "removed")
    assert not is_complete(tmp_path)


def test_another_lock_means_another_folder(tmp_path: Path, recipe: Recipe) -> None:
    before = environment_folder(tmp_path, recipe)
    recipe.locks[0].write_text("tiny==2.0\n", encoding="utf-8")
    assert environment_folder(tmp_path, recipe) != before


def test_place_of_the_lock_does_not_matter(tmp_path: Path, recipe: Recipe) -> None:
    moved = tmp_path / "elsewhere" / "gateway.txt"
    moved.parent.mkdir()
    moved.write_bytes(recipe.locks[0].read_bytes())
    arguments = (*recipe.attempts[0].arguments[:-1], str(moved))
    other = replace(recipe, locks=(moved,), attempts=(Attempt(arguments=arguments),))
    assert environment_folder(tmp_path, other) == environment_folder(tmp_path, recipe)


def test_torch_is_never_the_cuda_build() -> None:
    torch = cpu_engine_recipe(VLLM).attempts[0]
    assert torch.arguments[-1] == torch.otherwise[-1] == "torch==2.13.0+cpu"
    locked = (REQUIREMENTS / "engine-cpu.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in locked if line.startswith(("torch", "nvidia", "triton", "cuda"))]


def test_every_locked_package_has_its_hash() -> None:
    for lock in REQUIREMENTS.glob("*.txt"):
        entries = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
        packages = [entry for entry in entries if entry and not entry.startswith("#")]
        assert len(packages) > 50
        assert [entry for entry in packages if "--hash=sha256:" not in entry] == []


def test_both_runtimes_serve_the_same_gateway() -> None:
    assert gateway_recipe().title == f"litellm {locked_version(REQUIREMENTS / 'gateway.txt', 'litellm')}"


def test_cpu_engine_of_another_version_is_refused() -> None:
    with pytest.raises(RuntimeRefusedError) as refused:
        cpu_engine_recipe(replace(VLLM, version="0.33.0"))
    assert (
        refused.value.message
        == "the plan asks for vllm 0.33.0, but the packages of the CPU engine are locked at 0.32.0"
    )


def test_gpu_engine_needs_the_cuda_of_the_wheels() -> None:
    assert gpu_engine_recipe(replace(VLLM, cuda="13.0")).attempts[0].arguments[-1] == "vllm==0.32.0"
    with pytest.raises(RuntimeRefusedError) as refused:
        gpu_engine_recipe(replace(VLLM, cuda="12.9"))
    assert refused.value.message == "the plan needs CUDA 12.9, but PyPI's vllm 0.32.0 is built for CUDA 13"


@pytest.mark.parametrize(
    ("log", "packages", "expected"),
    [
        ("", 10, None),
        ("Collecting a\n", 10, "downloaded 1 of 10 packages"),
        ("Collecting a\n" * 19, None, None),
        ("Collecting a\n" * 45, None, "downloaded 40 packages"),
        ("Collecting a\n" * 37, 150, "downloaded 30 of 150 packages"),
        ("Collecting a\nInstalling collected packages: a\n", 150, "unpacking"),
        ("Collecting a\n\nInstalling collected packages: a\n", 20, "unpacked 6 of 20 packages"),
        ("Installing collected packages: torch\nCollecting b\nCollecting c\n", 2, "downloaded 2 of 2 packages"),
    ],
)
def test_progress_is_read_from_what_pip_says(log: str, packages: int | None, expected: str | None) -> None:
    assert progress(log, packages, 7) == expected


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", "no output"),
        ("Collecting a\nKilled\n", "Killed"),
        (
            "ERROR: one\nERROR: No matching distribution found for torch==9\n\n",
            "No matching distribution found for torch==9",
        ),
        ("Error: no ensurepip.\n", "no ensurepip"),
    ],
)
def test_last_words_name_the_reason(log: str, expected: str) -> None:
    assert last_words(log) == expected


def test_environment_lies_at_its_real_path(tmp_path: Path) -> None:
    """Programs in it name their Python by that path, and a link on the way may go before the folder does."""
    state, link = tmp_path / "state", tmp_path / "link"
    (state / "venvs").mkdir(parents=True)
    link.mkdir()
    (link / "venvs").symlink_to(state / "venvs")
    assert environment_folder(link, gateway_recipe()) == environment_folder(state, gateway_recipe())
