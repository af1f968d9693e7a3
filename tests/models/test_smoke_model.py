"""The smoke model: the same bytes everywhere, whole or not there, and weights that say the sentence."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
from stackwright.models.smoke_model import SENTENCE, write_smoke_model

# A change of the weights needs a new REVISION in generator/stackwright/models/smoke_model.py, then new digests here.
DIGESTS = {
    "config.json": "cd5cc321df083a9f2463ce9608eea41c1fc25a06cf9bdf0de3cba1e4208053e1",
    "generation_config.json": "4951d51f2c559a424be1ff654ff644547bd74d0e8d934a1fffa7190a22b12094",
    "model.safetensors": "79dbb367d232850d7579b8cec3f8f3775d1af1c63f0de7db9694905da3cfaa31",
    "tokenizer.json": "11bfcf85d806cf61a5c66d8290531952499c7c1139dcda5044ae7896457466e3",
    "tokenizer_config.json": "c0301d964192def3846ac24e149bd1aedd8198ac495b5dcc48ac6e7d2a62cc0f",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with the model in it."""
    write_smoke_model(tmp_path / "models" / "smoke")
    return tmp_path / "models" / "smoke"


def read_tensors(folder: Path) -> dict[str, list[list[float]]]:
    """Read the weights as rows of numbers, as the safetensors format describes them."""
    content = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        raw = content[start + first : start + last]
        # A bfloat16 is the upper half of a float32.
        values = [struct.unpack("<f", b"\0\0" + raw[place : place + 2])[0] for place in range(0, len(raw), 2)]
        width = entry["shape"][-1]
        tensors[name] = [values[place : place + width] for place in range(0, len(values), width)]
        assert len(tensors[name]) * width == len(values)
    assert start + max(entry["data_offsets"][1] for entry in header.values()) == len(content)
    return tensors


def test_bytes_are_the_same_everywhere(folder: Path) -> None:
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()} == DIGESTS


def test_every_user_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_smoke_model(tmp_path / "smoke")
    finally:
        os.umask(before)
    assert (tmp_path / "smoke").stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "smoke").iterdir()} == {0o644}


def test_complete_folder_is_left_alone(folder: Path) -> None:
    before = {file.name: file.stat().st_ino for file in folder.iterdir()}
    write_smoke_model(folder)
    assert {file.name: file.stat().st_ino for file in folder.iterdir()} == before


@pytest.mark.parametrize("damaged", list(DIGESTS))
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged_folder_is_written_anew(folder: Path, damaged: str, damage: str) -> None:
    if damage == "missing":
        (folder / damaged).unlink()
    else:
        (folder / damaged).write_bytes((folder / damaged).read_bytes()[:-1])
    write_smoke_model(folder)
    assert hashlib.sha256((folder / damaged).read_bytes()).hexdigest() == DIGESTS[damaged]
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_output_rows_lead_from_word_to_word(folder: Path) -> None:
    tensors = read_tensors(folder)
    embeddings, outputs = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    tokens = {
        number: token for token, number in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].items()
    }
    said: list[str] = []
    number = ord("\n")
    while tokens[number] != "<|im_end|>" and len(said) < 50:
        row = embeddings[number]
        number = max(tokens, key=lambda other: sum(a * b for a, b in zip(row, outputs[other], strict=True)))
        said.append(tokens[number])
    assert "".join(said[:-1]).replace("Ġ", " ") == SENTENCE
    assert said[-1] == "<|im_end|>"


def test_shapes_are_those_of_the_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    tensors = read_tensors(folder)
    assert len(tensors["model.embed_tokens.weight"]) == config["vocab_size"]
    assert len(tensors["model.embed_tokens.weight"][0]) == config["hidden_size"]
    keys = tensors["model.layers.1.self_attn.k_proj.weight"]
    assert len(keys) == config["num_key_value_heads"] * config["head_dim"]
    assert sum(name.endswith("q_proj.weight") for name in tensors) == config["num_hidden_layers"]


def test_any_text_can_be_written_in_tokens(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert sum(len(token) == 1 for token in vocabulary) == 256
