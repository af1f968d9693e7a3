"""Which models of the catalog a name means."""

from __future__ import annotations

import pytest
from stackwright.catalog.load import load_llms
from stackwright.models.known import find_named, known_names


@pytest.mark.parametrize(
    "name",
    [
        "qwen3-32b",
        "Qwen3-32B",
        "Qwen/Qwen3-32B",
        "qwen/qwen3-32b-awq",
        "Qwen3-32B-AWQ",
        "qwen3_32b",
        "Qwen3 32B",
        "https://huggingface.co/Qwen/Qwen3-32B",
        "https://huggingface.co/Qwen/Qwen3-32B/tree/main",
        "hf.co/Qwen/Qwen3-32B?library=vllm",
        " qwen3-32b ",
    ],
)
def test_a_model_by_any_of_its_names(name: str) -> None:
    assert [row.name for row in find_named(name, load_llms())] == ["qwen3-32b"]


def test_words_that_several_have_mean_all_of_them() -> None:
    found = [row.name for row in find_named("deepseek distill", load_llms())]
    assert found == ["deepseek-r1-distill-qwen-14b", "deepseek-r1-distill-llama-8b"]
    assert len(find_named("qwen", load_llms())) > 10
    assert "llama-3.1-8b" in [row.name for row in find_named("llama3", load_llms())]


@pytest.mark.parametrize(
    "name", ["", "  ", "/", "???", "no-such-model", "Qwen/Qwen3-32B-Base", "meta-llama/Llama-3.1-8B", "a/b/c", "é/ü"]
)
def test_nothing_means_no_model(name: str) -> None:
    assert find_named(name, load_llms()) == ()


def test_every_name_finds_its_own_model() -> None:
    for row in load_llms():
        for name in known_names([row]):
            assert row in find_named(name, load_llms())
