"""Read a model from a folder on this host: its config.json and the headers of its weights. Touches only that folder.

The layout is Hugging Face's: `model.safetensors`, or `model.safetensors.index.json` and the shards that it names
(huggingface_hub 2.4.0, constants.py, SAFETENSORS_SINGLE_FILE and SAFETENSORS_INDEX_FILE).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import ModelFacts, WeightFormat
from stackwright.domain.role import Role
from stackwright.domain.tensors import TensorHeader
from stackwright.errors import UsageError
from stackwright.models.config import parse_config
from stackwright.models.format import weight_format
from stackwright.models.safetensors import read_header
from stackwright.reading import read_text

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
# Sentence Transformers' own list of what a model is made of.
MODULES = "modules.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Compose, YAML and shell quoting all have to carry the path; none of these characters is worth the risk.
WRITABLE_PATH = re.compile(r"[^'\\\x00-\x1f\x7f:]+")
# A config.json or an index beyond this is not one (DeepSeek-V3's index, the longest known, has 9 MB).
MAX_JSON_BYTES = 64 * 2**20


def read_folder(folder: Path) -> ModelFacts:
    """Read the model in `folder`, which is absolute.

    Raises:
        UsageError: there is no config.json, the weights are missing or incomplete, or a file is damaged; the message
            names the file.
    """
    if not WRITABLE_PATH.fullmatch(str(folder)):
        raise UsageError(
            f"{folder}: the path has a quote, colon, backslash or control character", hint="rename the folder"
        )
    config = read_json(folder / CONFIG, hint="a model folder holds config.json and its weights")
    tensors, weight_bytes, notes = _read_weights(folder)
    return ModelFacts(
        name=_served_name(folder.name),
        source=LlmSource.DIRECTORY,
        location=str(folder),
        config=parse_config(config),
        tensors=tensors,
        weight_bytes=weight_bytes,
        gated=False,
        minimum_engine=None,
        role=own_role(folder),
        format=WeightFormat.GGUF if tensors is None and any(folder.glob("*.gguf")) else weight_format(config, tensors),
        notes=notes,
    )


def own_role(folder: Path) -> Role | None:
    """Return the role that a checkpoint's files beside config.json give it; None where they tell of none.

    One that Sentence Transformers pools makes vectors, whatever its architecture: the usual engine serves it so by
    itself (0.33.0 transformers_utils/config.py, get_pooling_config; config/model.py, _get_default_runner_type).
    """
    try:
        modules = json.loads(read_text(folder / MODULES, most=MAX_JSON_BYTES))
    except (OSError, UsageError, ValueError, RecursionError):
        return None
    kinds = [str(row.get("type")) for row in modules if isinstance(row, dict)] if isinstance(modules, list) else []
    pools = any(kind.startswith("sentence_transformers.") and kind.endswith(".Pooling") for kind in kinds)
    return Role.EMBEDDING if pools else None


def read_json(file: Path, *, hint: str | None = None) -> Mapping[str, object]:
    """Read a JSON object.

    Raises:
        UsageError: the file cannot be read, is too long, or is not a JSON object.
    """
    try:
        document = json.loads(read_text(file, most=MAX_JSON_BYTES))
    except OSError as failure:
        raise UsageError(f"{file}: cannot be read: {failure.strerror or failure}", hint=hint) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{file}: not valid JSON") from None
    if not isinstance(document, dict):
        raise UsageError(f"{file}: expected a JSON object")
    return document


def parse_index(document: Mapping[str, object], where: str) -> Mapping[str, tuple[str, ...]]:
    """Return the tensors that an index expects in each shard, by the shard's file name.

    Raises:
        UsageError: the index weight_map is missing of names, or names a file outside its own folder.
    """
    entries = document.get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"{where}: weight_map is missing")
    shards: dict[str, list[str]] = {}
    for tensor, shard in entries.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", shard):
            raise UsageError(f"{where}: weight_map: {shard!r:.80} is not the name of a safetensors file")
        shards.setdefault(shard, []).append(tensor)
    return {shard: tuple(names) for shard, names in sorted(shards.items())}


def check_shard(expected: Iterable[str], found: Iterable[TensorHeader], where: str) -> list[TensorHeader]:
    """Return those of a shard's tensors that the index expects there.

    Raises:
        UsageError: one is missing.
    """
    wanted, held = set(expected), list(found)
    missing = sorted(wanted - {tensor.name for tensor in held})
    if missing:
        raise UsageError(
            f"{where}: {len(missing)} tensors of the index are missing, such as {missing[0]:.80}",
            hint="index and shards have different versions: download the model again",
        )
    return [tensor for tensor in held if tensor.name in wanted]


def check_weights(folder: Path) -> None:
    """Check that every file of weights is there and as long as its header promises.

    Raises:
        UsageError: one is missing, damaged or cut short; the message names it.
    """
    _read_weights(folder)


def _read_weights(folder: Path) -> tuple[tuple[TensorHeader, ...] | None, int | None, tuple[str, ...]]:
    """Return the tensors, their bytes, and what a user should know of them."""
    if (folder / INDEX).exists():
        return _read_shards(folder)
    files = [folder / SINGLE] if (folder / SINGLE).exists() else sorted(folder.glob("*.safetensors"))
    if files:
        tensors = tuple(tensor for file in files for tensor in read_header(file).tensors)
        return tensors, _bytes(tensors), ()
    others = sorted(file for kind in ("*.gguf", "*.bin", "*.pt", "*.pth") for file in folder.glob(kind))
    if others:
        known = sum(file.stat().st_size for file in others)
        note = f"{others[0].name}: no safetensors: the weights are estimated from file sizes"
        return None, known, (note,)
    raise UsageError(f"{folder}: no weights", hint=f"add {SINGLE}, or {INDEX} and its shards")


def _read_shards(folder: Path) -> tuple[tuple[TensorHeader, ...], int, tuple[str, ...]]:
    index = read_json(folder / INDEX)
    shards = parse_index(index, str(folder / INDEX))
    absent = [name for name in shards if not (folder / name).exists()]
    if absent:
        raise UsageError(
            f"{folder}: {len(absent)} of {len(shards)} shards are missing, such as {absent[0]}",
            hint="fetch the model again",
        )
    tensors: list[TensorHeader] = []
    for name, expected in shards.items():
        tensors += check_shard(expected, read_header(folder / name).tensors, str(folder / name))
    return tuple(tensors), _bytes(tensors), ()


def _bytes(tensors: Iterable[TensorHeader]) -> int:
    return sum(tensor.bytes for tensor in tensors)


def _served_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"
