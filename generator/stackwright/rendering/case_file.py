"""A start-up as a file that a person can send: what its log shows and nothing that tells whose machine it was. Pure.

The form is that of benchmarks/cases/. Only figures and names of models, GPUs and flags are taken from a log, so no
path, key or host name can come along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stackwright.domain.forecast import GpuMemory, Measured, ObservedStart
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.plan import Memory
from stackwright.domain.shape import Mixer, Shape
from stackwright.units import GIB

# A folder of a drafter, the address of a hub.
_TELLS_A_PLACE = re.compile(r"(^|[\s\"'=:])[~./]?/|://|\\")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def render_case(observed: ObservedStart, facts: ModelFacts, gpu: GpuMemory | None, forecast: Memory) -> str:
    """Return the YAML of one case; `gpu` None on a processor."""
    import yaml

    name = public_name(facts.location)
    settings, seen = observed.settings, observed.measured
    where = gpu.name if gpu and gpu.name else "processor" if observed.on_processor else "GPU"
    document = {
        "id": _slug(f"{where} {name.rpartition('/')[2]} {settings.version}"),
        "source": "a start-up log, read by `stackwright fit --observed`",
        f"{observed.engine}_version": settings.version,
        "engine": "V0" if settings.legacy_engine else "V1",
        "model": name,
        "quantization": facts.format.value if facts.format else None,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "gpu": where,
        "gpu_count": settings.ranks,
        "vram_gib_per_gpu": _gib(seen.total_bytes or (gpu.total_bytes if gpu else None)),
        "tp": settings.tp,
        "pp": settings.pp,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "enforce_eager": settings.enforce_eager,
        "settings": {name: text for name, text in observed.flags if not _TELLS_A_PLACE.search(text)},
        "observed": _observed(seen),
        "forecast": _forecast(forecast),
        "outcome": observed.outcome,
        "arch": _arch(facts.config.shape),
        "notes": _notes(observed) or None,
    }
    text: str = yaml.safe_dump({"cases": [document]}, sort_keys=False, allow_unicode=True, width=118)
    return text


def _observed(seen: Measured) -> Mapping[str, object]:
    return {
        "weights_gib_per_gpu": _gib(seen.weights_bytes),
        "kv_gib_per_gpu": _gib(seen.kv_cache_bytes),
        "kv_tokens": seen.kv_cache_tokens,
        "num_gpu_blocks": seen.blocks,
        "max_concurrency": seen.max_concurrency,
        "graph_gib": _gib(seen.cuda_graph_bytes),
        "graph_estimate_gib": _gib(seen.graph_estimate_bytes),
        "activation_peak_gib": _gib(seen.activation_bytes),
        "non_torch_gib": _gib(seen.overhead_bytes),
    }


def _forecast(forecast: Memory) -> Mapping[str, object]:
    return {
        "weights_gib_per_gpu": _gib(forecast.weights_bytes),
        "kv_gib_per_gpu": _gib(forecast.kv_cache_bytes),
        "kv_tokens": forecast.kv_cache_tokens,
        "verdict": forecast.verdict,
    }


def public_name(location: str) -> str:
    """Return a model's name without the folders above it: a hub id as it is, also out of a cache's folder."""
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)(?:/|$)", location)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    last = location.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return location if _HUB_ID.fullmatch(location) else last or "a local folder"


def _arch(shape: Shape) -> Mapping[str, object]:
    kinds = {layer.mixer for layer in shape.layers}
    first = next((layer for layer in shape.layers if layer.kv_heads), None)
    counts = {mixer: sum(layer.mixer is mixer for layer in shape.layers) for mixer in kinds}
    kind = "hybrid" if shape.state else "mla" if shape.latent else "sw" if Mixer.SLIDING in kinds else "gqa"
    return {
        "kind": kind,
        "architecture": shape.architecture,
        "moe": shape.experts is not None,
        "layers": len(shape.layers),
        "full_layers": counts.get(Mixer.FULL, 0),
        "sw_layers": counts.get(Mixer.SLIDING, 0),
        "linear_layers": counts.get(Mixer.STATE, 0),
        "window": max((layer.window for layer in shape.layers), default=0),
        "heads": first.heads if first else None,
        "kv_heads": first.kv_heads if first else None,
        "head_dim": first.head_dim if first else None,
        "hidden": shape.hidden,
        "inter": max((layer.inner for layer in shape.layers), default=0),
        "vocab": shape.vocab,
        "tied": shape.tied,
        "kv_lora": shape.latent.kv_rank if shape.latent else None,
        "rope": shape.latent.rope_dim if shape.latent else None,
    }


def _notes(observed: ObservedStart) -> str:
    settings = observed.settings
    said = (
        f"MTP {settings.speculative_tokens}" if settings.speculative_tokens else "",
        f"block_size {settings.block_tokens}" if settings.block_tokens else "",
        "language-model-only" if settings.language_only else "",
        "expert-parallel" if settings.expert_parallel else "",
        "prefix caching off" if settings.prefix_caching is False else "",
        {True: "first start, compiled anew", False: "compiled before", None: ""}[observed.cold],
    )
    return "; ".join(word for word in said if word)


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 4)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
