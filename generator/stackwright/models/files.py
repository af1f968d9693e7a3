"""Whether all of a model is on this host: every file that its index names, each of the size that its header promises.

Touches the model's folder, or Hugging Face's cache; read-only. The weights themselves are not read.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from stackwright.domain.machine import ModelFiles
from stackwright.errors import StackError
from stackwright.models.cache import HubCache, find_snapshot
from stackwright.models.folder import CONFIG, INDEX, SINGLE, check_weights, parse_index, read_json

WEIGHTS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth")


def inspect_folder(folder: Path, uid: int, gid: int) -> ModelFiles:
    """Look at a model in a folder of its own; `uid` and `gid` are whom the stack runs as."""
    if not (folder / CONFIG).is_file():
        return ModelFiles(folder=str(folder), complete=False, problem=f"no {CONFIG} in {folder}")
    return _inspect(folder, uid, gid)


def inspect_cache(hub_id: str, cache: HubCache, uid: int, gid: int, weight_bytes: int | None) -> ModelFiles:
    """Look at what was downloaded of a model; `weight_bytes` is the size of all of its weights, None where unknown."""
    missing = missing_bytes(hub_id, cache, weight_bytes)
    snapshot = find_snapshot(hub_id, cache)
    if snapshot is None or not (snapshot / CONFIG).is_file() or not _has_all_weights(snapshot):
        return ModelFiles(folder=None, complete=False, weight_bytes=weight_bytes, missing_bytes=missing)
    # All of the model's folder: its snapshots are links to the files proper, which a new download would link again.
    return replace(_inspect(snapshot, uid, gid), folder=str(cache.folder(hub_id)))


def missing_bytes(hub_id: str, cache: HubCache, weight_bytes: int | None) -> int | None:
    """Return what of a model's weights is yet to be downloaded, by the names of the files; None where unknown."""
    snapshot = find_snapshot(hub_id, cache)
    if snapshot is not None and (snapshot / CONFIG).is_file() and _has_all_weights(snapshot):
        return 0
    return None if weight_bytes is None else max(0, weight_bytes - _held_bytes(hub_id, cache))


def _inspect(folder: Path, uid: int, gid: int) -> ModelFiles:
    try:
        check_weights(folder)
    except StackError as failure:
        return ModelFiles(folder=str(folder), complete=False, problem=failure.message)
    except OSError as failure:
        return ModelFiles(folder=str(folder), complete=False, problem=f"{folder}: {failure.strerror or failure}")
    closed = next((str(path) for path in _files(folder) if not _may_read(path, uid, gid)), None)
    weights = {path for kind in WEIGHTS for path in folder.glob(kind)}
    held = sum(path.stat().st_size for path in weights)
    return ModelFiles(folder=str(folder), complete=True, unreadable=closed, weight_bytes=held, missing_bytes=0)


def _has_all_weights(snapshot: Path) -> bool:
    """Return whether a download has ended: the hub's library puts a file in its place only when it is whole."""
    if (snapshot / INDEX).is_file():
        try:
            shards = parse_index(read_json(snapshot / INDEX), str(snapshot / INDEX))
        except StackError:
            return True  # damaged, not unfinished: looked at next
        return all((snapshot / shard).exists() for shard in shards)
    return (snapshot / SINGLE).exists() or bool([path for kind in WEIGHTS for path in snapshot.glob(kind)])


def _held_bytes(hub_id: str, cache: HubCache) -> int:
    """Add up what the cache holds of a model, unfinished downloads included: the library goes on with those."""
    try:
        return sum(path.stat().st_size for path in (cache.folder(hub_id) / "blobs").iterdir() if path.is_file())
    except OSError:
        return 0


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_file())


def _may_read(path: Path, uid: int, gid: int) -> bool:
    """Return whether a user may read a file, by its own mode; root may, and folders above are not looked at."""
    status = path.stat()
    if uid == 0:
        return True
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IRUSR)
    return bool(status.st_mode & (stat.S_IRGRP if status.st_gid == gid else stat.S_IROTH))
