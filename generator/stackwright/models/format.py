"""Tell how a checkpoint stores its weights, from its config.json and the names of its tensors. Touches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from stackwright.domain.model_facts import WeightFormat, text_config
from stackwright.domain.tensors import TensorHeader

# quant_method in config.json (transformers 5.19.0, utils/quantization_config.py, QuantizationMethod; modelopt and
# compressed-tensors name the format in further keys). Read 2026-11-21.
METHODS = {
    "awq": WeightFormat.AWQ,
    "gptq": WeightFormat.GPTQ,
    "bitsandbytes": WeightFormat.BITSANDBYTES,
    "fp8": WeightFormat.FP8,
    "fbgemm_fp8": WeightFormat.FP8,
    "mxfp4": WeightFormat.MXFP4,
    "gguf": WeightFormat.GGUF,
}
PLAIN = {
    "bfloat16": WeightFormat.BF16,
    "float16": WeightFormat.FP16,
    "float32": WeightFormat.FP32,
    "BF16": WeightFormat.BF16,
    "F16": WeightFormat.FP16,
    "F32": WeightFormat.FP32,
}


def weight_format(config: Mapping[str, object], tensors: Iterable[TensorHeader] | None) -> WeightFormat | None:
    """Return the format of the linear layers, None where neither the configuration nor the tensors tell.

    The configuration's own word wins; bitsandbytes is also known by its tensors, which are stored beside each weight.
    """
    quantization = quantization_of(config)
    if quantization is not None:
        return _quantized(quantization)
    if tensors is not None:
        held = tuple(tensors)
        if any(".quant_state.bitsandbytes" in tensor.name or tensor.name.endswith(".absmax") for tensor in held):
            return WeightFormat.BITSANDBYTES
        sizes: Counter[str] = Counter()
        for tensor in held:
            sizes[tensor.dtype] += tensor.bytes
        if sizes:
            largest = sizes.most_common(1)[0][0]
            return WeightFormat.FP8 if largest.startswith("F8_") else PLAIN.get(largest, WeightFormat.OTHER)
    inner = text_config(config)
    named = inner.get("torch_dtype") or inner.get("dtype") or config.get("torch_dtype") or config.get("dtype")
    return PLAIN.get(named) if isinstance(named, str) else None


def quantization_of(config: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return `quantization_config` or `compression_config` (llm-compressor), wherever a multimodal model nests it."""
    for part in (config, text_config(config)):
        for key in ("quantization_config", "compression_config"):
            entry = part.get(key)
            if isinstance(entry, Mapping):
                return entry
    return None


def _quantized(quantization: Mapping[str, object]) -> WeightFormat:
    method = str(quantization.get("quant_method", "")).lower()
    if method == "gptq" and quantization.get("bits") == 8:
        return WeightFormat.GPTQ8
    if method in METHODS:
        return METHODS[method]
    words = " ".join(str(quantization.get(key, "")) for key in ("quant_algo", "format")).lower()
    if "nvfp4" in words or words.startswith("fp4"):
        return WeightFormat.NVFP4
    if "mxfp4" in words:
        return WeightFormat.MXFP4
    if "fp8" in words or "float-quantized" in words:
        return WeightFormat.FP8
    if "int-quantized" in words:
        return WeightFormat.INT8
    if "pack-quantized" in words:
        return WeightFormat.INT4
    return WeightFormat.OTHER
