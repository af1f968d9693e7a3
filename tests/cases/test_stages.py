"""Pipeline stages only for models whose classes can be split so: the engine refuses the others before it loads weights.

`NotImplementedError: Pipeline parallelism is not supported for this model` (vllm-project/vllm#52069 and many before).
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.plan import Mode, Replica
from stackwright.engines.protocol import EngineNeeds
from stackwright.errors import NoPlanError
from stackwright.planning.planner import make_plan

from tests.planning_requests import recorded, request, with_model


def replica(architecture: str, release: str = "0.33.0", **pins: str) -> Replica:
    """Plan a model that needs two GPUs, without NVLink between them."""
    asked = request(recorded("2x-rtx4090"), mode=Mode.MULTI, model="Qwen/Qwen3-14B", pins=pins)
    facts = asked.models[0].facts
    facts = replace(facts, config=replace(facts.config, architecture=architecture))
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


def test_pinned_stages_of_such_a_model_are_refused() -> None:
    with pytest.raises(NoPlanError, match="cannot split this model into pipeline stages") as refused:
        replica("Phi4MMForCausalLM", VLLM_PIPELINE_PARALLEL_SIZE="2")
    assert refused.value.hint is not None
