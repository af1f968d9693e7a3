"""Put rendered files on the disk: atomically, only where they differ, never over what a person wrote."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from generator.atomic import ENDING, new_token, replace_file, stage_file, staged_name, stale_files
from generator.errors import UsageError, unwritable
from generator.rendering import RenderedFile

MANIFEST = "manifest.json"
_JOURNAL = ".switch-"
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


def write_files(
    groups: Mapping[Path, tuple[FileChange, ...]], manifests: Mapping[Path, Mapping[str, str]] | None = None
) -> tuple[str, ...]:
    """Write what changed and return a sentence for each file that had been edited and was kept aside.

    All texts, of all environments, are on the disk under temporary names before a journal of them is, and only then
    the first one takes its place: a run that is killed has changed nothing, or `finish_writing` does the rest.

    Args:
        groups: the changes of each environment by its generated folder, which gets their manifest. All these folders
            lie in one. Only one command at a time may write them.
        manifests: the manifest of a folder where it is not that of the texts: they were edited once.

    Raises:
        UsageError: a folder is not writable or the disk is full; nothing has been changed then.
    """
    everything = [change for changes in groups.values() for change in changes]
    token = new_token()
    journal = next(iter(groups)) / f"{_JOURNAL}{token}.json"
    staged: dict[Path, str | None] = {}
    try:
        kept = _finish({folder.parent for folder in groups})
        for folder, changes in groups.items():
            _sweep(folder, (folder / MANIFEST, *(change.target for change in changes)))
            manifest = _new_manifest(changes) if manifests is None else manifests[folder]
            _stage_changes(folder, changes, manifest, token, staged)
        if staged:
            _write_journal(journal, token, staged)
            kept += _switch(journal)
        for change in everything:
            if change.target.stat().st_mode & 0o777 != change.file.mode:
                change.target.chmod(change.file.mode)
    except OSError as failure:
        raise unwritable(next(iter(groups), ""), failure) from None
    finally:
        _leave(journal, token, staged)
    return kept


def finish_writing(root: Path) -> tuple[str, ...]:
    """Put in place what a killed command had made ready to be; return a sentence on that, and on each file kept aside.

    Every command that reads rendered files begins with it. Harmless beside a command that writes at this moment.

    Raises:
        UsageError: a file cannot be put in its place.
    """
    try:
        return _finish({root / "compose" / "generated"})
    except OSError as failure:
        raise UsageError(
            f"{failure.filename}: left unfinished by a command that was killed, and cannot be written: "
            f"{failure.strerror}",
            hint=_ELSEWHERE,
        ) from None


def _finish(folders: Iterable[Path]) -> tuple[str, ...]:
    said: list[str] = []
    for journal in sorted(journal for folder in folders for journal in folder.glob(f"*/{_JOURNAL}*.json")):
        said += ["a command was killed while it wrote: the files that it had made ready are in place now"]
        said += _switch(journal)
    return tuple(said)


def _leave(journal: Path, token: str, staged: Iterable[Path]) -> None:
    """End a run: a switch that was interrupted is carried through; what never came to one is taken away."""
    if journal.exists():
        with suppress(OSError):
            _switch(journal)
        return
    for target in staged:
        with suppress(OSError):
            staged_name(target, token).unlink()


def _sweep(folder: Path, targets: Iterable[Path]) -> None:
    """Remove what runs that were killed before their switch have left, a half-written journal included."""
    for stale in (*folder.glob(f".{_JOURNAL}*{ENDING}"), *(each for target in targets for each in stale_files(target))):
        stale.unlink(missing_ok=True)


def _new_manifest(changes: tuple[FileChange, ...]) -> dict[str, str]:
    return {str(change.file.path): _hash(change.file.text.encode()) for change in changes}


def _stage_changes(
    folder: Path,
    changes: tuple[FileChange, ...],
    manifest: Mapping[str, str],
    token: str,
    staged: dict[Path, str | None],
) -> None:
    """Stage each file of one environment that differs, and the manifest.

    `staged` gets each target, with the hash of what may be replaced there without being kept: None where that is
    nothing, empty where it is anything.
    """
    written = read_manifest(folder)
    for change in changes:
        if change.status is not FileStatus.UNCHANGED:
            staged[change.target] = written.get(str(change.file.path))
            change.target.parent.mkdir(parents=True, exist_ok=True)
            stage_file(change.target, change.file.text, token, change.file.mode)
    if written != manifest:
        staged[folder / MANIFEST] = ""
        folder.mkdir(parents=True, exist_ok=True)
        stage_file(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n", token)


def _write_journal(journal: Path, token: str, staged: Mapping[Path, str | None]) -> None:
    """Write down what is to be switched. From then on the new files count, wherever the run ends."""
    files = {os.path.relpath(target, journal.parent): over for target, over in staged.items()}
    replace_file(journal, json.dumps({"token": token, "files": files}) + "\n")


def _read_journal(journal: Path) -> tuple[str, dict[Path, str | None]]:
    """Return a journal's token and targets; none of one that is gone or damaged, so that nothing is switched."""
    try:
        data = json.loads(journal.read_text(encoding="utf-8"))
        token, files = str(data["token"]), dict(data["files"])
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return "", {}
    return token, {Path(os.path.normpath(journal.parent / name)): over for name, over in files.items()}


def _switch(journal: Path) -> tuple[str, ...]:
    """Give every staged file of a journal its name, edits kept aside first. To be done again, also by two at once."""
    token, targets = _read_journal(journal)
    ways = [(staged_name(target, token), target) for target in targets]
    kept = []
    for staged, target in ways:
        over = targets[target]
        if over != "" and staged.exists() and target.exists():
            there = _hash(target.read_bytes())
            if there not in (over, _hash(staged.read_bytes())):
                kept.append(_keep_aside(target))
    with ExitStack() as held:
        for target in targets:
            with suppress(OSError):
                held.callback(os.close, os.open(target, os.O_RDONLY | os.O_NONBLOCK))
        # Nothing but renames here: meanwhile the set on the disk is mixed. Each takes 3 µs while the file that it
        # replaces is held open, else 100 µs and more, for freeing that one's blocks (ext4 with `discard`).
        for staged, target in ways:
            with suppress(FileNotFoundError):
                staged.rename(target)
    journal.unlink(missing_ok=True)
    return tuple(kept)


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file as it was last rendered; empty where nothing has been, or none can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def is_edited(path: str, text: str, manifest: dict[str, str]) -> bool:
    """Tell whether `text` at `path` differs from what was last rendered there."""
    return manifest.get(path) != _hash(text.encode())


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


def _keep_aside(target: Path) -> str:
    """Give an edited file a second name, the next free `.edited-N`."""
    number = 1
    while (aside := target.with_name(f"{target.name}.edited-{number}")).exists():
        if aside.read_bytes() == target.read_bytes():  # kept already, by a run that was killed then
            return f"{target.name} had been edited: your version is kept as {aside.name}"
        number += 1
    try:
        os.link(target, aside)
    except PermissionError:  # a file system without hard links, such as a Windows drive under WSL
        shutil.copy2(target, aside)
    return f"{target.name} had been edited: your version is kept as {aside.name}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
