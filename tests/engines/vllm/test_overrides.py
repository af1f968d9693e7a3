"""Chat models that `--hf-overrides` makes rerankers of (vllm-project/vllm#19260)."""

from __future__ import annotations

import json

import pytest
from stackwright.catalog.load import load_catalog
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.role import Role
from stackwright.engines.vllm.arguments import check_role, role_of
from stackwright.engines.vllm.overrides import OVERRIDES, overridden, ranking_overrides
from stackwright.errors import NoPlanError

from tests.engines.vllm.test_roles import facts, is_able

BY_WORDS = {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"]}


def with_overrides(model: ModelFacts, **given: object) -> ModelFacts:
    """Return a model with these overrides given."""
    return overridden(model, {OVERRIDES: json.dumps(given)})


@pytest.mark.parametrize(
    ("given", "able"),
    [
        ({**BY_WORDS, "is_original_qwen3_reranker": True}, True),
        ({**BY_WORDS, "method": "from_2_way_softmax"}, True),
        ({**BY_WORDS, "method": "no_post_processing"}, False),
        ({"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1}, True),
        ({"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 2}, False),
        ({"rope_theta": 1000000}, False),
        ({"architectures": "Qwen3ForSequenceClassification"}, False),
    ],
)
@pytest.mark.parametrize("role", [Role.RERANK, Role.CHAT, None])
def test_overrides_count_when_a_role_is_checked(given: dict[str, object], able: bool, role: Role | None) -> None:
    assert is_able(with_overrides(facts("Qwen3ForCausalLM", role), **given), Role.RERANK) is able


def test_a_model_of_another_architecture_has_its_role_and_its_shape() -> None:
    model = with_overrides(facts("Qwen3ForCausalLM", Role.CHAT), **BY_WORDS)
    assert (model.role, role_of(model.config, load_catalog())) == (None, Role.RERANK)
    assert model.config.shape.architecture == "Qwen3ForSequenceClassification"


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_overrides_that_say_nothing_change_nothing(text: str) -> None:
    model = facts("Qwen3ForCausalLM", Role.CHAT)
    assert overridden(model, {OVERRIDES: text}) == model


@pytest.mark.parametrize(
    "architecture",
    ["Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration", "Qwen2ForCausalLM", "GemmaForCausalLM"],
)
def test_the_hint_names_overrides_with_which_it_ranks(architecture: str) -> None:
    given = ranking_overrides(architecture)
    assert given is not None
    with pytest.raises(NoPlanError) as refused:
        check_role(facts(architecture, Role.RERANK), Role.RERANK, load_catalog())
    assert f"`--arg='--hf-overrides={given}'`" in (refused.value.hint or "")
    assert is_able(overridden(facts(architecture, Role.RERANK), {OVERRIDES: given}), Role.RERANK)


def test_no_overrides_are_named_where_none_are_documented() -> None:
    with pytest.raises(NoPlanError) as refused:
        check_role(facts("BertModel"), Role.RERANK, load_catalog())
    assert "--hf-overrides" not in (refused.value.hint or "")


@pytest.mark.parametrize("architecture", ["Qwen2ForSequenceClassification", "Qwen3ForSequenceClassification"])
def test_what_left_the_registry_is_made_from_what_is_in_it(architecture: str) -> None:
    table = load_catalog().architectures()
    assert [table.serves(architecture, version) for version in ("0.9.2", "0.33.0")] == [True, True]
    assert table.releases("GPT2ForSequenceClassification") == ("0.9.2", None)
    assert table.serves("Phi3SmallForCausalLM", "0.33.0") is False
