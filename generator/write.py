"""Put rendered files on the disk: atomically, only where they differ, never over what a person wrote."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from generator.errors import UsageError
from generator.rendering import RenderedFile

MANIFEST = "manifest.json"
_ELSEWHERE = "make the folder writable, or choose another with --out DIR"


class FileStatus(StrEnum):
    """What happened, or would happen, to one file."""

    UNCHANGED = "unchanged"
    NEW = "new"
    CHANGED = "changed"


@dataclass(frozen=True, kw_only=True)
class FileChange:
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

    def diff(self) -> str:
        """Return a unified diff from what stands there to what is rendered; empty where they are equal."""
        old, new = (self.before or "").splitlines(keepends=True), self.file.text.splitlines(keepends=True)
        origin = "/dev/null" if self.before is None else str(self.file.path)
        return "".join(difflib.unified_diff(old, new, origin, str(self.file.path)))


def compare_files(root: Path, folder: Path, files: tuple[RenderedFile, ...]) -> tuple[FileChange, ...]:
    """Compare rendered files with the disk. `folder` is the environment's generated folder, with its manifest.

    Raises:
        UsageError: a file that stands there cannot be read.
    """
    written = read_manifest(folder)
    return tuple(_compare(root, file, written) for file in files)


def check_writable(targets: Iterable[Path], folders: Iterable[Path] = ()) -> None:
    """Check that every target could be written where it is to stand, and every missing folder made. Writes nothing.

    Raises:
        UsageError: a folder on the way to one is a file, is not writable, or lies on a read-only file system.
    """
    for target in targets:
        _check_way(target)
        if target.is_dir():
            raise UsageError(f"{target}: cannot be written: a folder stands there", hint="move it away")
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


def write_files(groups: Mapping[Path, tuple[FileChange, ...]]) -> tuple[str, ...]:
    """Write what changed and return a sentence for each file that had been edited and was kept aside.

    All texts, of all environments, are on the disk under temporary names before the first one takes its place.

    Args:
        groups: the changes of each environment by its generated folder, which gets their manifest.

    Raises:
        UsageError: a folder is not writable or the disk is full; nothing has been changed then.
    """
    pending: list[tuple[Path, Path]] = []
    kept: list[str] = []
    try:
        for folder, changes in groups.items():
            pending.extend(_stage_changes(folder, changes))
        everything = [change for changes in groups.values() for change in changes]
        edited = (change for change in everything if change.edited and change.status is FileStatus.CHANGED)
        kept.extend(_keep_aside(change.target) for change in edited)
        while pending:
            temporary, target = pending[0]
            temporary.replace(target)
            pending.pop(0)
        for change in everything:
            if change.target.stat().st_mode & 0o777 != change.file.mode:
                change.target.chmod(change.file.mode)
    except OSError as failure:
        where = failure.filename or next(iter(groups), "")
        raise UsageError(f"{where}: cannot be written: {failure.strerror}", hint=_ELSEWHERE) from None
    finally:
        for temporary, _ in pending:
            temporary.unlink(missing_ok=True)
    return tuple(kept)


def _stage_changes(folder: Path, changes: tuple[FileChange, ...]) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary file and its target for each file of one environment that differs, and for the manifest."""
    for change in changes:
        if change.status is not FileStatus.UNCHANGED:
            yield _stage(change.target, change.file.text, change.file.mode), change.target
    manifest = {str(change.file.path): _hash(change.file.text) for change in changes}
    if read_manifest(folder) != manifest:
        yield _stage(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n", 0o600), folder / MANIFEST


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file as it was last rendered; empty where nothing has been, or none can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def is_edited(path: str, text: str, manifest: dict[str, str]) -> bool:
    """Tell whether `text` at `path` differs from what was last rendered there."""
    return manifest.get(path) != _hash(text)


def _compare(root: Path, file: RenderedFile, written: dict[str, str]) -> FileChange:
    target = root / file.path
    try:
        before = target.read_text(encoding="utf-8") if target.exists() else None
    except UnicodeDecodeError:
        before = ""  # not ours: kept aside like any edit
    except OSError as failure:
        raise UsageError(f"{target}: cannot be read: {failure.strerror}", hint="move it away") from None
    edited = before is not None and is_edited(str(file.path), before, written)
    return FileChange(file=file, target=target, before=before, edited=edited)


def _stage(target: Path, text: str, mode: int) -> Path:
    """Write beside the target, so that a rename puts it in place at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _keep_aside(target: Path) -> str:
    """Give an edited file a second name, the next free `.edited-N`."""
    number = 1
    while (aside := target.with_name(f"{target.name}.edited-{number}")).exists():
        number += 1
    try:
        os.link(target, aside)
    except PermissionError:  # a file system without hard links, such as a Windows drive under WSL
        shutil.copy2(target, aside)
    return f"{target.name} had been edited: your version is kept as {aside.name}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
