"""In which number format a checkpoint wants its keys and values kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from stackwright.models.format import quantization_of
from stackwright.models.keys import count, mapping, text

# Release 0.32.0 of the usual engine, utils/torch_utils.py, `MODELOPT_TO_…_KV_CACHE_DTYPE_MAP`; read on 2026-11-30.
_FORMATS = {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}


def own_cache_format(config: Mapping[str, object], *, compressed: bool) -> str | None:
    """Return the engine's name of the format; None where a configuration names none, or one that is not taken.

    ModelOpt's is taken for every model (0.32.0 utils/torch_utils.py, get_kv_cache_quant_algo_string), that of
    compressed-tensors for attention that is not `compressed` to a latent vector (layers/attention/attention.py,
    Attention.__init__; none in mla_attention.py). Read on 2026-11-30.
    """
    raw = quantization_of(config) or {}
    method, inner = text(raw, "quant_method").lower(), mapping(raw, "quantization") or raw
    scheme = mapping(inner, "kv_cache_scheme") or mapping(raw, "kv_cache_scheme")
    if method.startswith("modelopt"):
        named = text(inner, "kv_cache_scheme", "kv_cache_quant_algo") or text(
            raw, "kv_cache_scheme", "kv_cache_quant_algo"
        )
        return _FORMATS.get(_of_scheme(scheme) if scheme else named.lower())
    known = method.replace("_", "-") == "compressed-tensors"
    return "fp8" if known and scheme and not compressed else None


def _of_scheme(scheme: Mapping[str, object]) -> str:
    """Return the short name of a scheme of ModelOpt; empty for one that the engine does not know."""
    bits, real = count(scheme, "num_bits"), text(scheme, "type") == "float"
    if real and bits == 8 and scheme.get("dynamic") is False:
        return "fp8"
    return "nvfp4" if real and bits == 4 else ""
