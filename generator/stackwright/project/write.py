"""Put rendered files on the disk: atomically, only where they differ, never over what a person wrote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path, PurePath

from msgspec import Struct

from stackwright.atomic import replace_file
from stackwright.errors import UsageError, unwritable
from stackwright.project.sets import is_linked, link, new_set, sweep, switch
from stackwright.reading import read_text
from stackwright.rendering import RenderedFile

MANIFEST = "manifest.json"
_ELSEWHERE = "make the folder writable, or choose another with --out DIR"


class FileStatus(StrEnum):
    """What happened, or would happen, to one file."""

    UNCHANGED = "unchanged"
    NEW = "new"
    CHANGED = "changed"


class FileChange(Struct, frozen=True, kw_only=True):
    """One rendered file beside what stands on the disk.

    `before` is None where nothing stands there. `edited`: a person changed it since it was rendered, so it is
    kept aside when the new one is written.
    """

    file: RenderedFile
    target: Path
    before: str | None
    edited: bool

    @property
    def status(self) -> FileStatus:
        """Compare what is to be written with what stands there."""
        if self.before is None:
            return FileStatus.NEW
        return FileStatus.UNCHANGED if self.before == self.file.text else FileStatus.CHANGED

    @property
    def for_programs(self) -> bool:
        """Whether only programs read the file, so that a person need not see its differences."""
        return self.file.path.suffix == ".json"

    def stands(self) -> bool:
        """Look whether the rendered text stands there now."""
        try:
            return read_text(self.target) == self.file.text
        except (OSError, UnicodeDecodeError):
            return False

    def diff(self) -> str:
        """Return a unified diff from what stands there to what is rendered; empty where they are equal."""
        old, new = (self.before or "").splitlines(keepends=True), self.file.text.splitlines(keepends=True)
        origin = "/dev/null" if self.before is None else str(self.file.path)
        from difflib import unified_diff

        return "".join(unified_diff(old, new, origin, str(self.file.path)))


def compare_files(root: Path, folder: Path, files: tuple[RenderedFile, ...]) -> tuple[FileChange, ...]:
    """Compare rendered files with the disk. `folder` is the environment's generated folder, with its manifest.

    Raises:
        UsageError: a file that stands there cannot be read.
    """
    written = read_manifest(folder)
    return tuple(_compare(root, file, written) for file in files)


def list_paths(paths: Iterable[PurePath]) -> tuple[str, ...]:
    """Return the paths of some files, those of one folder together and as a shell expands them: `a/{b,c}`."""
    folders: dict[PurePath, list[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path.name)
    return tuple(
        str(folder / (names[0] if len(names) == 1 else f"{{{','.join(names)}}}")) for folder, names in folders.items()
    )


def check_writable(targets: Iterable[Path], folders: Iterable[Path] = ()) -> None:
    """Check that every target could be written where it is to stand, and every missing folder made. Writes nothing.

    Raises:
        UsageError: a folder on the way to one is a file, is not writable, or lies on a read-only file system.
    """
    for target in targets:
        _check_way(target)
        if target.is_dir():
            raise UsageError(f"{target}: cannot be written: it is a folder", hint="move it away")
    for folder in folders:
        _check_way(folder / "any", only_missing=True)


def _check_way(target: Path, *, only_missing: bool = False) -> None:
    """Check the nearest folder above `target` that is there; with `only_missing` not one that is its parent."""
    above = target.parent
    try:
        while not above.exists() and above != above.parent:
            above = above.parent
        there = above.is_dir()
    except OSError as failure:  # a folder that may not be looked into; a name longer than names may be
        raise UsageError(f"{above}: cannot be written: {failure.strerror}", hint=_ELSEWHERE) from None
    if there and (os.access(above, os.W_OK | os.X_OK) or (only_missing and above == target.parent)):
        return
    reason = "not writable" if there else "not a folder"
    raise UsageError(f"{above}: cannot be written: {reason}", hint=_ELSEWHERE)


def write_files(
    groups: Mapping[Path, tuple[FileChange, ...]], manifests: Mapping[Path, Mapping[str, str]] | None = None
) -> tuple[str, ...]:
    """Write what changed and return a sentence for each file that had been edited and was kept aside.

    The files of an environment lie in a folder of their own, a set; where they are to stand there are links into the
    sets in force. All of those, of all environments, become others with the renaming of one link, so whoever looks, and
    whenever this is killed, finds the old files or the new ones (docs/decisions/0020).

    Args:
        groups: the changes of each environment by its generated folder, which gets their manifest. All these folders
            lie in one. Only one command at a time may write an environment.
        manifests: the manifest of a folder where it is not that of the texts: they were edited once.

    Raises:
        UsageError: a folder is not writable or the disk is full; what stood there still does.
    """
    made: dict[Path, Path] = {}
    everything = [change for changes in groups.values() for change in changes]
    try:
        for folder, changes in groups.items():
            manifest = _new_manifest(changes) if manifests is None else manifests[folder]
            if (
                any(change.status is not FileStatus.UNCHANGED for change in changes)
                or read_manifest(folder) != manifest
            ):
                made[folder] = _make_set(folder, changes, manifest)
        for folder in made:
            _adopt(folder, [change.target for change in groups[folder]])
        edited = (change for change in everything if change.edited and change.status is FileStatus.CHANGED)
        kept = tuple(_keep_aside(change) for change in edited)
        if made:
            switch(next(iter(made)).parent, made)
        for change in everything:
            if change.target.stat().st_mode & 0o777 != change.file.mode:
                change.target.chmod(change.file.mode)
    except OSError as failure:
        raise unwritable(next(iter(groups), ""), failure) from None
    finally:
        for folder, changes in groups.items():
            sweep(folder, [folder / MANIFEST, *(change.target for change in changes)])
    return kept


def _new_manifest(changes: tuple[FileChange, ...]) -> dict[str, str]:
    return {str(change.file.path): _hash(change.file.text) for change in changes}


def _make_set(folder: Path, changes: tuple[FileChange, ...], manifest: Mapping[str, str]) -> Path:
    """Write a whole set that is not in force yet; what has not changed is in it as the very file that it was."""
    fresh = new_set(folder)
    for change in changes:
        if change.status is FileStatus.UNCHANGED:
            with suppress(OSError):  # a file system without hard links, such as a Windows drive under WSL
                os.link(change.target.resolve(), fresh / change.target.name)
                continue
        replace_file(fresh / change.target.name, change.file.text, change.file.mode)
    replace_file(fresh / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return fresh


def _adopt(folder: Path, targets: list[Path]) -> None:
    """Put links where the files are to stand.

    What stands there as a file of its own goes into the set in force first.
    """
    targets = [*targets, folder / MANIFEST]
    strangers = [target for target in targets if not is_linked(folder, target)]
    if any(target.exists() for target in strangers):
        copies = new_set(folder)
        for target in targets:
            if target.exists():
                shutil.copy2(target, copies / target.name)
        switch(folder.parent, {folder: copies})
    for target in strangers:
        link(folder, target)


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file as it was last rendered; empty where nothing has been, or none can be read."""
    try:
        manifest = json.loads(read_text(folder / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def is_edited(path: str, text: str, manifest: dict[str, str]) -> bool:
    """Return whether `text` at `path` differs from what was last rendered there."""
    return manifest.get(path) != _hash(text)


def _compare(root: Path, file: RenderedFile, written: dict[str, str]) -> FileChange:
    target = root / file.path
    try:
        before = read_text(target) if target.exists() else None
    except UnicodeDecodeError:
        before = ""  # not ours: kept aside like any edit
    except OSError as failure:
        raise UsageError(f"{target}: cannot be read: {failure.strerror}", hint="move it away") from None
    edited = before is not None and is_edited(str(file.path), before, written)
    return FileChange(file=file, target=target, before=before, edited=edited)


def _keep_aside(change: FileChange) -> str:
    """Give an edited file a second name, the next free `.edited-N`; say which, as a path in the project folder."""
    target, number = change.target, 1
    while (aside := target.with_name(f"{target.name}.edited-{number}")).exists():
        if aside.read_bytes() == target.read_bytes():  # kept already, by a run that was killed then
            break
        number += 1
    else:
        try:
            os.link(target.resolve(), aside)
        except PermissionError:  # a file system without hard links, such as a Windows drive under WSL
            shutil.copy2(target, aside)
    path = change.file.path
    return f"{path} was edited: your version is kept as {path.with_name(aside.name)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
