"""Which release serves a model's architecture, and in which role, as its registry has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_architectures, load_catalog, load_llms
from stackwright.commands.fit import FitArguments, answer_fit
from stackwright.domain.forecast import EngineSettings
from stackwright.domain.plan import Plan
from stackwright.domain.role import Role
from stackwright.engines.protocol import EngineNeeds
from stackwright.engines.vllm.arguments import role_of
from stackwright.errors import NoPlanError
from stackwright.models.config import architecture_of, parse_config
from stackwright.planning.planner import make_plan

from tests.cases.test_formats import CONFIG, WEIGHT
from tests.models.checkpoints import write_model
from tests.planning_requests import recorded, request


def folder_of(folder: Path, architecture: str) -> Path:
    """Write a toy model of an architecture."""
    return write_model(folder / "mine", {**CONFIG, "architectures": [architecture]}, {"model.safetensors": [WEIGHT]})


def plan_of(folder: Path, architecture: str, exact: str | None = None) -> Plan:
    """Plan a toy model of an architecture on two RTX 3090."""
    asked = request(recorded("2x-rtx3090-nvlink"), model=str(folder_of(folder, architecture)))
    needs = EngineNeeds(exact=exact, allow_vulnerable=exact is not None)
    return make_plan(replace(asked, needs=needs), load_catalog())


def test_a_dropped_architecture_takes_the_last_release_that_has_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "BaichuanForCausalLM")
    assert plan.engine.version == "0.24.0"  # vLLM's own hint names 0.23.0, but 0.24.0 still has it
    reason = plan.models[0].settings["VLLM_IMAGE"].reason
    assert "vllm dropped the architecture of mine after 0.24.0" in reason


@pytest.mark.parametrize(
    ("architecture", "exact", "message"),
    [
        (
            "BaichuanForCausalLM",
            "0.33.0",
            "vllm 0.33.0 no longer serves the architecture of mine; the last release that does is 0.24.0",
        ),
        ("AliceAIForCausalLM", "0.32.0", "mine needs vllm 0.33.0 or newer, but 0.32.0 was requested"),
    ],
)
def test_a_release_that_does_not_have_it_is_refused_by_plan_and_fit(
    tmp_path: Path, architecture: str, exact: str, message: str
) -> None:
    with pytest.raises(NoPlanError) as refused:
        plan_of(tmp_path, architecture, exact)
    assert refused.value.message == message
    asked = FitArguments(
        model=str(tmp_path / "mine"), settings=EngineSettings(), host=None, engine=f"vllm=={exact}", json=False
    )
    with pytest.raises(NoPlanError, match="mine"):
        answer_fit(asked, recorded("2x-rtx3090-nvlink"))


def test_an_architecture_of_no_registry_is_warned_of(tmp_path: Path) -> None:
    warnings = plan_of(tmp_path, "TomorrowForCausalLM").warnings
    assert any("no known vllm release lists the architecture TomorrowForCausalLM" in text for text in warnings)
    # What another head is put on is listed.
    assert not any(
        "lists the architecture" in text for text in plan_of(tmp_path, "OPTForConditionalGeneration").warnings
    )


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("Eagle3LlamaForCausalLM", "a draft model, which writes ahead for another one"),
        ("Qwen2ForRewardModel", "a classifier"),
    ],
)
def test_what_users_cannot_be_given_is_refused_by_the_registry(tmp_path: Path, architecture: str, what: str) -> None:
    with pytest.raises(NoPlanError) as refused:
        plan_of(tmp_path, architecture)
    assert refused.value.message == f"mine ({architecture}) is {what}: such models are not served"


@pytest.mark.parametrize(
    ("architecture", "further", "role"),
    [
        ("MolmoForCausalLM", {"vision_backbone": {}}, Role.VISION),
        ("Qwen2AudioForConditionalGeneration", {"audio_config": {}}, Role.CHAT),
        ("FunASRForConditionalGeneration", {"audio_config": {}}, Role.TRANSCRIPTION),
        ("BgeM3EmbeddingModel", {}, Role.EMBEDDING),
        ("CLIPModel", {"vision_config": {}}, Role.EMBEDDING),
        ("Qwen2ForSequenceClassification", {}, Role.RERANK),
    ],
)
def test_roles_are_those_of_the_registry(architecture: str, further: dict[str, object], role: Role) -> None:
    config = parse_config({**CONFIG, "architectures": [architecture], **further})
    assert role_of(config, load_catalog()) is role


def test_the_catalogs_models_are_not_older_than_their_architecture() -> None:
    table = load_architectures()
    for row in load_llms():
        span = table.releases(architecture_of(row.config))
        assert span is not None, row.name
        assert span[1] is None, row.name
        if row.minimum_engine and row.minimum_engine in table.sampled:
            assert table.serves(architecture_of(row.config), row.minimum_engine), row.name
