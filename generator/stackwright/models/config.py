"""Read a `config.json` once: what the planner, the engines and the checks have to know of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stackwright.domain.model_facts import ModelConfig, text_config
from stackwright.models.format import quantization_of
from stackwright.models.shape import parse_shape

# A `revision` sees nothing.
_SENSES = re.compile(r"(?<!re)vision|visual|vit_config|image|img|video|audio|speech|thinker")
# ModelOpt's `quant_algo` and the method that takes it (0.32.0 quantization/modelopt.py, override_quantization_method of
# each class; read 2026-11-30). FP8 in its kinds stays with the first.
_MODELOPT = "modelopt"
_ALGORITHMS = (("MIXED_PRECISION", "modelopt_mixed"), ("MXFP8", "modelopt_mxfp8"), ("FP4", "modelopt_fp4"))


def parse_config(config: Mapping[str, object]) -> ModelConfig:
    """Return what a configuration tells, whatever else it holds."""
    shape, own_length, text = parse_shape(config), config.get("model_max_length"), text_config(config)
    heads = _count(text, "num_attention_heads")
    longest = max(shape.max_positions, own_length if isinstance(own_length, int) else 0)
    return ModelConfig(
        architecture=architecture_of(config),
        shape=shape,
        attention_heads=heads,
        kv_heads=_count(text, "num_key_value_heads") or heads,
        sees="vision_config" in config,
        takes_media=takes_media(config),
        scores=_scores(config),
        longest_tokens=longest if shape.max_positions else None,
        encodes_first=config.get("is_encoder_decoder") is True,
        model_types=tuple(kind for kind in (config.get("model_type"), text.get("model_type")) if isinstance(kind, str)),
        quant_method=_quant_method(config),
        fields=frozenset(key for key, value in {**config, **text}.items() if value),
    )


def architecture_of(config: Mapping[str, object]) -> str:
    """Return the first architecture that a configuration names; empty where it names none."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list | tuple) and names else ""
    return first if isinstance(first, str) else ""


def takes_media(config: Mapping[str, object]) -> bool:
    """Return whether a configuration tells of more than text; where it is in doubt, it does."""
    return any(_SENSES.search(key) for key in config)


def _quant_method(config: Mapping[str, object]) -> str | None:
    """Return the name as the engine looks it up (0.33.0 config/model.py, _verify_quantization)."""
    own = quantization_of(config) or {}
    named = own.get("quant_method")
    if not isinstance(named, str):
        return None
    method = named.lower().replace("compressed_tensors", "compressed-tensors")
    return _modelopt_method(own) if method == _MODELOPT else method


def _modelopt_method(own: Mapping[str, object]) -> str:
    inner = own.get("quantization", own)
    algorithm = inner.get("quant_algo") if isinstance(inner, Mapping) else None
    return next((method for part, method in _ALGORITHMS if part in str(algorithm).upper()), _MODELOPT)


def _scores(config: Mapping[str, object]) -> int:
    labels, count = config.get("id2label"), config.get("num_labels")
    return len(labels) if isinstance(labels, Mapping) else count if isinstance(count, int) else 1


def _count(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
