"""A vision model for a stand-in engine: what the plan reads of one, and no weights that could see. Writes a folder."""

from __future__ import annotations

from pathlib import Path

from stackwright.domain.tensors import TensorHeader

from tests.models.checkpoints import write_model

VISION = {"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2}
CONFIG = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "vision_config": VISION,
}


def write_eyes(folder: Path) -> Path:
    """Write the model."""
    weight = TensorHeader(name="model.embed_tokens.weight", dtype="BF16", shape=(512, 128))
    return write_model(folder, CONFIG, {"model.safetensors": [weight]})
