"""Where a command reads and writes: the project folder, the state folder and the caches."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from stackwright.domain.environment import Environment, EnvironmentPaths, Folders
from stackwright.errors import UsageError
from stackwright.models.read import SMOKE
from stackwright.project.location import choose_folders, find_root


class ProjectPaths(Struct, frozen=True, kw_only=True):
    """Where this run reads and writes: the project folder, the state folder and the caches."""

    root: Path
    state: Path
    folders: Folders

    def of(self, environment: Environment) -> EnvironmentPaths:
        """Return where the files of one environment stand."""
        return EnvironmentPaths(root=self.root, state=self.state, environment=environment)

    @property
    def smoke(self) -> Path:
        """The folder of the model that is made on the spot."""
        return self.state / "models" / SMOKE


# What this package makes below the state folder, and reads without asking what it is.
_STATE_FOLDERS = ("bench", "data", "failures", "logs", "models", "run", "venvs")


def find_paths(out: Path | None) -> ProjectPaths:
    """Find the folders from `--out` and the environment.

    Raises:
        UsageError: there is no folder to work in, or a file in the place of one.
    """
    try:
        state, folders = choose_folders(os.environ, Path.home())
        root = find_root(out, working_folder() if out is not None and out.is_absolute() else Path.cwd())
        _require_folders(state)
    except (RuntimeError, OSError) as failure:  # no home folder; the working folder is gone
        reason = (failure.strerror if isinstance(failure, OSError) else None) or str(failure).rstrip(".")
        raise UsageError(f"no folder to work in: {reason}", hint="set HOME, or name a folder with --out DIR") from None
    return ProjectPaths(root=root, state=state, folders=folders)


def working_folder() -> Path:
    """Return the working folder, from which nothing relative is read here; the root where it has been deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _require_folders(state: Path) -> None:
    above = next(path for path in (state, *state.parents) if path.exists())
    for path in (above, *(state / name for name in _STATE_FOLDERS)):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path}: not a folder", hint="move it away, or set STACKWRIGHT_STATE to another folder")
