"""The rendered files and a person's own: all there, private, and as they were rendered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.finding import Finding, Severity, error, warning
from stackwright.project.write import MANIFEST, is_edited, read_manifest
from stackwright.runtime import Stack
from stackwright.validation.check import Check, Observation


class SeenFile(Struct, frozen=True, kw_only=True):
    """A file as it stands. `readable`: it is there, and its text may be read; of others nothing more is known.

    `user` is who looks: whose file it should be.
    """

    path: Path
    readable: bool
    mode: int = 0
    owner: int = 0
    user: int = 0
    edited: bool = False


class RenderedFiles(Struct, frozen=True, kw_only=True):
    """What was rendered, by its path in the project folder, and the person's own file where there is one."""

    rendered: tuple[tuple[str, SeenFile], ...]
    local: SeenFile | None


def inspect_files(stack: Stack) -> RenderedFiles:
    """Look at every file that the manifest names, and at the person's own."""
    manifest = read_manifest(stack.generated)
    rendered = []
    for path in sorted(manifest):
        text = text_of(stack.root / path)
        edited = text is not None and is_edited(path, text, manifest)
        rendered.append((path, inspect_file(stack.root / path, readable=text is not None, edited=edited)))
    local = stack.paths.local
    return RenderedFiles(rendered=tuple(rendered), local=inspect_file(local, readable=True) if local.exists() else None)


def inspect_file(path: Path, *, readable: bool, edited: bool = False) -> SeenFile:
    """Look at a file's mode and owner, where it is readable."""
    if not readable:
        return SeenFile(path=path, readable=False)
    found = path.stat()
    return SeenFile(
        path=path, readable=True, mode=found.st_mode & 0o777, owner=found.st_uid, user=os.getuid(), edited=edited
    )


def text_of(path: Path) -> str | None:
    """Return a file's text; None where there is none, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    except OSError:
        return None


def find_newest_s(stack: Stack) -> float | None:
    """Return when the newest rendered file was written, in seconds since 1970; None where there is none."""
    times = []
    for path in read_manifest(stack.generated):
        try:
            times.append((stack.root / path).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def check_files(stack: Stack, files: RenderedFiles) -> Iterator[Finding]:
    """Check that every file is there, private, and unedited since rendering."""
    name = stack.plan.environment.value
    again = f"render it again: `configure-gpu {name}`"
    if not files.rendered:
        missing = f"no readable {MANIFEST} in {stack.generated}"
        yield error("file-missing", found=missing, expected="the list of rendered files", fix=again)
    for path, seen in files.rendered:
        if not seen.readable:
            yield error("file-missing", found=f"no readable {path}", expected="every rendered file", fix=again)
            continue
        yield from check_privacy(seen, path, stack, "file")
        if seen.edited:
            fix = f"move the change to envs/.env.{name}.local or a pin (--set), then `configure-gpu {name}`"
            yield warning("file-edited", found=f"{path} was edited after rendering", expected="as rendered", fix=fix)
    if files.local is not None:
        # It holds settings, no secrets, and an editor makes it as the umask says: told, and no reason to stop.
        for finding in check_privacy(files.local, f"envs/{files.local.path.name}", stack, "file"):
            yield replace(finding, severity=Severity.WARNING)


def check_privacy(seen: SeenFile, name: str, stack: Stack, kind: str) -> Iterator[Finding]:
    """Find a file that others may open, or that another user owns, who could change what runs."""
    if seen.mode & 0o077:
        fix = f"`chmod 600 {seen.path}`"
        yield error(f"{kind}-mode", found=f"{name} is readable by others", expected="mode 0600", fix=fix)
    own = {seen.user, *(int(uid) for uid in [stack.env.get("STACKWRIGHT_UID", "")] if uid.isdecimal())}
    if seen.owner not in own:
        fix = f"`sudo chown {seen.user} {seen.path}`"
        yield error(f"{kind}-owner", found=f"{name} is owned by user {seen.owner}", expected="your own file", fix=fix)


RENDERED = Observation(take=lambda machine: inspect_files(machine.stack))


FILES = Check(
    name="files",
    about="the rendered files and `.local`: present, mode 0600, owned by you, unedited (SHA-256)",
    findings=tuple("file-missing file-mode file-owner file-edited".split()),
    rule=lambda on, files: check_files(on.stack, files),
    observations=(RENDERED,),
)
