"""Find out which model is meant by a name, from the catalog and from folders on this host.

Touches only `config.json` of a named folder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from generator.domain.catalog import Catalog
from generator.domain.llm import Llm, LlmSource
from generator.errors import UsageError, did_you_mean

SMOKE = "smoke"
# Hugging Face repository ids: owner/name of letters, digits, '-', '_' and '.', 96 characters at most
# (huggingface_hub, utils/_validators.py).
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_WRITABLE_PATH = re.compile(r"[^'\\\x00-\x1f\x7f:]+")


def resolve_llm(name: str, catalog: Catalog, smoke_folder: Path) -> Llm:
    """Return the model that `name` means: `smoke`, a catalog name, a folder, or a Hugging Face id.

    Raises:
        UsageError: the name is none of these.
    """
    if name == SMOKE:
        return Llm(name=SMOKE, source=LlmSource.SMOKE, location=str(smoke_folder), attention_heads=4, kv_heads=2)
    row = next((row for row in catalog.llms if name in (row.name, row.hub_id)), None)
    if row is not None:
        return Llm(
            name=row.hub_id,
            source=LlmSource.HUB,
            location=row.hub_id,
            attention_heads=row.attention_heads,
            kv_heads=row.kv_heads,
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder.resolve())
    if name.startswith(("/", "./", "../", "~")):
        raise UsageError(f"--model {name}: no such folder")
    if _HUB_ID.fullmatch(name) and ".." not in name and "--" not in name:
        return Llm(name=name, source=LlmSource.HUB, location=name, attention_heads=None, kv_heads=None)
    known = [SMOKE, *(row.name for row in catalog.llms), *(row.hub_id for row in catalog.llms)]
    raise UsageError(
        f"--model {name[:120]}: neither a Hugging Face id (owner/name), nor a folder, nor a catalog name",
        hint=did_you_mean(name, known) or f"catalog names: {', '.join(known[: 1 + len(catalog.llms)])}",
    )


def _from_folder(folder: Path) -> Llm:
    if not _WRITABLE_PATH.fullmatch(str(folder)):
        raise UsageError(
            f"--model {folder}: the path has a quote, colon, backslash or control character", hint="rename the folder"
        )
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as failure:
        raise UsageError(
            f"{file}: cannot be read: {failure.strerror}", hint="a model folder holds config.json and its weights"
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{file}: not valid JSON") from None
    if not isinstance(config, dict):
        raise UsageError(f"{file}: expected a JSON object")
    nested = config.get("text_config")
    text: dict[str, object] = nested if isinstance(nested, dict) else config
    return Llm(
        name=_served_name(folder.name),
        source=LlmSource.DIRECTORY,
        location=str(folder),
        attention_heads=_count(text, "num_attention_heads"),
        kv_heads=_count(text, "num_key_value_heads"),
    )


def _served_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


def _count(config: dict[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
