"""How a virtual environment is made: what a service's owner says of it, for whoever installs it. Pure."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

REQUIREMENTS = Path(__file__).parents[1] / "runtime" / "requirements"
"""The services' locks; beside each stands the .in file that tells how it is made. Engines have their own."""


LOCKED = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r")
"""The arguments before a lock that names everything, with its hashes."""


def all_locks() -> list[Path]:
    """Return every lock that comes with the package."""
    return sorted((*REQUIREMENTS.glob("*.txt"), *REQUIREMENTS.parents[1].glob("engines/*/requirements/*.txt")))


class InstallStep(Struct, frozen=True, kw_only=True):
    """One installation: the arguments of `uv pip install`, and what is tried in its place where they fail."""

    arguments: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


class SystemNeed(Struct, frozen=True, kw_only=True):
    """What no wheel brings: its name for a person, who needs it, and the packages of two systems that hold it.

    It is there where all that is named is: the `library` loads, one of the `programs` is on PATH or is what
    `variable` of the environment names, Python has the `header`. `{python}` in the name of a package is Python's
    `3.11`.
    """

    name: str
    needed_by: str
    debian: str
    fedora: str
    library: str | None = None
    programs: tuple[str, ...] = ()
    variable: str | None = None
    header: str | None = None


class Recipe(Struct, frozen=True, kw_only=True):
    """One virtual environment: its name, the package that it is for, how it is installed, and its size on disk.

    `version`: of the package; None: the one that `lock` has, whose content decides whether an environment is still the
    right one. `compiled`: its modules are compiled at once, for a program that may not write beside them. `refused`:
    why it cannot be made for this plan, and what to do.
    """

    name: str
    package: str
    attempts: tuple[InstallStep, ...]
    size_bytes: int
    version: str | None = None
    lock: Path | None = None
    compiled: bool = False
    needs: tuple[SystemNeed, ...] = ()
    refused: tuple[str, str] | None = None


def locked_recipe(name: str, package: str, *, size_bytes: int, compiled: bool = False) -> Recipe:
    """Return the recipe of an environment that the lock of its name says everything of."""
    lock = REQUIREMENTS / f"{name}.txt"
    step = InstallStep(arguments=(*LOCKED, str(lock)))
    return Recipe(name=name, package=package, attempts=(step,), lock=lock, size_bytes=size_bytes, compiled=compiled)
