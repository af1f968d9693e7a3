"""What a model can be asked for, and what is refused before an engine starts."""

from __future__ import annotations

import pytest
from stackwright.catalog.load import load_catalog
from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.role import Role
from stackwright.engines.vllm.arguments import check_role, role_of
from stackwright.errors import NoPlanError
from stackwright.models.config import parse_config

ABLE = {
    "Qwen3ForCausalLM": {Role.CHAT, Role.EMBEDDING},
    "BertModel": {Role.EMBEDDING},
    "XLMRobertaForSequenceClassification": {Role.RERANK},
}


def facts(architecture: str, role: Role | None = None, **config: object) -> ModelFacts:
    """Return the facts of a model of an architecture."""
    return ModelFacts(
        name="a-model",
        source=LlmSource.DIRECTORY,
        location="/a-model",
        config=parse_config({"architectures": [architecture], **config}),
        tensors=None,
        weight_bytes=None,
        gated=None,
        minimum_engine=None,
        role=role,
    )


def is_able(model: ModelFacts, role: Role) -> bool:
    """Say whether a model may be asked for something."""
    try:
        check_role(model, role, load_catalog())
    except NoPlanError:
        return False
    return True


@pytest.mark.parametrize("architecture", ABLE)
def test_each_architecture_has_its_roles(architecture: str) -> None:
    assert {role for role in Role if is_able(facts(architecture), role)} == ABLE[architecture]


def test_a_model_that_sees_writes_too() -> None:
    seeing = facts("Qwen3VLForConditionalGeneration", vision_config={})
    assert role_of(seeing.config, load_catalog()) is Role.VISION
    assert {role for role in Role if is_able(seeing, role)} == {Role.CHAT, Role.VISION, Role.EMBEDDING}


@pytest.mark.parametrize(("labels", "able"), [({"0": "fits"}, True), ({"0": "no", "1": "yes"}, False)])
def test_ranks_need_one_score(labels: dict[str, str], able: bool) -> None:
    assert is_able(facts("BertForSequenceClassification", id2label=labels), Role.RERANK) is able


def test_a_ranker_without_a_layer_for_scores_is_refused_in_words() -> None:
    with pytest.raises(NoPlanError) as refused:
        check_role(facts("Qwen3ForCausalLM", Role.RERANK), Role.RERANK, load_catalog())
    assert refused.value.message == (
        "a-model cannot be served for rerank: its architecture is Qwen3ForCausalLM; vLLM needs "
        "cross-encoders, …ForSequenceClassification with one score"
    )
    assert refused.value.hint is not None
    assert "; or name another model, such as BAAI/bge-reranker-v2-m3, or another role" in refused.value.hint
