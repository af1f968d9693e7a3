"""What config.json a catalog's checkpoint has, where the file itself was never seen. Touches nothing.

A quantized checkpoint keeps the shape of its original and adds a `quantization_config`. The hub's own file, once it is
in the cache, replaces what is assumed here; the sizes that the catalog gives for such checkpoints do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping

from stackwright.domain.model_facts import CatalogLlm, Checkpoint, WeightFormat, text_config

# What quantizers leave as it was by default: output layer, routers, vision towers, next-token predictors
# (AutoAWQ, GPTQModel, llm-compressor and ModelOpt examples; the published Qwen3 and Llama checkpoints agree).
_KEPT = ["lm_head", "visual", "vision_tower", "vision_model", "multi_modal_projector", "mlp.gate", "shared_expert_gate"]
_INT8_WEIGHTS = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
_INT8_INPUTS = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
_INT8_CHANNEL = {"group_0": {"targets": ["Linear"], "weights": _INT8_WEIGHTS, "input_activations": _INT8_INPUTS}}
_INT4_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
_INT4_GROUP = {"group_0": {"targets": ["Linear"], "weights": _INT4_WEIGHTS}}
# The usual form of each format, under the keys that transformers 5.19.0 and the engines read.
USUAL: Mapping[WeightFormat, Mapping[str, object]] = {
    WeightFormat.FP8: {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    WeightFormat.INT8: {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": _INT8_CHANNEL,
    },
    WeightFormat.AWQ: {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    WeightFormat.GPTQ: {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
    WeightFormat.GPTQ8: {"quant_method": "gptq", "bits": 8, "group_size": 128, "sym": True, "desc_act": False},
    WeightFormat.INT4: {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": _INT4_GROUP},
    WeightFormat.NVFP4: {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    WeightFormat.MXFP4: {"quant_method": "mxfp4"},
}
# FP8 by another method than the usual one: no blocks, so that it is split anywhere. ModelOpt has one scale a matrix
# (AIC nvidia--Llama-3.1-70B-Instruct-FP8_hf_quant_config.json, as in llms.yaml), llm-compressor one a channel (its
# scheme FP8_DYNAMIC, which the names tell).
_FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
_FP8_INPUTS = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
_FP8_CHANNEL = {"group_0": {"targets": ["Linear"], "weights": _FP8_WEIGHTS, "input_activations": _FP8_INPUTS}}
_FP8_BY_METHOD: Mapping[str, Mapping[str, object]] = {
    "modelopt": {"quant_method": "modelopt", "quant_algo": "FP8"},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": _FP8_CHANNEL,
    },
}
# NVIDIA's mixed form: NVFP4 in MLPs and output layer, FP8 in attention (vllm-project/recipes#606; sgl-project/sglang,
# #27906 and #32959; noonghunna/club-3090#603, whose 21.9 GB it comes to with the layer for drafts; read 2026-11-30).
MIXED = "modelopt_mixed"
_MIXED_PARTS = {"mlp": "NVFP4", "self_attn": "FP8", "linear_attn": "FP8"}


def checkpoint_config(row: CatalogLlm, checkpoint: Checkpoint) -> Mapping[str, object]:
    """Return the configuration of a checkpoint.

    The row's own for the original, with the usual quantization otherwise.
    """
    if checkpoint.hub_id == row.hub_id:
        return row.config
    plain = {key: value for key, value in row.config.items() if key != "quantization_config"}
    if checkpoint.method == MIXED:
        return {**plain, "quantization_config": _mixed(row.config)}
    usual = _FP8_BY_METHOD[checkpoint.method] if checkpoint.method else USUAL.get(checkpoint.format)
    if usual is None:
        return plain
    return {**plain, "quantization_config": {**usual, "modules_to_not_convert": _KEPT}}


def _mixed(config: Mapping[str, object]) -> Mapping[str, object]:
    count = text_config(config).get("num_hidden_layers")
    layers = range(count if isinstance(count, int) else 0)
    named = {
        f"model.layers.{index}.{part}": {"quant_algo": algorithm}
        for index in layers
        for part, algorithm in _MIXED_PARTS.items()
    }
    named["lm_head"] = {"quant_algo": "NVFP4"}
    return {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": named}
