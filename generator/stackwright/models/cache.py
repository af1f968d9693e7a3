"""What Hugging Face's cache on this host already holds of a model, and beside it the headers that were read before.

Touches only the cache: reads its folders, and writes headers under its `assets`, the place that it keeps for other
programs (huggingface_hub 2.4.0, docs/guides/manage-cache: `assets/<library>/<namespace>`). Hugging Face's own library
is not needed for it, so that a second look at a model costs neither the network nor a slow import.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from stackwright.domain.tensors import DTYPE_BITS, TensorHeader

SCHEMA = 1
COMMIT = re.compile(r"[0-9a-f]{7,64}")


class HubCache(Struct, frozen=True, kw_only=True):
    """The folders: `models` holds downloads, `assets` what other programs keep."""

    models: Path
    assets: Path

    def folder(self, hub_id: str) -> Path:
        """Return a model's folder."""
        return self.models / _folder_name(hub_id)


def find_cache(environment: Mapping[str, str], home: Path | None = None) -> HubCache:
    """Return where the cache is: `home` (an HF_HOME), else what Hugging Face's own variables say, else its default.

    The variables and defaults are those of huggingface_hub 2.4.0, constants.py.
    """
    root = home or _path(environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface")
    models = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    assets = environment.get("HF_ASSETS_CACHE") or environment.get("HUGGINGFACE_ASSETS_CACHE")
    return HubCache(
        models=root / "hub" if home or not models else _path(models),
        assets=root / "assets" if home or not assets else _path(assets),
    )


def find_snapshot(hub_id: str, cache: HubCache) -> Path | None:
    """Return the folder of the newest downloaded version of a model, None where nothing of it was downloaded."""
    return snapshot_in(cache.folder(hub_id))


def snapshot_in(folder: Path) -> Path | None:
    """Return the newest version in a model's folder, None where there is none."""
    try:
        commit = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def load_headers(hub_id: str, commit: str, cache: HubCache) -> tuple[TensorHeader, ...] | None:
    """Return the headers that were kept for one version of a model, None where there are none or they are damaged."""
    try:
        document = json.loads(_header_file(hub_id, commit, cache).read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            return None
        return tuple(_header(*entry) for entry in document["tensors"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def keep_headers(hub_id: str, commit: str, tensors: tuple[TensorHeader, ...], cache: HubCache) -> None:
    """Keep headers for the next look. A cache that cannot be written is no failure: the next look reads them again."""
    from tempfile import mkstemp

    file = _header_file(hub_id, commit, cache)
    document = {"schema": SCHEMA, "tensors": [[tensor.name, tensor.dtype, tensor.shape] for tensor in tensors]}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = mkstemp(dir=file.parent, prefix=f".{file.name}-")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(document, stream, separators=(",", ":"))
        Path(name).replace(file)
    except OSError:
        return


def _path(text: str) -> Path:
    """Return the folder that a variable names; Hugging Face's may hold `~` and other variables."""
    return Path(os.path.expandvars(text)).expanduser()


def _header(name: object, dtype: object, shape: object) -> TensorHeader:
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError("not a tensor")
    if not isinstance(shape, list) or not all(isinstance(item, int) and item >= 0 for item in shape):
        raise ValueError("not a shape")
    return TensorHeader(name=name, dtype=dtype, shape=tuple(shape))


def _header_file(hub_id: str, commit: str, cache: HubCache) -> Path:
    return cache.assets / "stackwright" / _folder_name(hub_id) / "headers" / f"{commit}.json"


def _folder_name(hub_id: str) -> str:
    """Name a model's folder as Hugging Face does (huggingface_hub 2.4.0, file_download.py, repo_folder_name)."""
    return "models--" + hub_id.replace("/", "--")
