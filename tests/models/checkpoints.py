"""Write small checkpoints in the layouts that are published, with real headers and zeros for data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from stackwright.domain.tensors import TensorHeader


def header_bytes(tensors: Iterable[TensorHeader]) -> bytes:
    """Return the first bytes of a safetensors file: length and JSON."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.bytes],
        }
        end += tensor.bytes
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def write_safetensors(file: Path, tensors: Iterable[TensorHeader]) -> Path:
    """Write a whole file with zeros for data, and return it."""
    held = tuple(tensors)
    file.write_bytes(header_bytes(held) + b"\0" * sum(tensor.bytes for tensor in held))
    return file


def write_model(
    folder: Path, config: Mapping[str, object], shards: Mapping[str, Iterable[TensorHeader]], *, total_size: int = 0
) -> Path:
    """Write a model folder: one file, or shards with their index where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    weight_map = {}
    for name, tensors in shards.items():
        held = tuple(tensors)
        write_safetensors(folder / name, held)
        weight_map.update({tensor.name: name for tensor in held})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
