"""The search for better settings of an environment, as far as it has come: a file in its generated folder."""

from __future__ import annotations

import json
from pathlib import Path

from stackwright.atomic import replace_file
from stackwright.domain.environment import EnvironmentPaths
from stackwright.domain.tuning import TUNE_SCHEMA, TuneState
from stackwright.errors import UsageError, unwritable
from stackwright.reading import convert, read_text, to_plain

SEARCH, WORDS = "tune.json", "tune.log"


def search_file(paths: EnvironmentPaths) -> Path:
    """Name the file of the search."""
    return paths.generated / SEARCH


def words_file(paths: EnvironmentPaths) -> Path:
    """Name the file of all that its starts say."""
    return paths.generated / WORDS


def read_search(paths: EnvironmentPaths) -> TuneState | None:
    """Return the last search; None where there was none. Raises UsageError where it cannot be read."""
    file = search_file(paths)
    again = f"`stackwright tune {paths.environment} --restart` begins anew"
    try:
        document = json.loads(read_text(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as failure:
        raise UsageError(f"{file}: cannot be read: {failure}", hint=again) from None
    if not isinstance(document, dict) or document.get("schema") != TUNE_SCHEMA:
        raise UsageError(f"{file}: not a search of this release", hint=again)
    try:
        return convert(document, TuneState, where=str(file), error=UsageError)
    except UsageError as failure:
        raise UsageError(failure.message, hint=again) from None


def keep_search(paths: EnvironmentPaths, state: TuneState) -> None:
    """Write down how far the search has come. Raises UsageError where it cannot be written."""
    file = search_file(paths)
    try:
        replace_file(file, json.dumps(to_plain(state), indent=1) + "\n")
    except OSError as failure:
        raise unwritable(file, failure) from None
