"""The generations of an environment: each distinct set of its rendered files, kept with how it fared. Touches disk.

A generation is a folder of copies, `compose/generated/<env>/generations/<number>/`, made of what stood in the project
folder when it was recorded: a person's edits and their local file are in it, secrets are not. The copies are never
what runs, so nothing that is done to the files in place changes them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from stackwright.atomic import ENDING, new_token, replace_file
from stackwright.domain.environment import EnvironmentPaths
from stackwright.errors import UsageError
from stackwright.project.write import MANIFEST, compare_files, write_files
from stackwright.reading import convert, read_bytes
from stackwright.rendering import RenderedFile
from stackwright.services import generated_files

T = TypeVar("T")
KEPT = 5
KEPT_GOOD = 3
"""However many were written since: what runs, where to go back from there, and one more."""
FOLDER = "generations"
_ABOUT = "generation.json"
_RUNNING = "running.json"
LOCAL = "environment.local"
"""The copy of the person's own file: evidence, and what an earlier generation is brought back with."""
RECORDS = (MANIFEST, "inputs.json")
"""What is told about the files; kept with them, but other words there make no other generation."""


class GenerationState(StrEnum):
    """How a generation fared: nobody has started it yet, it answered, or it did not."""

    WRITTEN = "written"
    GOOD = "good"
    FAILED = "failed"


class Generation(Struct, frozen=True, kw_only=True):
    """One set of rendered files. `made` is when it was first seen, in UTC; `digest` of all its texts.

    A `trial` is kept while it runs, or is about to, and is none that a person goes back to.
    """

    number: int
    made: str
    state: GenerationState
    digest: str
    trial: bool = False


class Running(Struct, frozen=True, kw_only=True):
    """What a start that reached ready has left running, until it is stopped.

    `stack` is the name it runs under; `reads` a hash of the files that each service has read, where the runtime itself
    does not look into them.
    """

    number: int
    stack: str
    runtime: str
    reads: dict[str, str] = field(default_factory=dict)


class Generations:
    """The generations of one environment of a project folder. Only under its lock is anything written.

    Every method that writes raises OSError where it cannot.
    """

    def __init__(self, paths: EnvironmentPaths) -> None:
        self._paths = paths
        self._folder = paths.generated / FOLDER
        self._files = {
            "environment": paths.rendered,
            LOCAL: paths.local,
            **{name: paths.generated / name for name in ("override.yaml", *generated_files(), "plan.json", *RECORDS)},
        }

    def all(self) -> tuple[Generation, ...]:
        """Return every generation kept, the oldest first; one whose record is damaged is passed over."""
        found = [_read(entry / _ABOUT, Generation) for entry in _entries(self._folder)]
        return tuple(sorted(filter(None, found), key=lambda generation: generation.number))

    def find(self, number: int) -> Generation | None:
        """Return one generation, or None where it is not kept."""
        return next((generation for generation in self.all() if generation.number == number), None)

    def current(self) -> Generation | None:
        """Return the generation of the files as they stand, or None where they are not kept."""
        digest = _digest(self._contents())
        return next((generation for generation in reversed(self.all()) if generation.digest == digest), None)

    def stands(self, number: int) -> bool:
        """Return whether the files as they stand are those of a generation, whatever the person's local file says."""
        apart = (*RECORDS, LOCAL)
        copies = {name: _content(self._folder / str(number) / name) for name in self._files if name not in apart}
        return copies == {name: _content(self._files[name]) for name in copies}

    def record(self, *, trial: bool = False) -> Generation:
        """Keep the files as they stand and return their generation, which may be there already."""
        same, contents = self.current(), self._contents()
        if same is not None:
            self._renew_records(self._folder / str(same.number), contents)
            return same
        number = max((int(entry.name) for entry in _entries(self._folder)), default=0) + 1
        made = datetime.now(UTC).isoformat(timespec="seconds")
        digest = _digest(contents)
        generation = Generation(number=number, made=made, state=GenerationState.WRITTEN, digest=digest, trial=trial)
        self._write(generation, contents)
        self._prune(number)
        return generation

    def drop_trials(self) -> None:
        """Remove the trials, but one that runs."""
        running = self.running()
        for generation in self.all():
            if generation.trial and (running is None or generation.number != running.number):
                shutil.rmtree(self._folder / str(generation.number), ignore_errors=True)

    def mark(self, number: int, state: GenerationState) -> None:
        """Note how a generation has fared. One that has answered once stays good."""
        found = self.find(number)
        if found is not None and found.state is not state and found.state is not GenerationState.GOOD:
            self._describe(self._folder / str(number), replace(found, state=state))

    def put_back(self, number: int) -> tuple[str, ...]:
        """Write the files of a generation where they belong, all or none; return a sentence for each edit kept aside.

        A person's local file is theirs: it stays as it is.

        Raises:
            UsageError: the generation is not kept or no longer what it was, or a file cannot be written.
        """
        texts = self._texts(number)
        files = tuple(
            RenderedFile(path=PurePosixPath(self._files[name].relative_to(self._paths.root)), text=text)
            for name, text in texts.items()
            if name in self._files and name not in (LOCAL, MANIFEST)
        )
        folder = self._paths.generated
        changes = compare_files(self._paths.root, folder, files)
        return write_files({folder: changes}, {folder: _manifest(texts.get(MANIFEST, ""))})

    def environment_file(self, number: int) -> Path:
        """Name the copy of the generated environment file."""
        return self._folder / str(number) / "environment"

    def local_file(self, number: int) -> Path:
        """Name the copy of the local file that a generation was made with; it is not there where there was none."""
        return self._folder / str(number) / LOCAL

    def local_differs(self, number: int) -> bool:
        """Return whether the person's local file is another than it was in a generation."""
        return _content(self.local_file(number)) != _content(self._paths.local)

    def _contents(self) -> dict[str, bytes]:
        return {name: read_bytes(path) for name, path in self._files.items() if path.is_file()}

    def _texts(self, number: int) -> dict[str, str]:
        found, folder = self.find(number), self._folder / str(number)
        if found is None:
            kept = ", ".join(str(generation.number) for generation in self.all()) or "none"
            raise UsageError(f"generation {number} is not kept; kept: {kept}", hint="choose another with `--to N`")
        try:
            contents = {path.name: read_bytes(path) for path in folder.iterdir() if path.name != _ABOUT}
            if _digest(contents) == found.digest:
                return {name: content.decode() for name, content in contents.items()}
        except (OSError, UnicodeDecodeError) as failure:
            raise UsageError(f"{folder}: cannot be read: {failure}", hint="choose another with `--to N`") from None
        raise UsageError(f"{folder}: changed since it was kept", hint="choose another with `--to N`")

    def running(self) -> Running | None:
        """Return what the last start that reached ready has left running, None after a stop."""
        return _read(self._folder / _RUNNING, Running)

    def set_running(self, running: Running | None) -> None:
        """Note what runs now."""
        if running is None:
            (self._folder / _RUNNING).unlink(missing_ok=True)
        elif running != self.running():
            replace_file(self._folder / _RUNNING, json.dumps(asdict(running)) + "\n")

    def _write(self, generation: Generation, contents: Mapping[str, bytes]) -> None:
        """Make the folder under another name first: a generation is whole or not there."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        fresh = self._folder / f".{generation.number}.{new_token()}{ENDING}"
        fresh.mkdir(mode=0o700)
        try:
            for name, content in contents.items():
                (fresh / name).touch(mode=0o600)
                (fresh / name).write_bytes(content)
            self._describe(fresh, generation)
            fresh.rename(self._folder / str(generation.number))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _renew_records(self, folder: Path, contents: Mapping[str, bytes]) -> None:
        """Keep what is told about the files as it is told now: what a person chose may differ where no file does."""
        for name in RECORDS:
            if name in contents and _content(folder / name) != contents[name]:
                replace_file(folder / name, contents[name].decode(errors="replace"))

    def _describe(self, folder: Path, generation: Generation) -> None:
        replace_file(folder / _ABOUT, json.dumps(asdict(generation)) + "\n")

    def _sweep(self) -> None:
        """Remove what a killed command has begun."""
        for entry in self._folder.iterdir():
            if entry.name.endswith(ENDING):
                shutil.rmtree(entry, ignore_errors=True)
                with suppress(OSError):
                    entry.unlink(missing_ok=True)

    def _prune(self, newest: int) -> None:
        """Keep the last ones, and of the older ones what runs and the last that were good; no trial but the newest."""
        every = self.all()
        kept = [generation for generation in every if not generation.trial]
        good = [generation.number for generation in kept if generation.state is GenerationState.GOOD]
        running = self.running()
        last = [generation.number for generation in kept[-KEPT:]]
        spared = {newest, *last, *good[-KEPT_GOOD:], *([running.number] if running else [])}
        for generation in every:
            if generation.number not in spared:
                shutil.rmtree(self._folder / str(generation.number), ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path, kind: type[T]) -> T | None:
    """Read a record; None where there is none, or it makes no sense."""
    try:
        return convert(json.loads(read_bytes(path)), kind, where=str(path), error=UsageError)
    except (OSError, ValueError, RecursionError, UsageError):
        return None


def _content(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except OSError:
        return None


def _manifest(text: str) -> dict[str, str]:
    """Read a manifest; an unreadable one is empty, so that every file counts as edited and none is lost."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _digest(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted((name, content) for name, content in contents.items() if name not in RECORDS):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()
