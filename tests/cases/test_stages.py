"""Pipeline stages only for models whose classes can be split so: the engine refuses the others before it loads weights.

`NotImplementedError: Pipeline parallelism is not supported for this model` (vllm-project/vllm#52069 and many before).
"""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.plan import Mode, Replica
from stackwright.engines.protocol import EngineNeeds
from stackwright.errors import NoPlanError
from stackwright.models.config import parse_config
from stackwright.planning.planner import make_plan

from tests.planning_requests import recorded, request, with_model


def replica(architecture: str, release: str = "0.33.0", **pins: str) -> Replica:
    """Plan a model that needs two GPUs, without NVLink between them."""
    return replica_with((), architecture, release, **pins)


def replica_with(fields: tuple[str, ...], architecture: str, release: str = "0.33.0", **pins: str) -> Replica:
    """Plan it, where these fields of its config.json hold something."""
    asked = request(recorded("2x-rtx4090"), mode=Mode.MULTI, model="Qwen/Qwen3-14B", pins=pins)
    facts = asked.models[0].facts
    facts = replace(facts, config=replace(facts.config, architecture=architecture, fields=frozenset(fields)))
    return make_plan(
        replace(with_model(asked, facts=facts), needs=EngineNeeds(exact=release)), load_catalog()
    ).replicas[0]


@pytest.mark.parametrize(
    ("architecture", "release", "sizes"),
    [
        ("Qwen3ForCausalLM", "0.33.0", (1, 2)),
        ("Phi4MMForCausalLM", "0.33.0", (2, 1)),
        ("MiniMaxM3SparseForCausalLM", "0.24.0", (2, 1)),
        ("MiniMaxM3SparseForCausalLM", "0.25.0", (1, 2)),
    ],
)
def test_a_model_is_split_as_its_classes_can_be(architecture: str, release: str, sizes: tuple[int, int]) -> None:
    made = replica(architecture, release)
    assert (made.tensor_parallel, made.pipeline_parallel) == sizes


@pytest.mark.parametrize(("fields", "sizes"), [((), (1, 2)), (("ple_layer_ids",), (2, 1))])
def test_a_field_of_the_configuration_may_rule_stages_out(fields: tuple[str, ...], sizes: tuple[int, int]) -> None:
    """`N-gram PLE embedding requires pipeline_parallel_size=1` (vllm-project/vllm#55515)."""
    made = replica_with(fields, "Qwen4ExpForConditionalGeneration", "0.32.0")
    assert (made.tensor_parallel, made.pipeline_parallel) == sizes


def test_a_field_that_holds_nothing_is_none() -> None:
    text = {"ple_layer_ids": [], "ngram_size": 3}
    assert parse_config({"model_type": "qwen4_exp", "text_config": text}).fields >= {"model_type", "ngram_size"}
    assert "ple_layer_ids" not in parse_config({"text_config": text}).fields
    assert "ple_layer_ids" in parse_config({"text_config": {**text, "ple_layer_ids": [2]}}).fields


def test_pinned_stages_of_such_a_model_are_refused() -> None:
    with pytest.raises(NoPlanError, match="cannot split this model into pipeline stages") as refused:
        replica("Phi4MMForCausalLM", VLLM_PIPELINE_PARALLEL_SIZE="2")
    assert refused.value.hint is not None


@pytest.mark.parametrize(
    ("method", "release", "fits"),
    [
        ("eagle3", "0.29.0", False),
        ("dflash", "0.29.0", False),
        ("eagle3", "0.30.0", True),
        ("ngram", "0.29.0", True),
    ],
)
def test_a_drafter_that_reads_layers_needs_stages_that_hand_them_on(method: str, release: str, *, fits: bool) -> None:
    """`eagle3 with pipeline parallel is not supported`, said after the weights of a rank are to be loaded."""
    pins = {"VLLM_SPECULATIVE_CONFIG": json.dumps({"method": method, "num_speculative_tokens": 2})}
    stages = {"VLLM_TENSOR_PARALLEL_SIZE": "1", "VLLM_PIPELINE_PARALLEL_SIZE": "2"}
    if fits:
        assert replica("Qwen3ForCausalLM", release, **pins, **stages).pipeline_parallel == 2
        return
    with pytest.raises(NoPlanError, match=f"{method}, which vLLM {release} refuses with 2 pipeline stages"):
        replica("Qwen3ForCausalLM", release, **pins, **stages)
    assert replica("Qwen3ForCausalLM", release, **pins).tensor_parallel == 2
