"""Models in folders: whole, incomplete and damaged ones, and formats told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import WeightFormat
from stackwright.domain.tensors import TensorHeader
from stackwright.errors import UsageError
from stackwright.models.config import parse_config
from stackwright.models.folder import read_folder
from stackwright.models.smoke_model import write_smoke_model

from tests.models.checkpoints import write_model, write_safetensors

CONFIG = {"architectures": ["Qwen2ForCausalLM"], "torch_dtype": "bfloat16"}
FIRST = [TensorHeader(name="embed", dtype="BF16", shape=(4, 8)), TensorHeader(name="norm", dtype="F32", shape=(8,))]
SECOND = [TensorHeader(name="head", dtype="BF16", shape=(4, 8))]
SHARDS = {"model-00001-of-00002.safetensors": FIRST, "model-00002-of-00002.safetensors": SECOND}


def refusal(folder: Path) -> UsageError:
    """Read a folder that is to be refused."""
    with pytest.raises(UsageError) as refused:
        read_folder(folder)
    assert "\n" not in refused.value.message
    return refused.value


def test_one_file(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "My Model!", CONFIG, {"model.safetensors": FIRST})
    facts = read_folder(folder)
    assert (facts.name, facts.source, facts.location) == ("My-Model", LlmSource.DIRECTORY, str(folder))
    assert facts.tensors == tuple(FIRST)
    assert facts.weight_bytes == 4 * 8 * 2 + 8 * 4
    assert facts.config == parse_config(CONFIG)
    assert facts.format is WeightFormat.BF16
    assert facts.notes == ()


def test_shards(tmp_path: Path) -> None:
    facts = read_folder(write_model(tmp_path / "m", CONFIG, SHARDS))
    assert facts.tensors == (*FIRST, *SECOND)
    assert facts.weight_bytes == 64 + 32 + 64


def test_the_smoke_model_as_it_is_written(tmp_path: Path) -> None:
    write_smoke_model(tmp_path / "smoke")
    facts = read_folder(tmp_path / "smoke")
    assert facts.tensors is not None
    assert (tmp_path / "smoke" / "model.safetensors").stat().st_size > (facts.weight_bytes or 0) > 300_000


def test_a_tensor_that_the_index_leaves_out_is_not_loaded(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    del index["weight_map"]["norm"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert read_folder(folder).weight_bytes == 64 + 64


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused = refusal(folder)
    assert refused.message == f"{folder}: 1 of 2 shards are missing, such as model-00002-of-00002.safetensors"
    assert refused.hint == "fetch the model again"


def test_a_shard_cut_short(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    shard = folder / "model-00001-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert refusal(folder).message == f"{shard}: has {len(whole) - 1} bytes, but its header says {len(whole)}"


def test_a_shard_of_another_version(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    write_safetensors(folder / "model-00002-of-00002.safetensors", FIRST)
    assert "1 tensors of the index are missing, such as head" in refusal(folder).message


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("{}", "weight_map is missing"),
        ('{"weight_map": {"w": "../elsewhere.safetensors"}}', "is not the name of a safetensors file"),
        ('{"weight_map": {"w": "/etc/passwd"}}', "is not the name of a safetensors file"),
        ('{"weight_map": {"w": 3}}', "is not the name of a safetensors file"),
        ("{", "not valid JSON"),
    ],
)
def test_a_damaged_index(tmp_path: Path, index: str, sentence: str) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    assert sentence in refusal(folder).message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("[]", "expected a JSON object"), ("{", "not valid JSON"), ("[" * 100_000, "not valid JSON")],
)
def test_a_damaged_config(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert refusal(tmp_path).message == f"{tmp_path / 'config.json'}: {sentence}"


def test_no_config(tmp_path: Path) -> None:
    refused = refusal(tmp_path)
    assert refused.message == f"{tmp_path / 'config.json'}: cannot be read: No such file or directory"
    assert refused.hint == "a model folder holds config.json and its weights"


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert refusal(tmp_path).message == f"{tmp_path}: no weights"


def test_a_path_that_no_file_can_carry(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "it's", CONFIG, {"model.safetensors": FIRST})
    assert refusal(folder).hint == "rename the folder"


@pytest.mark.parametrize("name", ["model.Q4_K_M.gguf", "pytorch_model.bin"])
def test_weights_without_headers_are_known_by_size(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / name).write_bytes(b"\0" * 77)
    facts = read_folder(tmp_path)
    assert facts.tensors is None
    assert facts.weight_bytes == 77
    assert facts.format is (WeightFormat.GGUF if name.endswith("gguf") else None)
    assert facts.notes == (f"{name}: no safetensors: the weights are estimated from file sizes",)


BITSANDBYTES = [
    TensorHeader(name="w", dtype="U8", shape=(64, 1)),
    TensorHeader(name="w.absmax", dtype="U8", shape=(2,)),
    TensorHeader(name="w.quant_state.bitsandbytes__nf4", dtype="U8", shape=(9,)),
]


@pytest.mark.parametrize(
    ("config", "tensors", "expected"),
    [
        ({}, BITSANDBYTES, WeightFormat.BITSANDBYTES),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, FIRST, WeightFormat.BITSANDBYTES),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, FIRST, WeightFormat.AWQ),
        ({"text_config": {"quantization_config": {"quant_method": "gptq"}}}, FIRST, WeightFormat.GPTQ),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, FIRST, WeightFormat.NVFP4),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}},
            FIRST,
            WeightFormat.NVFP4,
        ),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
            FIRST,
            WeightFormat.INT4,
        ),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}},
            FIRST,
            WeightFormat.INT8,
        ),
        (
            {"compression_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
            FIRST,
            WeightFormat.FP8,
        ),
        ({"quantization_config": {"quant_method": "of tomorrow"}}, FIRST, WeightFormat.OTHER),
        ({}, FIRST, WeightFormat.BF16),
        ({}, [TensorHeader(name="w", dtype="F8_E4M3", shape=(9, 9)), *FIRST[1:]], WeightFormat.FP8),
    ],
)
def test_formats_are_told_apart(
    tmp_path: Path, config: dict[str, object], tensors: list[TensorHeader], expected: WeightFormat
) -> None:
    assert read_folder(write_model(tmp_path / "m", config, {"model.safetensors": tensors})).format is expected
