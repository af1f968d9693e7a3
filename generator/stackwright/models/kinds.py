"""What lies in a folder or a repository that has no config.json: GGUF weights, an adapter, Mistral's own layout.

Reads the first bytes of a GGUF file and small JSON files of the folder that it is given.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from stackwright.errors import UsageError
from stackwright.models.folder import ADAPTER_CONFIG, CONFIG, read_json
from stackwright.models.naming import gguf_refusal, plain_name

MISTRAL = "params.json"
DIFFUSERS = "model_index.json"
# GGUF, version 2 and 3 (ggml, docs/gguf.md, 2025-08): magic, version, tensors, entries; then the entries.
_MAGIC = b"GGUF"
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ORIGINS = (
    "general.base_model.0.repo_url",
    "general.source.huggingface.repository",
    "general.source.repo_url",
    "general.repo_url",
)
# Entries that tell of the model come before the tokenizer's long lists.
_MOST_ENTRIES, _MOST_TEXT = 64, 4096


def refuse_kind(where: str, place: str, files: Collection[str], base: str | None = None) -> UsageError | None:
    """Return what a place without config.json is, with the next step; None where it is nothing known.

    Args:
        where: the place, as a refusal tells it.
        place: the folder or the repository.
        files: the names that it holds.
        base: the model that an adapter was made for, or that GGUF files were made of.
    """
    if ADAPTER_CONFIG in files:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", place.rstrip("/").rpartition("/")[2]) or "adapter"
        return UsageError(
            f"{where}: a LoRA adapter{f' for {base}' if base else ''}, not a whole model",
            hint=f"write `models: [{{name: {base or 'OWNER/NAME'}, lora: {{{name}: {place}}}}}]` into envs/<env>.yaml",
        )
    if any(name.lower().endswith(".gguf") for name in files):
        return gguf_refusal(where, base)
    if MISTRAL in files:
        return UsageError(
            f"{where}: Mistral's own layout ({MISTRAL}), without {CONFIG}, which the forecast is made from",
            hint="name a copy in Hugging Face's layout: most have it beside Mistral's, `hf download OWNER/NAME`",
        )
    if DIFFUSERS in files:
        return UsageError(f"{where}: a model for pictures (Diffusers), not for text", hint="name a language model")
    return None


def describe_folder(folder: Path) -> UsageError | None:
    """Return what a folder without config.json is; None where it has one, or none of the known kinds."""
    files = {path.name for path in folder.iterdir()}
    if CONFIG in files:
        return None
    gguf = sorted(name for name in files if name.lower().endswith(".gguf"))
    told = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") if ADAPTER_CONFIG in files else None
    original = original_of_gguf(folder / gguf[0]) if gguf else None
    return refuse_kind(str(folder), str(folder), files, told if isinstance(told, str) and told else original)


def original_of_gguf(file: Path) -> str | None:
    """Return the hub id of the model that a GGUF file was made of, where its first entries tell."""
    try:
        with file.open("rb") as stream:
            return _read_original(stream)
    except (OSError, struct.error, UnicodeDecodeError, ValueError):
        return None


def _read_original(stream: BinaryIO) -> str | None:
    if stream.read(4) != _MAGIC or _number(stream, "<I") not in (2, 3):
        return None
    _number(stream, "<Q")
    found: dict[str, str] = {}
    for _ in range(min(_number(stream, "<Q"), _MOST_ENTRIES)):
        key, kind = _string(stream), _number(stream, "<I")
        if kind == _STRING:
            found[key] = _string(stream)
        elif kind in _SIZES:
            stream.seek(_SIZES[kind], 1)
        elif not _skip_array(stream):
            break
    for key in _ORIGINS:
        if key in found:
            try:
                name = plain_name(found[key], (), key)
            except UsageError:
                continue
            if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
                return name
    return None


def _skip_array(stream: BinaryIO) -> bool:
    """Pass over a list; Return whether it was one that can be passed over."""
    kind, length = _number(stream, "<I"), _number(stream, "<Q")
    if kind == _STRING and length <= _MOST_ENTRIES:
        for _ in range(length):
            _string(stream)
        return True
    if kind in _SIZES:
        stream.seek(_SIZES[kind] * length, 1)
        return True
    return False


def _number(stream: BinaryIO, form: str) -> int:
    (value,) = struct.unpack(form, stream.read(struct.calcsize(form)))
    return int(value)


def _string(stream: BinaryIO) -> str:
    length = _number(stream, "<Q")
    if length > _MOST_TEXT * 16:
        raise ValueError
    return stream.read(length).decode("utf-8")
