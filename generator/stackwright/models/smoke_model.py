"""The smoke model: a tiny Qwen2 made on the spot, so that a stack runs where no model hub is reachable.

Standard library only; writes the folder that it is given and nothing else. The same bytes come out on every machine
and every Python: `random.Random.random` keeps its sequence for a seed across versions (Python documentation,
"Notes on Reproducibility"), and nothing here uses a function of the C mathematics library.

The model says one fixed sentence and stops. Its layers are random and small beside the residual stream, so the
embedding of the last token reaches the output almost unchanged; row n + 1 of the output matrix is the embedding of
word n. An engine that reads or multiplies the weights wrongly therefore says something else: the sentence proves
the whole path, tensor parallelism included. It proves the stack, not the answers.
"""

from __future__ import annotations

import array
import itertools
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

REVISION = 1
"""Raised whenever the weights change; it stands in config.json, so that an older folder is written anew."""

SENTENCE = "This is smoke, a tiny test model: it proves that your stack works, and knows nothing else."

_SEED = 20261121
_HIDDEN, _INTERMEDIATE, _LAYERS, _HEADS, _KV_HEADS, _HEAD_DIMENSION = 128, 256, 2, 4, 2, 32
_POSITIONS = 32768
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_END_OF_TURN = "<|im_end|>"
_SHARPNESS = 0.35
"""Scale of the output rows: the next word leads all others by more than ten, so sampling cannot leave the sentence."""

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_smoke_model(folder: Path) -> None:
    """Write the smoke model into `folder`, readable by every user; a complete one is left alone.

    Raises:
        OSError: the folder cannot be written.
    """
    texts = {name: json.dumps(document, indent=2) + "\n" for name, document in _documents().items()}
    if _complete(folder, texts):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8")
        (made / "model.safetensors").write_bytes(_safetensors(_tensors()))
        for file in made.iterdir():
            file.chmod(0o644)
        made.chmod(0o755)
        _put_in_place(made, folder, texts)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put_in_place(made: Path, folder: Path, texts: dict[str, str]) -> None:
    """Rename `made` to `folder`; another process may do the same at the same moment."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        made.rename(folder)
    except OSError:
        if not _complete(folder, texts):
            raise


def _complete(folder: Path, texts: dict[str, str]) -> bool:
    """Return whether `folder` holds this very model; the weights are judged by their size."""
    try:
        same = all((folder / name).read_text(encoding="utf-8") == text for name, text in texts.items())
        return same and (folder / "model.safetensors").stat().st_size == _weights_bytes()
    except (OSError, UnicodeDecodeError):
        return False


def _documents() -> dict[str, object]:
    """Return the JSON files of the model by name."""
    vocabulary = _vocabulary()
    end_of_text, end_of_turn = vocabulary["<|endoftext|>"], vocabulary[_END_OF_TURN]
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": len(vocabulary),
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIMENSION,
        "hidden_act": "silu",
        "max_position_embeddings": _POSITIONS,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": end_of_turn,
        "pad_token_id": end_of_text,
        "use_sliding_window": False,
        "smoke_revision": REVISION,
    }
    tokenizer_settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _POSITIONS,
        "eos_token": _END_OF_TURN,
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    return {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [end_of_turn, end_of_text], "pad_token_id": end_of_text},
        "tokenizer.json": _tokenizer(vocabulary),
        "tokenizer_config.json": tokenizer_settings,
    }


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, object]:
    """Return tokenizer.json: byte-level BPE without merges, so a prompt is one token per byte."""
    added = [
        {
            "id": vocabulary[word],
            "content": word,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for word in _SPECIALS
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    model: dict[str, object] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {**model, "vocab": vocabulary, "merges": []},
    }


def _vocabulary() -> dict[str, int]:
    """Return token → id: the 256 bytes, the special tokens, then the words of the sentence in order.

    A word carries its leading space, as in GPT-2's byte-level alphabet. No merge makes one from a prompt: only the
    model says them.
    """
    words = [f" {word}" if position else word for position, word in enumerate(SENTENCE.split())]
    written = [word.replace(" ", _byte_alphabet()[ord(" ")]) for word in words]
    tokens = [*_byte_alphabet(), *_SPECIALS, *written]
    return {token: number for number, token in enumerate(tokens)}


def _byte_alphabet() -> list[str]:
    """Return the visible character that stands for each byte (GPT-2, encoder.py, `bytes_to_unicode`)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(stand_ins)) for byte in range(256)]


def _shapes() -> dict[str, tuple[int, ...]]:
    """Return tensor name → shape, in the order of the file."""
    queries, keys = _HEADS * _HEAD_DIMENSION, _KV_HEADS * _HEAD_DIMENSION
    vocabulary_size = len(_vocabulary())
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary_size, _HIDDEN)}
    for layer in range(_LAYERS):
        parts = {
            "input_layernorm.weight": (_HIDDEN,),
            "mlp.down_proj.weight": (_HIDDEN, _INTERMEDIATE),
            "mlp.gate_proj.weight": (_INTERMEDIATE, _HIDDEN),
            "mlp.up_proj.weight": (_INTERMEDIATE, _HIDDEN),
            "post_attention_layernorm.weight": (_HIDDEN,),
            "self_attn.k_proj.bias": (keys,),
            "self_attn.k_proj.weight": (keys, _HIDDEN),
            "self_attn.o_proj.weight": (_HIDDEN, queries),
            "self_attn.q_proj.bias": (queries,),
            "self_attn.q_proj.weight": (queries, _HIDDEN),
            "self_attn.v_proj.bias": (keys,),
            "self_attn.v_proj.weight": (keys, _HIDDEN),
        }
        shapes |= {f"model.layers.{layer}.{part}": shape for part, shape in parts.items()}
    shapes |= {"model.norm.weight": (_HIDDEN,), "lm_head.weight": (vocabulary_size, _HIDDEN)}
    return shapes


def _tensors() -> dict[str, bytes]:
    """Return tensor name → bfloat16 bytes."""
    source = random.Random(_SEED)
    embeddings, outputs = _sentence_matrices(source)
    tensors = {}
    for name, shape in _shapes().items():
        count = math.prod(shape)
        if name == "model.embed_tokens.weight":
            values: Iterable[float] = embeddings
        elif name == "lm_head.weight":
            values = outputs
        elif name.endswith("norm.weight"):
            values = [1.0] * count
        elif name.endswith("bias"):
            values = [0.0] * count
        else:
            values = _uniform(source, count, 0.05)
        tensors[name] = _bfloat16(values)
    return tensors


def _sentence_matrices(source: random.Random) -> tuple[list[float], list[float]]:
    """Return the embedding and output matrices, row after row.

    Bytes and special tokens share one direction, and the first word answers to it: any prompt starts the sentence.
    Each word answers to the embedding of the one before it, and the end of the turn to the last word.
    """
    vocabulary = _vocabulary()
    first_word = 256 + len(_SPECIALS)
    start = _uniform(source, _HIDDEN, 1.0)
    embeddings: list[list[float]] = []
    for number in range(len(vocabulary)):
        own = _uniform(source, _HIDDEN, 1.0)
        if number < first_word:
            own = [shared + 0.3 * value for shared, value in zip(start, own, strict=True)]
        embeddings.append(own)
    outputs = [[0.0] * _HIDDEN for _ in vocabulary]
    outputs[first_word] = [_SHARPNESS * value for value in start]
    for number in range(first_word + 1, len(vocabulary)):
        outputs[number] = [_SHARPNESS * value for value in embeddings[number - 1]]
    outputs[vocabulary[_END_OF_TURN]] = [_SHARPNESS * value for value in embeddings[-1]]
    return list(itertools.chain(*embeddings)), list(itertools.chain(*outputs))


def _uniform(source: random.Random, count: int, bound: float) -> list[float]:
    """Return `count` numbers between -bound and bound."""
    return [bound * (2.0 * source.random() - 1.0) for _ in range(count)]


def _bfloat16(values: Iterable[float]) -> bytes:
    """Return little-endian bfloat16: the upper half of each float32."""
    singles = array.array("f", values)
    if sys.byteorder == "big":
        singles.byteswap()
    raw = singles.tobytes()
    halves = bytearray(len(raw) // 2)
    halves[0::2], halves[1::2] = raw[2::4], raw[3::4]
    return bytes(halves)


def _header() -> bytes:
    """Return the safetensors header: eight bytes of length, then JSON padded to a multiple of eight."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in _shapes().items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _safetensors(tensors: dict[str, bytes]) -> bytes:
    """Return the whole weights file."""
    return _header() + b"".join(tensors[name] for name in _shapes())


def _weights_bytes() -> int:
    """Return the size of the weights file without making it."""
    return len(_header()) + sum(2 * math.prod(shape) for shape in _shapes().values())
