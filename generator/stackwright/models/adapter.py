"""Read a LoRA adapter: its rank and what it was made for, from its adapter_config.json. Touches its folder, the cache,
and the hub where neither has it.

The file is PEFT's (peft 0.18, config.py and tuners/lora/config.py: `r`, `rank_pattern`, `base_model_name_or_path`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stackwright.domain.plan import Adapter
from stackwright.errors import UsageError
from stackwright.models.cache import HubCache
from stackwright.models.folder import ADAPTER_CONFIG, WRITABLE_PATH, read_json

# What the engine refuses when it loads an adapter, each with the value that it takes (0.32.0 lora/peft_helper.py).
_UNSERVED = {
    "use_dora": "DoRA",
    "lora_bias": "a bias of its own",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "Activated LoRA",
    "layer_replication": "layer_replication",
}


def read_adapter(name: str, location: str, cache: HubCache, origin: str) -> Adapter:
    """Return what is known of an adapter in a folder of this host, or on the hub.

    Args:
        name: what clients call it.
        origin: where it is asked for, as a refusal tells it.

    Raises:
        UsageError: it cannot be read, is no LoRA adapter, or is of a kind that the engine does not serve.
    """
    folder = Path(location).expanduser()
    if location.startswith(("/", "./", "../", "~")) or folder.is_dir():
        found = folder.resolve()
        # The words of --lora-modules are NAME=PATH; a comma would make them JSON (0.32.0 entrypoints/launchers).
        if not WRITABLE_PATH.fullmatch(str(found)) or set(str(found)) & set(' ,="'):
            raise UsageError(f"{origin}: {found}: a blank, comma, quote or colon is in its path", hint="rename it")
        if not (found / ADAPTER_CONFIG).is_file():
            raise UsageError(
                f"{origin}: {found}: no {ADAPTER_CONFIG}", hint="an adapter's folder holds it beside its weights"
            )
        return _adapter(name, str(found), read_json(found / ADAPTER_CONFIG), origin)
    from stackwright.models.hub import fetch_file

    return _adapter(name, location, read_json(fetch_file(location, ADAPTER_CONFIG, cache, origin)), origin)


def _adapter(name: str, location: str, config: Mapping[str, object], origin: str) -> Adapter:
    kind = config.get("peft_type")
    rank, pattern = config.get("r"), config.get("rank_pattern")
    if kind not in (None, "LORA") or not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UsageError(
            f"{origin}: {location}: not a LoRA adapter (peft_type {kind!s:.40}, r {rank!s:.40})",
            hint="merge it into its model with PEFT's merge_and_unload, and serve the folder",
        )
    if refused := [words for key, words in _UNSERVED.items() if config.get(key)]:
        raise UsageError(
            f"{origin}: {location}: the engine does not serve adapters with {refused[0]}",
            hint="merge it into its model with PEFT's merge_and_unload, and serve the folder",
        )
    ranks = [value for value in (pattern.values() if isinstance(pattern, dict) else ()) if isinstance(value, int)]
    base = config.get("base_model_name_or_path")
    return Adapter(
        name=name, location=location, rank=max([rank, *ranks]), base=base if isinstance(base, str) and base else None
    )
