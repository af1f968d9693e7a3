"""What rendered files were made from, recorded beside them: a later look finds what has changed since.

Touches the disk.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath

from stackwright import __version__
from stackwright.catalog.load import fingerprint
from stackwright.domain.environment import Environment
from stackwright.project import folder as project
from stackwright.reading import to_plain
from stackwright.rendering import RenderedFile

INPUTS = "inputs.json"


def record_inputs(root: Path, environment: Environment) -> RenderedFile:
    """Return the record of what this environment's files are made from now."""
    path = PurePosixPath("compose/generated") / environment.value / INPUTS
    return RenderedFile(path=path, text=json.dumps(_inputs(root, environment), indent=2) + "\n")


def changed_inputs(root: Path, environment: Environment) -> tuple[str, ...] | None:
    """Name what has changed since the files were rendered; None where no record can be read.

    Raises:
        UsageError: the wishes cannot be read.
    """
    try:
        recorded = json.loads((root / "compose" / "generated" / environment.value / INPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(recorded, dict):
        return None
    now = _inputs(root, environment)
    names = {
        "stackwright": f"Stackwright ({_shown(recorded)}, now {__version__})",
        "catalog": "the catalog",
        "wishes": f"envs/{environment.value}.yaml",
    }
    return tuple(name for key, name in names.items() if recorded.get(key) != now[key])


def _shown(recorded: dict[str, object]) -> str:
    release = recorded.get("stackwright")
    return release[:40] if isinstance(release, str) and release.isprintable() else "of an unknown release"


def _inputs(root: Path, environment: Environment) -> dict[str, str]:
    """Return a word for each input: comments and layout of the wishes do not count."""
    wishes = json.dumps(to_plain(project.read_wishes(root, environment)), sort_keys=True)
    return {
        "stackwright": __version__,
        "catalog": fingerprint(),
        "wishes": hashlib.sha256(wishes.encode()).hexdigest(),
    }
