"""What a checkpoint's `quantization_config` means for the size of a linear layer. Pure.

Formats: transformers 5 quantizers; vLLM 0.32.0 model_executor/layers/quantization/ (awq_marlin.py, gptq_marlin.py,
fp8.py, modelopt.py, mxfp4.py, bitsandbytes.py, compressed_tensors/).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from msgspec.structs import replace

from stackwright.domain.shape import Quantization, WeightKind
from stackwright.models.keys import count, flag, mapping, text, whole_numbers, words

_SKIP_KEYS = (
    "modules_to_not_convert",
    "ignored_layers",
    "ignore",
    "exclude_modules",
    "exclude",
    "llm_int8_skip_modules",
)
_PLAIN = Quantization(kind=WeightKind.NONE)
_FULL_BITS = 16
# Bytes of a scale: half precision for grouped integers, single precision per row or block of an 8-bit format.
_HALF, _SINGLE = 2, 4
# Patterns that hold for all layers of a kind or for none: no number and no sign for one letter; of a regular expression
# nothing but letters, choices, escaped dots and `.*` (a bare dot between letters cannot stand for a layer's number).
_SAME_FOR_ALL = re.compile(r"(?!re:)[^\d?\[]+|re:(?:[A-Za-z_()|-]|\.\*|\\\.|(?<=[A-Za-z_])\.(?=[A-Za-z_]))*\$?")
# The language model's place in a multimodal checkpoint (0.32.0 models/qwen3_vl.py, hf_to_vllm_mapper; read 2026-11-30).
_LANGUAGE_MODEL = re.compile(r"^(?:model\.language_model|language_model)\.(?:model\.)?")
# FP8 blocks are 128 × 128 (DeepSeek-V3 technical report; `weight_block_size`).
_FP8_BLOCK = 128
# ModelOpt's formats with one scale for a block (0.32.0 quantization/modelopt.py:129; read 2026-11-30).
_FP8_IN_BLOCKS = frozenset({"fp8_pb_wo", "fp8_block_scales"})
# Numbers that share a scale in the OCP microscaling formats.
_MX_GROUP = 32


def parse_quantization(config: Mapping[str, object]) -> Quantization:
    """Return how the linear layers are stored; `WeightKind.UNKNOWN` for a method that is not known here."""
    raw = mapping(config, "quantization_config", "compression_config", "hf_quant_config")
    if not raw:
        return _PLAIN
    raw = mapping(raw, "quantization") or raw
    method = text(raw, "quant_method", "quant_algo", "quant_type").lower().replace("_", "-")
    skipped = tuple(_LANGUAGE_MODEL.sub("model.", name) for name in (*words(raw, *_SKIP_KEYS), *_left_out(raw)))
    readers = {
        "awq": _integer_groups,
        "gptq": _integer_groups,
        "auto-round": _integer_groups,
        "intel/auto-round": _integer_groups,
        "compressed-tensors": _compressed_tensors,
        "bitsandbytes": _bitsandbytes,
        "fp8": _fp8,
        "fbgemm-fp8": _fp8,
        "mxfp4": lambda _: Quantization(kind=WeightKind.MXFP4, bits=4, group=_MX_GROUP, experts_only=True),
        "gguf": _gguf,
    }
    reader = readers.get(method)
    parsed = reader(raw) if reader else _modelopt(raw, method)
    # DeepSeek V4 (0.33.0 models/deepseek_v41/quant_config.py, expert_dtype): experts in MXFP4 among layers in FP8.
    four = "fp4" in (text(config, "expert_dtype"), text(raw, "expert_dtype"))
    experts = Quantization(kind=WeightKind.MXFP4, bits=4, group=_MX_GROUP) if four else None
    return replace(parsed, skipped=skipped, experts=experts, method=method)


def _left_out(raw: Mapping[str, object]) -> Iterator[str]:
    """Yield what AutoRound (`extra_config`: 16 bits for a module) and GPTQModel (`dynamic`: `-:` and an expression)
    leave out.

    vLLM 0.32.0 quantization/auto_round.py, get_layer_config; quantization/utils/gptq_utils.py, get_dynamic_override.
    """
    for name, own in mapping(raw, "extra_config").items():
        if isinstance(own, Mapping) and count(own, "bits") >= _FULL_BITS:
            yield f"re:{name}" if set(name) & set("*+\\^$|") else name
    yield from (f"re:{name[2:]}" for name in mapping(raw, "dynamic") if name.startswith("-:"))


def _integer_groups(raw: Mapping[str, object]) -> Quantization:
    """AWQ, GPTQ and AutoRound. A symmetric GPTQ's zero points are dropped when Marlin repacks it (gptq_marlin.py)."""
    bits = count(raw, "bits", "w_bit", default=4)
    # -1: one scale for a whole row.
    group = 0 if raw.get("group_size") == -1 else count(raw, "group_size", "q_group_size", default=128)
    if text(raw, "quant_method") == "awq" or "awq" in text(raw, "packing_format"):
        return Quantization(
            kind=WeightKind.AWQ, bits=bits, group=group, zero_point=flag(raw, "zero_point", default=True)
        )
    return Quantization(kind=WeightKind.GPTQ, bits=bits, group=group, zero_point=not flag(raw, "sym", default=True))


def _compressed_tensors(raw: Mapping[str, object]) -> Quantization:
    groups = mapping(raw, "config_groups")
    first = next((value for value in groups.values() if isinstance(value, Mapping)), {})
    weights = mapping(first, "weights")
    bits, group = count(weights, "num_bits", default=8), count(weights, "group_size")
    if bits == 4 and text(weights, "type") == "float":
        kind = WeightKind.NVFP4 if group == 16 else WeightKind.MXFP4
        return Quantization(kind=kind, bits=4, group=group or 16)
    if text(weights, "type") == "float":
        return Quantization(kind=WeightKind.FP8, group=_FP8_BLOCK if weights.get("block_structure") else 0)
    if bits == 4:
        return Quantization(
            kind=WeightKind.INT4, bits=4, group=group, zero_point=not flag(weights, "symmetric", default=True)
        )
    return Quantization(kind=WeightKind.INT8, bits=8, group=group)


def _fp8(raw: Mapping[str, object]) -> Quantization:
    return Quantization(kind=WeightKind.FP8, bits=8, group=max(whole_numbers(raw, "weight_block_size"), default=0))


def _bitsandbytes(raw: Mapping[str, object]) -> Quantization:
    four = flag(raw, "load_in_4bit", "_load_in_4bit")
    return Quantization(
        kind=WeightKind.BITSANDBYTES4 if four else WeightKind.BITSANDBYTES8,
        bits=4 if four else 8,
        group=64 if four else 0,
    )


def _gguf(raw: Mapping[str, object]) -> Quantization:
    """One GGUF type for the whole file.

    `q8_0` has 8.5 bits a weight, `q4_0` 4.5 (ggml-common.h: a half scale per 32).
    """
    bits = re.search(r"q(\d)", text(raw, "gguf_type", default="q8_0").lower())
    return Quantization(kind=WeightKind.GGUF, bits=int(bits[1]) if bits else 8, group=32)


def _modelopt(raw: Mapping[str, object], method: str) -> Quantization:
    named = text(raw, "quant_algo").lower()
    if named == "mixed_precision":
        return _mixed(mapping(raw, "quantized_layers"))
    algorithm = f"{method} {named}"
    if "nvfp4" in algorithm or "fp4" in algorithm:
        return Quantization(kind=WeightKind.NVFP4, bits=4, group=count(raw, "group_size", default=16))
    if "mxfp8" in algorithm:
        return Quantization(kind=WeightKind.MXFP8, bits=8, group=32)
    if named in _FP8_IN_BLOCKS:
        return Quantization(kind=WeightKind.FP8, bits=8, group=count(raw, "group_size", default=_FP8_BLOCK))
    if "fp8" in algorithm:
        return _fp8(raw)
    if "int8" in algorithm:
        return Quantization(kind=WeightKind.INT8, bits=8)
    return Quantization(kind=WeightKind.UNKNOWN)


def _mixed(layers: Mapping[str, object]) -> Quantization:
    """Read the formats of single modules; of unknown kind where nobody here knows one of them."""
    modules: dict[Quantization, set[str]] = {}
    for name, own in layers.items():
        parsed = _modelopt(own, "") if isinstance(own, Mapping) else Quantization(kind=WeightKind.UNKNOWN)
        modules.setdefault(parsed, set()).add(_inside_model(name))
    if not modules or any(own.kind is WeightKind.UNKNOWN for own in modules):
        return Quantization(kind=WeightKind.UNKNOWN)
    mixed = tuple(replace(own, modules=frozenset(names)) for own, names in modules.items())
    return Quantization(kind=WeightKind.MIXED, mixed=mixed)


def _inside_model(name: str) -> str:
    """Return a decoder layer's module by its name from `layers.` on, which wrappers do not change; others whole."""
    return re.sub(r"^(model\.|language_model\.)+(?=layers\.)", "", name)


@lru_cache(maxsize=65536)
def own_format(quantization: Quantization, names: tuple[str, ...]) -> Quantization | None:
    """Return the format that a module has by one of its names, else by the nearest module around it; None: none.

    Checkpoints name the modules themselves (vLLM 0.32.0 quantization/modelopt.py, _resolve_quant_algo); the catalog's
    rows name what lies around them.
    """
    for name in names:
        parts = _inside_model(name).split(".")
        for end in range(len(parts), 0, -1):
            around = ".".join(parts[:end])
            if (found := next((own for own in quantization.mixed if around in own.modules), None)) is not None:
                return found
    return None


def matrix_bytes(quantization: Quantization, rows: int, columns: int) -> tuple[int, ...]:
    """Return the sizes of the tensors that hold a quantized matrix of `rows` outputs × `columns` inputs.

    The first is the weights, the others scales and zero points. vLLM's own kernels: Marlin keeps half-precision scales
    per group, packed zero points beside them; FP8 and INT8 keep one single-precision scale per row, FP8 blocks one per
    block; bitsandbytes one single-precision maximum per 64 weights (bitsandbytes.py, bnb_quant_state).
    """
    elements, group = rows * columns, quantization.group
    groups = rows * -(-columns // group) if group else rows
    match quantization.kind:
        case WeightKind.AWQ | WeightKind.GPTQ | WeightKind.INT4:
            zeros = groups * quantization.bits // 8 if quantization.zero_point else 0
            return tuple(size for size in (elements * quantization.bits // 8, groups * _HALF, zeros) if size)
        case WeightKind.INT8:
            return elements, groups * _SINGLE
        case WeightKind.FP8:
            blocks = -(-rows // _FP8_BLOCK) * -(-columns // _FP8_BLOCK) if group else rows
            return elements, blocks * _SINGLE
        case WeightKind.NVFP4 | WeightKind.MXFP4:
            return elements // 2, groups
        case WeightKind.MXFP8:
            return elements, groups
        case WeightKind.BITSANDBYTES4:
            return elements // 2, elements // 64 * (1 if quantization.nested else _SINGLE)
        case WeightKind.BITSANDBYTES8:
            return elements, rows * _SINGLE
        case WeightKind.GGUF:
            return (elements * quantization.bits // 8 + groups * _HALF,)
        case _:
            return (elements * 2,)


@lru_cache(maxsize=65536)
def is_skipped(quantization: Quantization, names: tuple[str, ...]) -> bool:
    """Return whether a module, under any of its names, was left out of the quantization.

    Patterns as vLLM reads them: `re:` before a regular expression, shell wildcards, else a name or the part of one.
    """
    entries = quantization.skipped_by_end
    return bool(entries) and any(
        _matches(pattern, name) for name in names for end in ("", *name.split(".")) for pattern in entries.get(end, ())
    )


@lru_cache(maxsize=256)
def names_layers(quantization: Quantization) -> bool:
    """Return whether a pattern may hold for one layer and not for its equals; a doubtful one counts as such."""
    return bool(quantization.mixed) or any(_SAME_FOR_ALL.fullmatch(pattern) is None for pattern in quantization.skipped)


@lru_cache(maxsize=65536)
def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*{pattern}")
    return name == pattern or name.endswith(f".{pattern}") or f"{pattern}." in f"{name}."
