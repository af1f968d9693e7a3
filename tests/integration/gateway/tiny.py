"""Tiny models for the roles beside chat, made on the spot as the smoke model is: real architectures, weights without a
meaning.

Standard library only; writes the folders that it is given.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

from stackwright.models.smoke_model import write_smoke_model

HIDDEN, INTERMEDIATE, LAYERS, HEADS, POSITIONS = 64, 128, 2, 2, 512

Tensor = tuple[tuple[int, ...], bytes]
"""A shape, and the bfloat16 numbers, little-endian."""


def write_ranker(folder: Path) -> None:
    """Write a cross-encoder: a BERT with one score, the smoke model's tokenizer, and no cache of keys and values."""
    write_smoke_model(folder)
    config = json.loads((folder / "config.json").read_text())
    vocabulary, end = config["vocab_size"], config["eos_token_id"]
    (folder / "generation_config.json").unlink()
    bert = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": end,
        "id2label": {"0": "fits"},
        "label2id": {"fits": 0},
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(bert))
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**words, "model_max_length": POSITIONS}))
    (folder / "model.safetensors").write_bytes(safetensors(noise(ranker_shapes(vocabulary))))


def ranker_shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return tensor name → shape of a BERT that gives one score."""
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (vocabulary, HIDDEN),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (2, HIDDEN),
        **norm("bert.embeddings.LayerNorm"),
    }
    for number in range(LAYERS):
        layer = f"bert.encoder.layer.{number}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
        shapes |= linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN) | norm(
            f"{layer}.attention.output.LayerNorm"
        )
        shapes |= linear(f"{layer}.intermediate.dense", INTERMEDIATE, HIDDEN)
        shapes |= linear(f"{layer}.output.dense", HIDDEN, INTERMEDIATE) | norm(f"{layer}.output.LayerNorm")
    return shapes | linear("bert.pooler.dense", HIDDEN, HIDDEN) | linear("classifier", 1, HIDDEN)


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a linear layer."""
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a normalization."""
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def noise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return tensors: ones for the scales of normalizations, zeros for biases, else noise from a fixed seed."""
    source = random.Random(20261121)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        count = math.prod(shape)
        if name.endswith("LayerNorm.weight"):
            tensors[name] = shape, b"\x80\x3f" * count  # 1.0 in bfloat16
        elif name.endswith("bias"):
            tensors[name] = shape, bytes(2 * count)
        else:
            # Exponents of 1/16 to 1/8, either sign.
            body = (bytes((source.randrange(256), source.choice((0x3D, 0xBD)))) for _ in range(count))
            tensors[name] = shape, b"".join(body)
    return tensors


def safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return a weights file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (shape, body) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, start + len(body)]}
        start += len(body)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(body for _, body in tensors.values())


def write_adapter(folder: Path) -> None:
    """Write a LoRA adapter for the smoke model: its queries and values, rank 4."""
    write_smoke_model(folder)
    config = json.loads((folder / "config.json").read_text())
    for path in folder.iterdir():
        path.unlink()
    hidden, rank = config["hidden_size"], 4
    values = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(config["num_hidden_layers"]):
        for name, width in (("q_proj", hidden), ("v_proj", values)):
            layer = f"base_model.model.model.layers.{number}.self_attn.{name}"
            shapes |= {f"{layer}.lora_A.weight": (rank, hidden), f"{layer}.lora_B.weight": (width, rank)}
    described = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 8, "bias": "none"}
    described["target_modules"] = ["q_proj", "v_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(described))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(noise(shapes)))
