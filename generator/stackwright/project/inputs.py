"""What rendered files were made from, recorded beside them: the inputs, and what a person chose.

A later look finds what has changed since, and a later command what was chosen.

Touches the disk.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import cast

from stackwright import __version__
from stackwright.catalog.load import fingerprint
from stackwright.domain.choices import Choices
from stackwright.domain.environment import EnvironmentPaths
from stackwright.domain.wishes import Wishes
from stackwright.errors import UsageError
from stackwright.project import folder as project
from stackwright.reading import convert, read_text, to_plain
from stackwright.rendering import RenderedFile

INPUTS = "inputs.json"


def record_inputs(paths: EnvironmentPaths, wishes: Wishes, choices: tuple[Choices, ...] = ()) -> RenderedFile:
    """Return the record of what this environment's files are made from now; `choices`: one for each host, the newest
    last.
    """
    path = PurePosixPath((paths.generated / INPUTS).relative_to(paths.root))
    record = {**_inputs(paths, wishes), "choices": [_written(choice) for choice in choices]}
    return RenderedFile(path=path, text=json.dumps(record, indent=2) + "\n")


def _written(choices: Choices) -> dict[str, object]:
    """Return choices as they are recorded: without what was left open."""
    plain = to_plain(choices)
    return {key: value for key, value in cast("dict[str, object]", plain).items() if value not in (None, False, [], {})}


def read_choices(paths: EnvironmentPaths) -> tuple[tuple[Choices, ...], tuple[str, ...]]:
    """Return what was chosen for this environment, one record for each host, and a sentence where it cannot be read."""
    file = paths.generated / INPUTS
    try:
        recorded = json.loads(read_text(file))
        rows = recorded.get("choices", [])
        return tuple(convert(row, Choices, where=str(file), error=UsageError) for row in rows), ()
    except (FileNotFoundError, NotADirectoryError):
        return (), ()
    except (OSError, ValueError, RecursionError, UsageError, AttributeError, TypeError) as failure:
        what = failure.message if isinstance(failure, UsageError) else f"{file}: cannot be read"
        return (), (f"{what}: what was chosen for {paths.environment} before is not known; name it again",)


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
    now = _inputs(paths, project.read_wishes(paths))
    names = {
        "stackwright": f"Stackwright ({_shown(recorded)}, now {__version__})",
        "catalog": "the catalog",
        "wishes": str(paths.wishes.relative_to(paths.root)),
    }
    shared = "common" in recorded and recorded["common"] != now["common"]
    if shared:
        names["wishes"] = str(paths.common.relative_to(paths.root))
    return tuple(name for key, name in names.items() if recorded.get(key) != now[key])


def _shown(recorded: dict[str, object]) -> str:
    release = recorded.get("stackwright")
    return release[:40] if isinstance(release, str) and release.isprintable() else "of an unknown release"


def _inputs(paths: EnvironmentPaths, wishes: Wishes) -> dict[str, str]:
    """Return a word for each input: comments and layout of the wishes, and which file has which, do not count."""
    plain = {key: value for key, value in to_plain(wishes).items() if key != "shared"}
    return {
        "stackwright": __version__,
        "catalog": fingerprint(),
        "wishes": _digest(plain),
        "common": _digest(project.read_common(paths)),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
