"""Sets of rendered files, and the one link whose renaming puts others in force, all at once. Touches
`compose/generated`.

    compose/generated/<env>/.sets/<token>/        the files of one environment
    compose/generated/.sets/<token>/<env>         a link to one of those, for each environment
    compose/generated/.current                    a link to one of those: the sets in force
    envs/.env.<env>, compose/generated/<env>/*    links through .current: where the files stand

Whoever holds an environment alone makes its sets; the links of all environments change under a hold of their own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from stackwright.atomic import ENDING, new_token, stale_files

SETS = ".sets"
CURRENT = ".current"


def new_set(folder: Path) -> Path:
    """Make an empty set for the environment of a generated folder and return it; only its owner may look into it."""
    fresh = folder / SETS / new_token()
    fresh.mkdir(parents=True, mode=0o700)
    return fresh


def is_linked(folder: Path, target: Path) -> bool:
    """Return whether what stands at `target` is the link to the file of its name in the set in force."""
    return target.is_symlink() and str(target.readlink()) == _way(folder, target)


def link(folder: Path, target: Path) -> None:
    """Put the link to the file of its name in the set in force at `target`, in the place of what stands there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace_link(target, _way(folder, target))


def switch(generated: Path, made: Mapping[Path, Path]) -> None:
    """Put sets in force, each by its environment's generated folder, with those of the other environments as they are.

    One rename: until then the old ones are, from then on the new ones.
    """
    with _hold(generated):
        joint = generated.resolve() / SETS / new_token()
        joint.mkdir(parents=True, mode=0o700)
        for before in _entries(generated / CURRENT):
            (joint / before.name).symlink_to(before.readlink() if before.is_symlink() else _copy_of(before, joint))
        for folder, fresh in made.items():
            _replace_link(joint / folder.name, os.path.relpath(fresh.resolve(), joint))
        current = generated / CURRENT
        if current.is_dir() and not current.is_symlink():
            current.rename(generated / SETS / new_token())
        # Who has come as far as the link goes on through what it named: that is kept until the next time.
        kept = {joint, current.resolve()}
        _replace_link(current, f"{SETS}/{joint.name}")
        for stale in _entries(generated / SETS):
            if stale.resolve() not in kept:
                shutil.rmtree(stale, ignore_errors=True)
        for link_of_a_killed_command in stale_files(current):
            link_of_a_killed_command.unlink(missing_ok=True)


def sweep(folder: Path, targets: Iterable[Path]) -> None:
    """Remove the sets of an environment that no joint set names, and what killed commands left behind."""
    with suppress(OSError), _hold(folder.parent):
        named = {(joint / folder.name).resolve() for joint in _entries(folder.parent / SETS)}
        for entry in _entries(folder / SETS):
            if entry.resolve() not in named:
                shutil.rmtree(entry, ignore_errors=True)
        for target in targets:
            leads_nowhere = (target,) if is_linked(folder, target) and not target.exists() else ()
            for stale in (*stale_files(target), *leads_nowhere):
                stale.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / SETS).rmdir()


def _copy_of(folder: Path, joint: Path) -> str:
    """Make a set of a folder that stands where a link should: whoever copied the project has followed the links."""
    fresh = joint.parent.parent / folder.name / SETS / new_token()
    shutil.copytree(folder, fresh)
    return os.path.relpath(fresh, joint)


def _way(folder: Path, target: Path) -> str:
    return os.path.relpath(folder.parent / CURRENT / folder.name / target.name, target.parent)


def _replace_link(link: Path, to: str) -> None:
    staged = link.with_name(f".{link.name}.{new_token()}{ENDING}")
    staged.symlink_to(to)
    try:
        staged.replace(link)
    finally:
        staged.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def _hold(generated: Path) -> Iterator[None]:
    """Wait until nobody else changes the links of all environments; it takes a moment."""
    descriptor = os.open(generated, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
