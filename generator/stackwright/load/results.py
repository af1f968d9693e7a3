"""The stored results, a file each below `bench/` in the state folder. Reads and writes there alone."""

from __future__ import annotations

import json
from pathlib import Path

from stackwright.atomic import replace_file
from stackwright.domain.environment import Environment
from stackwright.domain.load import LOAD_SCHEMA, LoadResult
from stackwright.errors import UsageError, did_you_mean
from stackwright.reading import convert, read_text, to_plain

FOLDER = "bench"


def keep_result(state: Path, result: LoadResult) -> Path:
    """Write a result, and return its file. Raises UsageError where it cannot be written."""
    file = state / FOLDER / f"{result.name}.json"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(file, json.dumps(to_plain(result), indent=1) + "\n")
    except OSError as failure:
        raise UsageError(
            f"{file}: cannot be written: {failure.strerror}", hint="set STACKWRIGHT_STATE to a folder with room"
        ) from None
    return file


def list_results(state: Path, environment: Environment) -> tuple[LoadResult, ...]:
    """Return the results of an environment, oldest first."""
    files = sorted((state / FOLDER).glob(f"{environment.value}-*.json"))
    return tuple(read_result(file) for file in files)


def find_result(state: Path, asked: str) -> LoadResult:
    """Return a result by its name or its file. Raises UsageError where there is none."""
    file = state / FOLDER / f"{asked}.json"
    if "/" not in asked and file.is_file():
        return read_result(file)
    if Path(asked).is_file():
        return read_result(Path(asked))
    names = sorted(path.stem for path in (state / FOLDER).glob("*.json"))
    hint = did_you_mean(asked, names) or "`stackwright bench list ENV` names those of an environment"
    raise UsageError(f"no result `{asked[:80]}`", hint=hint)


def read_result(file: Path) -> LoadResult:
    """Read a stored result. Raises UsageError where it cannot be read, or is of a newer schema."""
    try:
        document = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as failure:
        raise UsageError(f"{file}: cannot be read: {failure}", hint="remove it, or name another") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != LOAD_SCHEMA:
        raise UsageError(
            f"{file}: schema: found {schema!r}, allowed: {LOAD_SCHEMA}", hint="read it with the release that wrote it"
        )
    return convert(document, LoadResult, where=str(file), error=UsageError)
