"""Where a command reads and writes: the project folder, the state folder and the caches."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.errors import UsageError
from stackwright.models.read import SMOKE
from stackwright.planning.request import Folders
from stackwright.project import folder as project


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


def find_paths(out: Path | None) -> ProjectPaths:
    """Find the folders from `--out` and the environment."""
    try:
        state, folders = project.choose_folders(os.environ, Path.home())
        root = project.find_root(out, Path.cwd())
    except (RuntimeError, OSError) as failure:  # no home folder; the working folder is gone
        reason = (failure.strerror if isinstance(failure, OSError) else None) or str(failure).rstrip(".")
        raise UsageError(f"no folder to work in: {reason}", hint="set HOME, or name a folder with --out DIR") from None
    return ProjectPaths(root=root, state=state, folders=folders)
