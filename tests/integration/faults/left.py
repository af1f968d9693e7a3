"""What a command has left behind: in the container engine, among the processes, on the disk. Looks only."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, structs
from stackwright.atomic import ENDING
from stackwright.project.generations import FOLDER as GENERATIONS
from stackwright.project.lock import NAME as LOCK
from stackwright.project.sets import SETS
from stackwright.runtime.process_groups import OWNER, members, read_groups

from tests.integration.project import Project

STACK = "STACKWRIGHT_STACK"


class Left(Struct, frozen=True, kw_only=True):
    """Everything of one project that is still there. Of a stack that was never started, nothing may be."""

    containers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in words: what a row of the fault table says."""
        found = [f"{name}: {', '.join(own)}" for name, own in structs.asdict(self).items()]
        return "; ".join(words for words in found if not words.endswith(": ")) or "nothing"


def find_left(project: Project, *, engine: bool = True) -> Left:
    """Look for everything that a project's commands may have left; with `engine` false in no container engine."""
    kinds = {kind: tuple(project.remains(kind)) if engine else () for kind in ("container", "network", "volume")}
    return Left(
        containers=kinds["container"],
        networks=kinds["network"],
        volumes=kinds["volume"],
        processes=tuple(_processes(project)),
        locks=tuple(_locks(project)),
        temporary=tuple(_temporary(project)),
    )


def files_of(project: Project) -> dict[str, tuple[int, str]]:
    """Return the mode and the hash of each file of a project folder: the person's, the rendered ones, the secrets.

    Each is read where it stands. Kept generations are left out: a start may add one, and what is kept of it is not the
    person's. So are the counts of what was used, which requests change.
    """
    found = {}
    for path in sorted(project.folder.rglob("*")):
        name = path.relative_to(project.folder)
        kept = {GENERATIONS, SETS} & set(name.parts)
        if (
            path.is_file()
            and not kept
            and path.name != LOCK
            and name.parts[0] != "caches"
            and ".usage" not in name.parts
        ):
            found[str(name)] = path.stat().st_mode & 0o777, hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _run_folder(project: Project) -> Path:
    return Path(project.variables["STACKWRIGHT_STATE"]) / "run" / project.name


def _processes(project: Project) -> Iterator[str]:
    """Yield each living process that a command of this project started: by its variables, words, or recorded group."""
    recorded = {
        pid
        for path in _run_folder(project).glob("*.groups")
        for group in read_groups(path)
        for pid in members(group)
    }  # fmt: skip
    folder, variable = str(project.folder).encode(), f"{STACK}={project.name}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or somebody else's
            continue
        client = any(each.startswith(f"{OWNER}=".encode()) for each in variables)
        ours = variable in variables or (client and (folder in words or project.name.encode() in words))
        named = folder in words or str(_run_folder(project)).encode() in words
        if words and (ours or named or int(entry.name) in recorded) and int(entry.name) != os.getpid():
            yield f"{entry.name} {words.replace(bytes(1), b' ').decode(errors='replace').strip()[:100]}"


def _locks(project: Project) -> Iterator[str]:
    """Yield each lock that is held, and the note of a command that has not ended as it should."""
    for path in project.folder.glob(f"compose/generated/*/{LOCK}"):
        yield str(path.relative_to(project.folder))
    for path in _run_folder(project).parent.glob(f".{project.name}.lock"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield f"run/{path.name}"


def _temporary(project: Project) -> Iterator[str]:
    """Yield each temporary file of the project folder, of what runs, and of the state folder's own records."""
    state = Path(project.variables["STACKWRIGHT_STATE"])
    for path in project.folder.rglob("*"):
        if path.name.endswith(ENDING):
            yield str(path.relative_to(project.folder))
    run = _run_folder(project)
    for path in (*state.glob(f".starts.json.*{ENDING}"), *([run] if run.exists() else [])):
        yield str(path.relative_to(state))
