"""Read a model by the name that a user gave: `smoke`, a catalog name, a folder on this host, or a model on the hub.

Touches the folder that is named, Hugging Face's cache, and the hub where neither catalog nor cache knows the model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import CatalogLlm, Checkpoint, ModelFacts, WeightFormat
from stackwright.domain.shape import Shape
from stackwright.errors import UsageError, did_you_mean
from stackwright.models.cache import HubCache, find_cache, find_snapshot, load_headers
from stackwright.models.config import parse_config
from stackwright.models.folder import CONFIG, own_role, read_folder, read_json
from stackwright.models.format import weight_format
from stackwright.models.kinds import describe_folder, original_of_gguf
from stackwright.models.naming import gguf_refusal, plain_name
from stackwright.models.stored import stored_facts
from stackwright.units import format_bytes

SMOKE = "smoke"
# What stackwright.models.smoke_model writes, for a plan that is made before the model is.
SMOKE_CONFIG: Mapping[str, object] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 276,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# Hugging Face repository ids: owner/name of letters, digits, '-', '_' and '.', 96 characters at most each
# (huggingface_hub 2.4.0, utils/_validators.py).
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
# Of the names that the catalog and the hub have, none has these.
_MAY_BE_ADDRESS = re.compile(r"[:\s]|/.*/|ollama|^library/")
PATH_STARTS = ("/", "./", "../", "~")


class HubAccess(Struct, frozen=True, kw_only=True):
    """How to reach the hub. None: what Hugging Face's own environment variables say.

    `home` is an HF_HOME; `online` False looks into the cache only.
    """

    endpoint: str | None = None
    home: Path | None = None
    online: bool = True


def read_model(
    name: str,
    llms: Sequence[CatalogLlm],
    smoke_folder: Path | None = None,
    access: HubAccess | None = None,
    origin: str | None = None,
) -> ModelFacts:
    """Return what is known of the model that `name` means.

    A well-known model needs no network: its row tells its shape, and headers in the cache, where there are any, its
    exact weights. A folder wins over the hub, a catalog name over a folder.

    Args:
        llms: the catalog's rows.
        smoke_folder: where the smoke model is, or will be, written.
        origin: where the name stands, as a refusal tells it; None for `--model`.

    Raises:
        UsageError: the name means nothing, or the model cannot be read; one sentence with the next step.
    """
    access, origin = access or HubAccess(), origin or f"--model {name[:120] or repr(name)}"
    cache = find_cache(os.environ, access.home)
    if name == SMOKE:
        return smoke_facts(smoke_folder)
    name, folder = _plain(name, llms, origin)
    known = _find_row(name, llms)
    if known is not None:
        return _with_cached(stored_facts(*known), cache)
    if folder is not None:
        if refusal := describe_folder(folder):
            raise refusal
        return _with_notes(read_folder(folder))
    _refuse_file(name, origin)
    if name.startswith(PATH_STARTS):
        raise UsageError(f"{origin}: no such folder", hint="name a folder with config.json, or a Hugging Face id")
    if _HUB_ID.fullmatch(name) and ".." not in name and "--" not in name:
        return _with_notes(_from_hub(name, cache, access, origin))
    names = [SMOKE, *(row.name for row in llms), *(row.hub_id for row in llms)]
    raise UsageError(
        f"{origin}: not a Hugging Face id (owner/name), a folder, or a catalog name",
        hint=did_you_mean(name, names) or f"catalog names: {', '.join(names[:4])}, …; all: docs/reference/models.md",
    )


def _plain(name: str, llms: Sequence[CatalogLlm], origin: str) -> tuple[str, Path | None]:
    """Return a name without what an address has around it, and the folder of this host that it names, if any."""
    folder = find_folder(name)
    if folder is not None or not _MAY_BE_ADDRESS.search(name):
        return name, folder
    return plain_name(name, (row.name for row in llms), origin, os.environ.get("HF_ENDPOINT")), None


def _refuse_file(name: str, origin: str) -> None:
    """Refuse a file in the place of a model's folder, by what it holds. Raises UsageError."""
    try:
        file = Path(name).expanduser()
        is_file = bool(name) and file.is_file()
    except (OSError, RuntimeError):
        return
    if is_file and name.lower().endswith(".gguf"):
        raise gguf_refusal(f"{origin}: {file.name}", original_of_gguf(file))
    if is_file:
        folder = file.resolve().parent
        there = f"`--model {folder}`" if (folder / "config.json").is_file() else "name a folder with config.json"
        raise UsageError(f"{origin}: a file, where a model is a folder", hint=there)


def read_checkpoint(row: CatalogLlm, checkpoint: Checkpoint, home: Path) -> ModelFacts:
    """Return what `read_model` returns for a checkpoint of the catalog. `home`: an HF_HOME."""
    return _with_cached(stored_facts(row, checkpoint), find_cache(os.environ, home))


def read_shape(name: str, llms: Sequence[CatalogLlm]) -> Shape | None:
    """Return the shape of a model beside the one that is served, such as its drafter; None where it cannot be read."""
    try:
        return read_model(name, llms).config.shape
    except UsageError:
        return None


def locate_model(name: str, llms: Sequence[CatalogLlm]) -> str:
    """Return what a name means without reading it: a hub id or a folder, else the name itself.

    Two names that mean the same model give the same text.
    """
    known = _find_row(name, llms)
    if known is not None:
        return known[1].hub_id
    try:
        plain, folder = _plain(name, llms, "")
    except (OSError, UsageError):  # longer than a path may be, or refused when it is read
        return name
    return str(folder) if folder is not None else plain


def find_folder(name: str) -> Path | None:
    """Return the folder on this host that a name means, absolute; None where there is none."""
    try:
        folder = Path(name).expanduser()
        return folder.resolve() if name and folder.is_dir() else None
    except (OSError, RuntimeError):  # a name that is too long; `~nobody`
        return None


def _find_row(name: str, llms: Sequence[CatalogLlm]) -> tuple[CatalogLlm, Checkpoint] | None:
    """Return the row and the checkpoint that a catalog name or a hub id means; hub ids are told apart by case only."""
    # A long table can tell which of its rows are worth parsing.
    for row in getattr(llms, "naming", lambda _: llms)(name):
        if name.lower() == row.name:
            return row, row.checkpoints[0]
        for checkpoint in row.checkpoints:
            if name == checkpoint.hub_id:
                return row, checkpoint
    return None


def _with_cached(facts: ModelFacts, cache: HubCache) -> ModelFacts:
    """Lay what the cache holds of a model over what the catalog says of it."""
    snapshot = find_snapshot(facts.location, cache)
    if snapshot is None or not (snapshot / CONFIG).exists():
        return facts
    config = read_json(snapshot / CONFIG)
    tensors = load_headers(facts.location, snapshot.name, cache)
    if tensors is None:
        return replace(facts, config=parse_config(config))
    held = sum(tensor.bytes for tensor in tensors)
    return replace(facts, config=parse_config(config), tensors=tensors, weight_bytes=held, computed=False)


def _from_hub(hub_id: str, cache: HubCache, access: HubAccess, origin: str) -> ModelFacts:
    snapshot = find_snapshot(hub_id, cache)
    tensors = load_headers(hub_id, snapshot.name, cache) if snapshot else None
    if snapshot is None or tensors is None:
        if not access.online:
            raise UsageError(
                f"{origin}: neither in the catalog nor in the cache ({cache.models})",
                hint="look it up once online, or name a folder",
            )
        from stackwright.models.hub import read_hub

        files = read_hub(hub_id, cache, access.endpoint, origin)
        snapshot, tensors = files.snapshot, files.tensors
    config = read_json(snapshot / CONFIG)
    notes = () if tensors is not None else ("no safetensors on the hub: the weights are estimated from the shape",)
    return ModelFacts(
        name=hub_id,
        source=LlmSource.HUB,
        location=hub_id,
        config=parse_config(config),
        tensors=tensors,
        weight_bytes=None if tensors is None else sum(tensor.bytes for tensor in tensors),
        gated=None,
        minimum_engine=None,
        role=own_role(snapshot),
        format=weight_format(config, tensors),
        notes=notes,
    )


def smoke_facts(folder: Path | None = None) -> ModelFacts:
    """Return what is known of the model made on the spot: the same before and after, so that a plan is too."""
    return ModelFacts(
        name=SMOKE,
        source=LlmSource.SMOKE,
        location=str(folder or SMOKE),
        config=parse_config(SMOKE_CONFIG),
        tensors=None,
        weight_bytes=None,
        gated=False,
        minimum_engine=None,
        format=WeightFormat.BF16,
        # It calls no tool by itself, but a request that names one is answered by a grammar, once the engine has any
        # parser.
        tool_call_parser="hermes",
    )


def _with_notes(facts: ModelFacts) -> ModelFacts:
    """Add what a person should know of weights in GGUF."""
    if facts.format is not WeightFormat.GGUF or facts.weight_bytes is None:
        return facts
    note = f"GGUF weights ({format_bytes(facts.weight_bytes)}): the engine's support for them is experimental"
    return replace(facts, notes=(*facts.notes, note))
