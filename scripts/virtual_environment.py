"""Make the virtual environment of the scripts, or bring it up to its locks.

Runs on the machine's own Python (3.11 or newer), so: standard library only. uv installs the locks, and is itself the
first thing that is installed: by the machine's pip, else by the one that `ensurepip` brings. Touches the environment's
folder, the caches of both, and the compiled modules of the package; as root on Debian, where neither is there, installs
the package that holds `ensurepip`. Says what it does on stderr, and leaves stdout alone.
Usage: virtual_environment.py FOLDER REQUIREMENTS LOCK...

Files in the folder: `stackwright.lock` marks it as made here and keeps two starts apart; `unfinished` stands while
packages are being written, so that an interrupted installation is thrown away; `installed-LOCK.txt` is a copy of the
lock that was installed.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "stackwright.lock"
PACKAGE = Path(__file__).resolve().parents[1] / "generator" / "stackwright"


class PreparationError(Exception):
    """The environment cannot be made: one sentence and the next step.

    `output` is what a failed program said; the exit codes are those of the commands (docs/reference/exit-codes.md).
    """

    def __init__(self, message: str, hint: str, *, output: str = "", exit_code: int = 2) -> None:
        super().__init__(message)
        self.hint = hint
        self.output = output
        self.exit_code = exit_code


def main(arguments: Sequence[str]) -> int:
    """Prepare the environment and return its exit code: 0 done, 2 impossible, 6 a program failed, 130 interrupted."""
    venv, requirements, names = Path(arguments[0]), Path(arguments[1]), arguments[2:]
    locks = [requirements / f"{name}.txt" for name in names]
    try:
        with exclusive(venv):
            if not is_current(venv, locks):
                prepare(venv, locks)
    except PreparationError as failure:
        if failure.output.strip():
            say(failure.output.rstrip())
        say(f"error: {failure}")
        say(f"hint: {failure.hint}")
        return failure.exit_code
    except OSError as failure:
        say(f"error: {failure.filename or venv}: {failure.strerror or failure}")
        say("hint: set STACKWRIGHT_VENV to a folder that you can write to")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def say(text: str) -> None:
    """Tell the person one line."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def exclusive(venv: Path) -> Iterator[None]:
    """Hold the folder for this process alone, waiting for another one that holds it.

    Raises:
        PreparationError: the folder holds something that was not made here, and must not be cleared.
    """
    if venv.is_dir() and any(venv.iterdir()) and not (venv / LOCK_NAME).exists():
        message = f"{venv} exists, but these scripts did not create it"
        raise PreparationError(message, "remove it, or set STACKWRIGHT_VENV to another folder")
    venv.mkdir(parents=True, exist_ok=True)
    with (venv / LOCK_NAME).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another start that is preparing {venv}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_current(venv: Path, locks: Sequence[Path]) -> bool:
    """Say whether exactly these locks are installed."""
    return (venv / "bin" / "python").exists() and all(
        copy.is_file() and copy.read_bytes() == lock.read_bytes() for lock, copy in copies(venv, locks)
    )


def copies(venv: Path, locks: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pair each lock with the copy that stands for its installation."""
    return [(lock, venv / f"installed-{lock.name}") for lock in locks]


def prepare(venv: Path, locks: Sequence[Path]) -> None:
    """Install the locks, into a new environment unless a whole one is there."""
    unfinished = venv / "unfinished"
    renew = unfinished.exists() or not (venv / "bin" / "python").exists()
    if renew:
        say(f"preparing the Python environment in {venv} (once)")
        clear(venv)
    else:
        say(f"updating the Python environment in {venv}")
    unfinished.touch()
    for copy in venv.glob("installed-*.txt"):
        copy.unlink()
    if renew:
        create(venv)
    if not (venv / "bin" / "uv").exists():
        say("  fetching uv, which installs the rest")
        fetch_uv(venv, locks)
    for lock in locks:
        count = len(re.findall(r"^[a-z0-9][^ ]*==", lock.read_text(encoding="utf-8"), re.MULTILINE | re.IGNORECASE))
        say(f"  installing {count} package{'s' if count > 1 else ''} of {lock.name}")
        install(venv, lock)
    say("  compiling")
    compile_package(venv)
    for lock, copy in copies(venv, locks):
        shutil.copyfile(lock, copy)
    unfinished.unlink()


def clear(venv: Path) -> None:
    """Remove everything but the lock, which is held."""
    for entry in venv.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK_NAME:
            entry.unlink()


def create(venv: Path) -> None:
    """Make an empty environment, on the interpreter's own versioned name.

    Where a distribution later moves `python3` to another version, the old name is gone and the environment is made
    anew, rather than kept with packages that the new version does not see.
    """
    if importlib.util.find_spec("venv") is None:
        install_ensurepip()
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    command = [str(interpreter), "-I", "-m", "venv", "--without-pip", str(venv)]
    run(command, f"{interpreter} could not make a virtual environment")


def fetch_uv(venv: Path, locks: Sequence[Path]) -> None:
    """Install uv alone, as a lock has it, with a pip: the machine's own, else one put into the environment."""
    entries = (re.search(r"^uv==(?:\\\n|.)*", lock.read_text(encoding="utf-8"), re.MULTILINE) for lock in locks)
    entry = next(filter(None, entries), None)
    if entry is None:
        raise PreparationError(f"{locks[0]} holds no version of uv", "restore that file, with `git checkout` for one")
    own = venv / "uv.txt"
    own.write_text(f"{entry[0]}\n", encoding="utf-8")
    python = str(venv / "bin" / "python")
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-I", "-m", "pip", "--python", python]
    else:
        if importlib.util.find_spec("ensurepip") is None:
            install_ensurepip()
        run([python, "-I", "-m", "ensurepip"], f"{python} could not install pip")
        pip = [python, "-I", "-m", "pip"]
    pip += ["--no-input", "--disable-pip-version-check", "install", "-qq", "--no-compile", "--no-deps"]
    run([*pip, "--only-binary", ":all:", "--require-hashes", "-r", str(own)], "pip could not install uv")
    own.unlink()


def install_ensurepip() -> None:
    """Install Debian's package of `ensurepip` where this process may, or say how.

    Raises:
        PreparationError: it is missing and this process is not root on a machine with apt-get.
    """
    package = f"python3.{sys.version_info.minor}-venv"
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    if shutil.which("apt-get") is None:
        raise PreparationError("this Python has no ensurepip module", "install your distribution's package for venv")
    if os.geteuid() != 0:
        raise PreparationError("this Python has no ensurepip module", f"sudo apt-get install {package}")
    say(f"installing {package} with apt-get")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    try:
        run(command, "")
    except PreparationError:  # a fresh machine has no package lists yet
        run(["apt-get", "update", "-qq"], "apt-get could not read its package lists")
        run(command, f"apt-get could not install {package}")


def install(venv: Path, lock: Path) -> None:
    """Install one lock with uv, every file checked against its hash, and compile what was installed."""
    # What pip is told about indexes holds for uv too; the file is the package's, which cannot be imported yet.
    settings = runpy.run_path(str(PACKAGE / "runtime" / "pip_settings.py"))
    variables = settings["uv_variables"](os.environ)
    variables.pop(settings["CONSTRAINTS"], None)  # every version is exact, and uv asks for a constraint's hash too
    index = ["--no-index"] if settings["forbids_index"](os.environ) else []
    # Beside no project, whose settings for uv would count: in the environment's own folder.
    uv = [str(venv / "bin" / "uv"), "pip", "install", "--quiet", "--compile-bytecode", "--directory", str(venv)]
    arguments = ["--python", str(venv / "bin" / "python"), *index, "--no-deps", "--require-hashes", "-r", str(lock)]
    run([*uv, *arguments], f"uv could not install {lock}", variables)


def compile_package(venv: Path) -> None:
    """Compile the package's modules: where Python may write none, every command would do that anew.

    A checkout that cannot be written to is no failure: there they are compiled at each start.
    """
    command = [str(venv / "bin" / "python"), "-I", "-m", "compileall", "-q", str(PACKAGE)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    (venv / "compiled").touch()


def run(command: Sequence[str], message: str, variables: Mapping[str, str] | None = None) -> None:
    """Run a program, quietly unless it fails; `variables` are laid under those of this process.

    Raises:
        PreparationError: it failed.
    """
    # A person's pip settings for other places would put the packages elsewhere.
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    environment = {**(variables or {}), **environment, "PIP_USER": "0"}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        hint = "see the lines above; check the network, then try again"
        raise PreparationError(message, hint, output=done.stdout, exit_code=6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
