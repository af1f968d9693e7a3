"""The virtual environments of the `processes` runtime: each program's own, made on first use, side by side.

Writes below the state folder: `venvs/<name>-<key>/` (the key is a hash of the lock, the Python version and the
processor), `venvs/.<name>.lock` and `logs/install-<name>.log`. Runs uv, which reaches the package index that it, or
pip, is configured for, and fills its cache. As root on Debian it may also install what no wheel
brings: a library, a compiler, Python's headers.

A virtual environment cannot be moved, so a half-made one is told by its missing mark, which is written last;
such a one is removed and made again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from stackwright.domain.recipe import Recipe, SystemNeed
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Say
from stackwright.runtime.docker import end
from stackwright.runtime.pip_settings import CONSTRAINTS, forbids_index, uv_variables
from stackwright.runtime.process_groups import owned
from stackwright.units import GIB, MIB, format_bytes

MARK = "stackwright-complete"
"""Written into an environment when everything is installed."""

POLL_S = 0.1

Steps = Generator[None]
"""Work that is under way in other processes.

It is looked at now and then, and closed when it is not wanted any more.
"""


def ensure(state: Path, recipe: Recipe, say: Say) -> Path:
    """Return the environment of `recipe`, as `ensure_all`."""
    return ensure_all(state, {recipe.name: recipe}, say)[recipe.name]


def ensure_all(state: Path, recipes: Mapping[str, Recipe], say: Say) -> dict[str, Path]:
    """Return the folders of the environments, by whom they are for, making those that are not complete side by side.

    Two callers at once do not install twice: the second waits. The first failure, and an interruption, ends every uv
    and leaves no mark on what is not whole.

    Raises:
        RuntimeRefusedError: no room, no network, or uv refuses; the message holds uv's own last words. Also where a
            recipe cannot be had for the plan, or what no wheel brings is missing and cannot be installed from here.
    """
    for recipe in recipes.values():
        if recipe.refused is not None:
            raise RuntimeRefusedError(recipe.refused[0], hint=recipe.refused[1])
    # Also where the environment is there: a state folder outlives the machine that it was made on.
    needs = [_needs_met(name, recipe.needs, say) for name, recipe in recipes.items()]
    _work_off([*needs, *(_ensured(state, name, recipe, say) for name, recipe in recipes.items())])
    return {name: environment_folder(state, recipe) for name, recipe in recipes.items()}


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


def _ensured(state: Path, service: str, recipe: Recipe, say: Say) -> Steps:
    """Install `recipe` for a service unless a complete environment is there."""
    folder = environment_folder(state, recipe)
    if is_complete(folder):
        return
    title = title_of(recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder.parent / f".{recipe.name}.lock") as lock:
        if not _take(lock):
            say(service, f"waiting for another installation of {title}")
            while not _take(lock):
                yield
        if is_complete(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        _check_room(folder.parent, recipe)
        say(service, f"installing {title} (about {format_bytes(recipe.size_bytes)}, once)")
        tell = partial(say, service)
        yield from _Installation(state=state, folder=folder, recipe=recipe, tell=tell, lock=lock).run()
        (folder / MARK).write_text(f"{title}\n", encoding="utf-8")
    say(service, f"installed {title}")


def title_of(recipe: Recipe) -> str:
    """Return what an environment is for, with the version: `litellm 1.108.0`."""
    version = recipe.version
    if version is None and recipe.lock is not None:
        version = locked_version(recipe.lock, recipe.package)
    return f"{recipe.package} {version}"


def environment_folder(state: Path, recipe: Recipe) -> Path:
    """Return where the environment of `recipe` lies, made or not: another lock or Python means another folder."""
    return (state / "venvs").resolve() / f"{recipe.name}-{_key(recipe)}"  # uv writes the path down; links may go


def is_complete(folder: Path) -> bool:
    """Return whether the mark is there, and the Python that the environment was made from still is."""
    return (folder / MARK).is_file() and (folder / "bin" / "python").exists()


def locked_version(lock: Path, package: str) -> str:
    """Return the version of `package` in a lock file."""
    found = re.search(rf"^{re.escape(package)}(?:\[.*?\])?==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeRefusedError(f"{lock}: no version of {package}")
    return found.group(1)


def _needs_met(service: str, needs: Sequence[SystemNeed], say: Say) -> Steps:
    """Make sure that what no wheel brings is there, one after the other: a package manager has one lock.

    Raises:
        RuntimeRefusedError: something is missing and cannot be installed from here.
    """
    python = ".".join(map(str, sys.version_info[:2]))
    for need in (need for need in needs if not _is_there(need)):
        debian, fedora = (packages.format(python=python) for packages in (need.debian, need.fedora))
        apt = shutil.which("apt-get")
        if apt is not None and os.geteuid() == 0:
            say(service, f"installing {debian}, which {need.needed_by} needs")
            for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *debian.split()]):
                yield from _waited([apt, *words], {**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if not _is_there(need):
            raise RuntimeRefusedError(
                f"{need.needed_by} needs {need.name}, which is not installed",
                hint=f"on Debian and Ubuntu: `sudo apt-get install {debian}`; on Fedora: `sudo dnf install {fedora}`",
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


def _is_there(need: SystemNeed) -> bool:
    if need.library is not None:
        try:
            ctypes.CDLL(need.library)
        except OSError:
            return False
    if need.header is not None and not Path(sysconfig.get_path("include"), need.header).is_file():
        return False
    chosen = os.environ.get(need.variable or "")
    return not need.programs or any(map(shutil.which, (*([chosen] if chosen else []), *need.programs)))


def _key(recipe: Recipe) -> str:
    """Return a short hash of everything that an environment depends on."""
    digest = hashlib.sha256()
    if recipe.lock is not None:
        digest.update(recipe.lock.read_bytes())
    for attempt in recipe.attempts:
        # The path of the lock is where the project lies, not what is installed.
        digest.update("\0".join(word for word in attempt.arguments if not word.endswith(".txt")).encode())
    digest.update(f"{sys.version_info[:2]} {os.uname().machine}".encode())
    return digest.hexdigest()[:12]


def _check_room(folder: Path, recipe: Recipe) -> None:
    free, needed = shutil.disk_usage(folder).free, recipe.size_bytes * 3 // 2
    if free < needed:
        raise RuntimeRefusedError(
            f"{title_of(recipe)} needs about {format_bytes(needed)} in {folder}; {format_bytes(free)} are free",
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


class _Installation(Struct, frozen=True, kw_only=True):
    """One environment in the making. uv inherits `lock`: were this process killed, uv would still hold it."""

    state: Path
    folder: Path
    recipe: Recipe
    tell: Callable[[str], None]
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
            raise RuntimeRefusedError(
                f"{title_of(self.recipe)} could not be installed: {words}", hint=f"see {self.log}"
            )

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
                self.tell(f"{title_of(self.recipe)}: {now}")
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
