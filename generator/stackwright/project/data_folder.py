"""Whose data lie in the folder of the additions: two project folders do not share it unasked. Touches that folder."""

from __future__ import annotations

from pathlib import Path

from stackwright.domain.environment import Environment
from stackwright.errors import UsageError
from stackwright.project.location import name_command

OWNER = ".project"
"""The file in it that names the project folder."""


def check_data_folder(folder: Path, root: Path, environment: Environment, working: Path) -> None:
    """Refuse a folder with the data of another project folder that is still there.

    Data that nobody has claimed are anybody's: they are from a release that claimed none. So are those of a project
    folder that was moved or deleted.

    Raises:
        UsageError: it is another one's.
    """
    owner = _owner(folder)
    if owner is None or owner.resolve() == root.resolve() or not (owner / "compose" / "compose.yaml").exists():
        return
    own = f"COMPOSE_PROJECT_NAME={folder.name}-2"
    command = name_command("configure-gpu", environment.value, "--set", own, root=root, working=working)
    raise UsageError(
        f"{folder}: has the data of the project folder {owner}",
        hint=f"give this one a name and data of its own, `{command}`; to take those over, remove {folder / OWNER}",
    )


def claim_data_folder(folder: Path, root: Path) -> None:
    """Note whose data these are. Raises OSError where the folder cannot be written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _owner(folder) != root:
        (folder / OWNER).write_text(f"{root}\n", encoding="utf-8")


def _owner(folder: Path) -> Path | None:
    try:
        text = (folder / OWNER).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Path(text) if text else None
