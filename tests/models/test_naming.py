"""What a person may paste in the place of a model's name, and what lies in a folder that is no model."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from stackwright.catalog.load import load_llms
from stackwright.errors import UsageError
from stackwright.models.kinds import describe_folder, original_of_gguf
from stackwright.models.naming import plain_name
from stackwright.models.read import HubAccess, locate_model, read_model

OFFLINE = HubAccess(home=Path("/nonexistent"), online=False)
KNOWN = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "gpt-oss-20b", "mistral-7b")


@pytest.mark.parametrize(
    "name",
    [
        "https://huggingface.co/Qwen/Qwen3-8B",
        "https://huggingface.co/Qwen/Qwen3-8B/",
        "http://www.huggingface.co/Qwen/Qwen3-8B/tree/main",
        "https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json",
        "https://huggingface.co/Qwen/Qwen3-8B/resolve/main/model-00001-of-00005.safetensors?download=true",
        "https://huggingface.co/Qwen/Qwen3-8B?library=vllm",
        "https://huggingface.co/models/Qwen/Qwen3-8B#use",
        "huggingface.co/Qwen/Qwen3-8B",
        "hf.co/Qwen/Qwen3-8B",
        "hf://Qwen/Qwen3-8B",
        "hf://models/Qwen/Qwen3-8B@main",
        " https://hf.co/Qwen/Qwen3-8B ",
        "https://mirror.example.org/Qwen/Qwen3-8B",
    ],
)
def test_an_address_of_the_hub_is_the_repository_that_it_names(name: str) -> None:
    assert plain_name(name, (), "--model", mirror="https://mirror.example.org") == "Qwen/Qwen3-8B"


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "a/b/c", "qwen3-8b", "[", "http://[", "größe", ""])
def test_any_other_name_stays(name: str) -> None:
    assert plain_name(name, KNOWN, "--model") == name


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("llama3.1:8b", "a name of Ollama's", "`--model llama-3.1-8b`"),
        ("llama3.1:70b-instruct-q4_K_M", "a name of Ollama's", "`--model llama-3.1-70b`"),
        ("ollama run gpt-oss:20b", "a name of Ollama's", "`--model gpt-oss-20b`"),
        ("ollama pull nothing-known", "a name of Ollama's", "its name on Hugging Face"),
        ("ollama/qwen3:8b", "a name of Ollama's", "`--model qwen3-8b`"),
        ("library/qwen3:8b", "a name of Ollama's", "`--model qwen3-8b`"),
        ("https://ollama.com/library/qwen3:8b", "a name of Ollama's", "`--model qwen3-8b`"),
        ("hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M", "GGUF weights", "`--model OWNER/NAME`"),
        ("ollama run hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M", "GGUF weights", "`--model OWNER/NAME`"),
        ("https://huggingface.co/a/b/resolve/main/b-Q4.gguf", "b-Q4.gguf: GGUF weights", "`--model OWNER/NAME`"),
        ("https://huggingface.co/datasets/a/b", "a data set, not a model", "owner/name"),
        ("https://huggingface.co/Qwen", "names no repository", "owner/name"),
        ("https://huggingface.co/a/b/tree/v2", "names the version v2", "`--model a/b --arg=--revision=v2`"),
        ("hf://a/b@v2", "names the version v2", "`--model a/b --arg=--revision=v2`"),
        ("https://www.modelscope.cn/models/Qwen/Qwen3-8B/files", "ModelScope", "--model Qwen/Qwen3-8B --local_dir"),
        ("https://example.org/a/b", "an address of example.org", "download the model"),
    ],
)
def test_what_another_program_calls_a_model_is_told_as_such(name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        plain_name(name, KNOWN, "--model x")
    assert refused.value.message.startswith("--model x: ")
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")


def test_an_address_is_read_as_the_catalogs_row() -> None:
    llms = load_llms()
    assert read_model("https://huggingface.co/Qwen/Qwen3-8B/tree/main", llms, None, OFFLINE).name == "Qwen/Qwen3-8B"
    assert locate_model("hf.co/Qwen/Qwen3-8B", llms) == "Qwen/Qwen3-8B"
    assert locate_model("llama3.1:8b", llms) == "llama3.1:8b"


def text(value: str) -> bytes:
    """Write a text of a GGUF file."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(entries: dict[str, object]) -> bytes:
    """Write the beginning of a GGUF file."""
    written = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries))
    for key, value in entries.items():
        written += text(key)
        if isinstance(value, str):
            written += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            written += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        else:
            written += struct.pack("<IQ", 10, value)
    return written


@pytest.mark.parametrize(
    ("entries", "original"),
    [
        ({"general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3-8B"}, "Qwen/Qwen3-8B"),
        ({"general.tags": ["a", "b"], "n": 1, "general.source.huggingface.repository": "a/b"}, "a/b"),
        ({"general.base_model.0.repo_url": "https://example.org/x", "general.repo_url": "https://hf.co/a/b"}, "a/b"),
        ({"general.name": "Qwen3"}, None),
    ],
)
def test_a_gguf_file_tells_what_it_was_made_of(
    entries: dict[str, object], original: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "x-Q4_K_M.gguf"
    file.write_bytes(gguf(entries))
    assert original_of_gguf(file) == original
    with pytest.raises(UsageError) as refused:
        read_model(str(file), (), None, OFFLINE)
    assert (
        refused.value.message
        == f"--model {file}: x-Q4_K_M.gguf: GGUF weights, which are llama.cpp's: engines here serve safetensors"
    )
    assert f"`--model {original or 'OWNER/NAME'}`" in (refused.value.hint or "")
    with pytest.raises(UsageError, match="GGUF weights"):
        read_model(str(tmp_path), (), None, OFFLINE)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"x" * 100])
def test_a_damaged_gguf_file_is_one_all_the_same(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert original_of_gguf(tmp_path / "x.gguf") is None
    refusal = describe_folder(tmp_path)
    assert refusal is not None
    assert "GGUF weights" in refusal.message


def test_a_folder_is_told_by_what_lies_in_it(tmp_path: Path) -> None:
    lora, mistral, pictures = (tmp_path / name for name in ("my adapter", "mistral", "pictures"))
    for folder in (lora, mistral, pictures):
        folder.mkdir()
    adapter = {"r": 8, "base_model_name_or_path": "Qwen/Qwen3-8B"}
    (lora / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (mistral / "params.json").write_text("{}", encoding="utf-8")
    (pictures / "model_index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        read_model(str(lora), (), None, OFFLINE)
    assert refused.value.message == f"{lora}: a LoRA adapter for Qwen/Qwen3-8B, not a whole model"
    assert f"`models: [{{name: Qwen/Qwen3-8B, lora: {{my-adapter: {lora}}}}}]`" in (refused.value.hint or "")
    with pytest.raises(UsageError, match=r"Mistral's own layout \(params.json\)"):
        read_model(str(mistral), (), None, OFFLINE)
    with pytest.raises(UsageError, match="Diffusers"):
        read_model(str(pictures), (), None, OFFLINE)


def test_a_file_of_weights_leads_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError) as refused:
        read_model(str(tmp_path / "model.safetensors"), (), None, OFFLINE)
    assert refused.value.hint == f"`--model {tmp_path}`"
