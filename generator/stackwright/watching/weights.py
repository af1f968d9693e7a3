"""What lies on this host of a model's weights: how much there is to read, and how much has arrived.

Touches the disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from stackwright.domain.plan import Replica
from stackwright.models.cache import snapshot_in

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
INDEX = "model.safetensors.index.json"
# The largest index on record has less than a tenth of it; what is larger is not one.
MOST_INDEX_BYTES = 64 * 2**20


class Weights(Struct, frozen=True, kw_only=True):
    """Sizes in bytes, None where nobody knows: of the whole model, and of its largest file."""

    total_bytes: int | None = None
    largest_file_bytes: int | None = None


def find_weights(model: str, hub_folder: Path, replica: Replica) -> Weights:
    """Return what is known of a model's size before it is loaded: from its files, else its index, else the plan.

    Args:
        hub_folder: the model's folder in Hugging Face's cache; not looked at where `model` is a folder itself.
    """
    folder = Path(model) if model.startswith("/") else snapshot_in(hub_folder)
    sizes = tuple(_sizes(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)).values()) if folder else ()
    planned = replica.memory.weights_bytes * replica.ranks if replica.memory else None
    total = (_indexed(folder / INDEX) if folder else None) or planned
    # A hub model may be there in part only: the files that are missing are as large as the model, for all we know.
    complete = bool(sizes) and (total is None or sum(sizes) >= 0.95 * total)
    return Weights(total_bytes=sum(sizes) if complete else total, largest_file_bytes=max(sizes) if complete else total)


class Download:
    """Sees a model arrive in Hugging Face's cache."""

    def __init__(self, folder: Path | None) -> None:
        """Remember what is there. `folder` is the model's in the cache, None where nothing is to arrive."""
        self._blobs = folder / "blobs" if folder else None
        self._before = self._incomplete(self._stored())

    def sample(self) -> tuple[int, bool]:
        """Return the bytes that are stored, and whether some of them are of a file that is arriving.

        A part that an interrupted download has left, and that does not grow, is not arriving.
        """
        stored = self._stored()
        arriving = any(self._before.get(name) != size for name, size in self._incomplete(stored).items())
        return sum(stored.values()), arriving

    def _stored(self) -> dict[str, int]:
        return _sizes(self._blobs.glob("*")) if self._blobs else {}

    @staticmethod
    def _incomplete(stored: Mapping[str, int]) -> dict[str, int]:
        return {name: size for name, size in stored.items() if name.endswith(".incomplete")}


def _sizes(files: Iterable[Path]) -> dict[str, int]:
    """Return the bytes of each file by name; of one that is still written, those that are on the disk."""
    sizes = {}
    for file in files:
        try:
            found = file.stat()
        except OSError:  # renamed to its final name meanwhile, or a link whose file has not come yet
            continue
        sizes[file.name] = min(found.st_size, found.st_blocks * 512) if file.suffix == ".incomplete" else found.st_size
    return sizes


def _indexed(index: Path) -> int | None:
    """Return the bytes of the tensors that an index names, None where there is none or it is damaged."""
    try:
        if index.stat().st_size > MOST_INDEX_BYTES:
            return None
        total = json.loads(index.read_bytes())["metadata"]["total_size"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return total if type(total) is int and 0 < total < 2**60 else None
