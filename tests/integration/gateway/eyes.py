"""A tiny model that sees: it says which colour its pictures have most of, and "nothing" where there is none.

Idefics3's architecture, which vLLM serves without torchvision: SigLIP over four patches, and a Llama of one layer. All
weights are
zero but those on the way of a colour: each patch's mean red, green and blue, the mean of all patches, the word that
stands for it. So the answer shows what has reached the engine of a picture. Standard library only; writes the folder
that it is given.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from stackwright.models.smoke_model import write_smoke_model

from tests.integration.gateway.tiny import Tensor, linear, safetensors

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NOTHING = "nothing"
_PATCH, _SIDE = 14, 28
_PATCHES = (_SIDE // _PATCH) ** 2
PICTURE_TOKENS = _PATCHES + 3
"""Tokens that a picture takes of a prompt: one for each patch, and three around them."""
# vLLM 0.32 has kernels for heads of 32 numbers, and none for 16, on a processor.
_HIDDEN, _INNER, _HEADS, _KV_HEADS = 64, 128, 2, 1
_CHANNELS = range(len(COLOURS))
# The first numbers of a token in the language model are a colour; these say that it is text, and that it is an answer.
_TEXT, _ANSWER = 3, 4
_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def picture(colour: str, *, width: int = _SIDE, height: int = _SIDE) -> str:
    """Return a PNG of one colour as a data URL; width and height are in pixels."""
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress((b"\0" + bytes(COLOURS[colour]) * width) * height),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts.items()
    )
    return "data:image/png;base64," + b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def write_eyes(folder: Path) -> None:
    """Write the model, with the smoke model's tokenizer and the words that it lacks."""
    write_smoke_model(folder)
    text, words, settings = (
        json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    )
    first, end = text["vocab_size"], text["eos_token_id"]
    vocabulary = {word: first + place for place, word in enumerate((*_TOKENS, *COLOURS, NOTHING))}
    words["model"]["vocab"] |= vocabulary
    words["added_tokens"] += [{**words["added_tokens"][0], "id": vocabulary[each], "content": each} for each in _TOKENS]
    square = {"longest_edge": _SIDE}
    for name, document in {
        "config.json": _config(first + len(vocabulary), end, vocabulary["<image>"], text["max_position_embeddings"]),
        "tokenizer.json": words,
        "tokenizer_config.json": {**settings, "chat_template": _TEMPLATE},
        "processor_config.json": {"processor_class": "Idefics3Processor", "image_seq_len": _PATCHES},
        "preprocessor_config.json": {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": square,
            "max_image_size": square,
            "do_image_splitting": False,
        },
    }.items():
        (folder / name).write_text(json.dumps(document))
    tensors = _tower() | _language(vocabulary, end)
    (folder / "model.safetensors").write_bytes(safetensors(tensors))


def _config(vocabulary_size: int, end: int, mark: int, positions: int) -> dict[str, object]:
    """Return the configuration; `mark` is the token that stands for a patch."""
    shape = {"hidden_size": _HIDDEN, "intermediate_size": _INNER, "num_hidden_layers": 1, "num_attention_heads": _HEADS}
    language = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape,
        "num_key_value_heads": _KV_HEADS,
        "vocab_size": vocabulary_size,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": "bfloat16",
    }
    return {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "text_config": language,
        "vision_config": {"model_type": "idefics3_vision", **shape, "image_size": _SIDE, "patch_size": _PATCH},
        "scale_factor": 1,
        "image_token_id": mark,
        "pad_token_id": end,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _tower() -> dict[str, Tensor]:
    """Return SigLIP and the way out of it: a patch's mean colours are its first numbers, and the layer adds nothing to
    them.
    """
    area, layer = _PATCH**2, "encoder.layers.0"
    means = {(channel, channel * area + pixel): 1 / area for channel in _CHANNELS for pixel in range(area)}
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.bias": (_HIDDEN,),
        "embeddings.position_embedding.weight": (_PATCHES, _HIDDEN),
    }
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= linear(f"{layer}.self_attn.{part}", _HIDDEN, _HIDDEN)
    shapes |= linear(f"{layer}.mlp.fc1", _INNER, _HIDDEN) | linear(f"{layer}.mlp.fc2", _HIDDEN, _INNER)
    tensors = {name: _zeros(*shape) for name, shape in shapes.items()}
    for norm in (f"{layer}.layer_norm1", f"{layer}.layer_norm2", "post_layernorm"):
        tensors |= {f"{norm}.weight": _ones(), f"{norm}.bias": _zeros(_HIDDEN)}
    _, patches = _matrix(_HIDDEN, len(COLOURS) * area, means)
    tensors["embeddings.patch_embedding.weight"] = (_HIDDEN, len(COLOURS), _PATCH, _PATCH), patches
    named = {f"model.vision_model.{name}": tensor for name, tensor in tensors.items()}
    return named | {"model.connector.modality_projection.proj.weight": _passing(_HIDDEN, _HIDDEN)}


def _language(vocabulary: Mapping[str, int], end: int) -> dict[str, Tensor]:
    """Return the Llama: without queries and keys each token sees the mean of all before it, of which the colours are
    taken.
    """
    layer, keys, size = "layers.0", _HIDDEN // _HEADS * _KV_HEADS, max(vocabulary.values()) + 1
    answers = [vocabulary[word] for word in (*COLOURS, NOTHING)]
    embedded = {(token, _ANSWER if token in answers else _TEXT): 1.0 for token in range(size)}
    # A colour beats nothing however few of a prompt's tokens are a picture's; and what has been answered is not said
    # again.
    said = {(vocabulary[word], channel): 4.0 for channel, word in enumerate(COLOURS)}
    said |= {(vocabulary[NOTHING], _TEXT): 2.0, (end, _ANSWER): 400.0}
    tensors = {
        "embed_tokens.weight": _matrix(size, _HIDDEN, embedded),
        f"{layer}.self_attn.q_proj.weight": _zeros(_HIDDEN, _HIDDEN),
        f"{layer}.self_attn.k_proj.weight": _zeros(keys, _HIDDEN),
        f"{layer}.self_attn.v_proj.weight": _passing(keys, _HIDDEN),
        f"{layer}.self_attn.o_proj.weight": _passing(_HIDDEN, _HIDDEN, times=40.0),
        f"{layer}.mlp.gate_proj.weight": _zeros(_INNER, _HIDDEN),
        f"{layer}.mlp.up_proj.weight": _zeros(_INNER, _HIDDEN),
        f"{layer}.mlp.down_proj.weight": _zeros(_HIDDEN, _INNER),
        f"{layer}.input_layernorm.weight": _ones(),
        f"{layer}.post_attention_layernorm.weight": _ones(),
        "norm.weight": _ones(),
    }
    named = {f"model.text_model.{name}": tensor for name, tensor in tensors.items()}
    return named | {"lm_head.weight": _matrix(size, _HIDDEN, said)}


def _passing(out: int, into: int, *, times: float = 1.0) -> Tensor:
    """Return a layer that hands on the colours and nothing else."""
    return _matrix(out, into, {(channel, channel): times for channel in _CHANNELS})


def _matrix(rows: int, columns: int, entries: Mapping[tuple[int, int], float]) -> Tensor:
    """Return a matrix of zeros but for `entries`; bfloat16 is the upper half of a float32."""
    body = bytearray(2 * rows * columns)
    for (row, column), value in entries.items():
        place = 2 * (row * columns + column)
        body[place : place + 2] = struct.pack("<f", value)[2:]
    return (rows, columns), bytes(body)


def _zeros(*shape: int) -> Tensor:
    return shape, bytes(2 * math.prod(shape))


def _ones() -> Tensor:
    return (_HIDDEN,), struct.pack("<f", 1.0)[2:] * _HIDDEN
