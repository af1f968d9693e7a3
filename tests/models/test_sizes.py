"""Sizes of the catalog's checkpoints: none is unknown, and what was computed is what the planner computes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.engines import default_engine
from stackwright.models.stored import stored_facts

LLMS = load_catalog().llms()
COMPUTED = [(row, checkpoint) for row in LLMS for checkpoint in row.checkpoints if checkpoint.computed]


def test_every_checkpoint_has_a_size() -> None:
    assert [checkpoint.hub_id for row in LLMS for checkpoint in row.checkpoints if not checkpoint.weight_bytes] == []


@pytest.mark.parametrize(("row", "checkpoint"), COMPUTED, ids=[checkpoint.hub_id for _, checkpoint in COMPUTED])
def test_a_computed_size_is_the_planner_s_own(row: CatalogLlm, checkpoint: Checkpoint) -> None:
    """So that none is left behind by a change of either; a forecast doubts it as it would without the figure."""
    facts = stored_facts(row, checkpoint)
    assert checkpoint.weight_bytes == default_engine().parameter_bytes(facts.config.shape)
    assert checkpoint.source.startswith("computed from config.json")
    assert facts.weights.weight_bytes is None


def test_a_computed_size_is_told_from_a_published_one() -> None:
    _, computed = COMPUTED[0]
    assert computed.size.startswith("about ")
    assert replace(computed, computed=False).size == computed.size.removeprefix("about ")
    assert replace(computed, weight_bytes=None).size == "size unknown"
