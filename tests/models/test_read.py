"""Which model a name means: smoke, a catalog name, a folder, or a model on the hub; and what each is known by."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.catalog.load import load_llms
from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import CatalogLlm, WeightFormat, text_config
from stackwright.domain.shape import WeightKind
from stackwright.errors import UsageError
from stackwright.models.folder import read_folder
from stackwright.models.read import HubAccess, locate_model, read_model
from stackwright.models.smoke_model import write_smoke_model
from stackwright.models.stored import name_llm

from tests.models.checkpoints import write_model
from tests.models.test_folder import CONFIG, FIRST

LLMS = load_llms()
OFFLINE = HubAccess(home=Path("/nonexistent"), online=False)


@pytest.mark.parametrize("name", ["qwen3-8b", "Qwen3-8B", "Qwen/Qwen3-8B"])
def test_a_catalog_name_or_its_hub_id(name: str) -> None:
    facts = read_model(name, LLMS, None, OFFLINE)
    assert (facts.name, facts.source, facts.location) == ("Qwen/Qwen3-8B", LlmSource.HUB, "Qwen/Qwen3-8B")
    assert len(facts.config.shape.layers) == 36
    # 8.19 billion parameters in BF16 (model card, Qwen3-8B).
    assert facts.weight_bytes == pytest.approx(2 * 8.19e9, rel=0.001)
    assert facts.minimum_engine == "0.8.5"
    assert facts.gated is False
    assert facts.tensors is None


def test_a_quantized_checkpoint_keeps_the_shape_of_its_original() -> None:
    facts = read_model("Qwen/Qwen3-8B-AWQ", LLMS, None, OFFLINE)
    original = read_model("Qwen/Qwen3-8B", LLMS, None, OFFLINE)
    quantization = facts.config.shape.quantization
    assert (quantization.kind, quantization.bits, quantization.group) == (WeightKind.AWQ, 4, 128)
    plain = replace(facts.config.shape, quantization=original.config.shape.quantization)
    fields = facts.config.fields - {"quantization_config"}
    assert replace(facts.config, shape=plain, quant_method=None, fields=fields) == original.config
    assert facts.config.quant_method == "awq"
    assert facts.format is WeightFormat.AWQ
    # The files on the hub have 5.68 GiB (kaito-project/kaito, model_catalog.yaml, 2026-08-21).
    assert facts.weight_bytes == pytest.approx(5.68 * 2**30, rel=0.002)


def test_the_cache_knows_better_than_the_catalog(tmp_path: Path) -> None:
    commit = "0123456789abcdef"
    folder = tmp_path / "hub" / "models--Qwen--Qwen3-8B-AWQ"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit, encoding="ascii")
    write_model(folder / "snapshots" / commit, {"architectures": ["OwnForCausalLM"]}, {})
    headers = tmp_path / "assets" / "stackwright" / "models--Qwen--Qwen3-8B-AWQ" / "headers" / f"{commit}.json"
    headers.parent.mkdir(parents=True)
    headers.write_text(json.dumps({"schema": 1, "tensors": [["w", "I32", [5, 2]]]}), encoding="utf-8")
    facts = read_model("Qwen/Qwen3-8B-AWQ", LLMS, None, HubAccess(home=tmp_path, online=False))
    assert facts.config.architecture == "OwnForCausalLM"
    assert facts.weight_bytes == 40


def test_a_gguf_folder_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    facts = read_model(str(tmp_path), LLMS, None, OFFLINE)
    assert facts.format is WeightFormat.GGUF
    assert facts.notes[-1] == "GGUF weights (4 B): the engine's support for them is experimental"


def test_smoke_is_the_same_before_and_after_it_is_written(tmp_path: Path) -> None:
    before = read_model("smoke", LLMS, tmp_path / "smoke", OFFLINE)
    write_smoke_model(tmp_path / "smoke")
    assert read_model("smoke", LLMS, tmp_path / "smoke", OFFLINE) == before
    assert (before.name, before.source, before.location) == ("smoke", LlmSource.SMOKE, str(tmp_path / "smoke"))
    written = read_folder(tmp_path / "smoke")
    # The file has more keys, of which nothing hangs.
    assert replace(written.config, fields=before.config.fields) == before.config


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("/no/such/folder", "--model /no/such/folder: no such folder", None),
        (
            "qwen3-9b",
            "not a Hugging Face id (owner/name), a folder, or a catalog name",
            "did you mean `qwen3.5-9b`?",
        ),
        ("someone/unheard-of", "neither in the catalog nor in the cache", "look it up once online"),
        ("a/b/c", "not a Hugging Face id", "catalog names: smoke, "),
        ("", "not a Hugging Face id", "catalog names: smoke, "),
    ],
)
def test_names_that_mean_nothing(name: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        read_model(name, LLMS, None, OFFLINE)
    assert message in refused.value.message
    assert (refused.value.hint or "").startswith(hint or "")


@pytest.mark.parametrize("name", ["qwen3-9b", "/no/such/folder", "someone/unheard-of"])
def test_a_name_in_a_file_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(UsageError, match=r"^envs/dev\.yaml: model: "):
        read_model(name, LLMS, None, OFFLINE, f"envs/dev.yaml: model: {name}")


def test_names_of_one_model_lead_to_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "mine", {"architectures": ["OfTomorrow"]}, {"model.safetensors": FIRST})
    monkeypatch.chdir(tmp_path)
    assert {locate_model(name, LLMS) for name in ("qwen3-8b", "Qwen3-8B", "Qwen/Qwen3-8B")} == {"Qwen/Qwen3-8B"}
    assert {locate_model(name, LLMS) for name in ("mine", "./mine", str(folder))} == {str(folder)}
    assert [locate_model(name, LLMS) for name in ("x" * 300, "~nobody-of-that-name/x")] == [
        "x" * 300,
        "~nobody-of-that-name/x",
    ]


@pytest.mark.parametrize(
    ("name", "heads"),
    [("qwen3-8b", (32, 8)), ("gemma-3-27b", (32, 16)), ("bge-m3", (16, 16)), ("smoke", (4, 2)), ("glm-5.1", (64, 64))],
)
def test_a_plan_knows_name_and_heads(name: str, heads: tuple[int, int]) -> None:
    facts = read_model(name, LLMS, None, OFFLINE)
    llm = name_llm(facts)
    assert (llm.name, llm.source, llm.location) == (facts.name, facts.source, facts.location)
    assert (llm.attention_heads, llm.kv_heads) == heads


@given(st.text(max_size=40))
def test_any_name_is_read_or_refused_in_one_sentence(name: str) -> None:
    try:
        read_model(name, LLMS[:3], None, OFFLINE)
    except UsageError as refused:
        assert refused.message.startswith(("--model ", "/"))


@pytest.mark.parametrize("row", LLMS, ids=lambda row: row.name)
def test_every_row_is_whole(row: CatalogLlm) -> None:
    text = text_config(row.config)
    assert row.checkpoints[0].hub_id == row.hub_id
    assert len({checkpoint.hub_id for checkpoint in row.checkpoints}) == len(row.checkpoints)
    for key in ("hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        assert isinstance(text[key], int), key
    assert row.attention_heads % row.kv_heads == 0 or row.kv_heads == 1
    assert row.source
    assert row.date
    assert re.fullmatch(r"[a-z0-9.-]+", row.name)
    assert row.released is None or re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", row.released)
    assert row.minimum_engine is None or re.fullmatch(r"\d+(\.\d+)+", row.minimum_engine)
    assert row.active_parameters is None or row.parameters is None or row.active_parameters < row.parameters
    for checkpoint in row.checkpoints:
        assert checkpoint.source
        assert checkpoint.date
        assert checkpoint.weight_bytes is None or checkpoint.weight_bytes > 0


def test_names_and_hub_ids_are_told_apart() -> None:
    names = [row.name for row in LLMS]
    ids = [checkpoint.hub_id for row in LLMS for checkpoint in row.checkpoints]
    assert len(set(names)) == len(names) >= 40
    assert len(set(ids)) == len(ids)


# Published figures that were not used to make the catalog: parameters of safetensors on the hub, as cards state them.
PUBLISHED = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-8b": 8_190_735_360,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters_agree_with_what_is_published(name: str, parameters: int) -> None:
    assert next(row for row in LLMS if row.name == name).parameters == parameters
