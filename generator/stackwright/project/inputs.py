"""What rendered files were made from, recorded beside them: a later look finds what has changed since.

Touches the disk.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath

from stackwright import __version__
from stackwright.catalog.load import fingerprint
from stackwright.domain.environment import EnvironmentPaths
from stackwright.domain.wishes import Wishes
from stackwright.project import folder as project
from stackwright.reading import read_text, to_plain
from stackwright.rendering import RenderedFile

INPUTS = "inputs.json"


def record_inputs(paths: EnvironmentPaths, wishes: Wishes) -> RenderedFile:
    """Return the record of what this environment's files are made from now."""
    path = PurePosixPath((paths.generated / INPUTS).relative_to(paths.root))
    return RenderedFile(path=path, text=json.dumps(_inputs(wishes), indent=2) + "\n")


def changed_inputs(paths: EnvironmentPaths) -> tuple[str, ...] | None:
    """Name what has changed since the files were rendered; None where no record can be read.

    Raises:
        UsageError: the wishes cannot be read.
    """
    try:
        recorded = json.loads(read_text(paths.generated / INPUTS))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(recorded, dict):
        return None
    now = _inputs(project.read_wishes(paths))
    names = {
        "stackwright": f"Stackwright ({_shown(recorded)}, now {__version__})",
        "catalog": "the catalog",
        "wishes": str(paths.wishes.relative_to(paths.root)),
    }
    return tuple(name for key, name in names.items() if recorded.get(key) != now[key])


def _shown(recorded: dict[str, object]) -> str:
    release = recorded.get("stackwright")
    return release[:40] if isinstance(release, str) and release.isprintable() else "of an unknown release"


def _inputs(wishes: Wishes) -> dict[str, str]:
    """Return a word for each input: comments and layout of the wishes do not count."""
    words = json.dumps(to_plain(wishes), sort_keys=True)
    return {
        "stackwright": __version__,
        "catalog": fingerprint(),
        "wishes": hashlib.sha256(words.encode()).hexdigest(),
    }
