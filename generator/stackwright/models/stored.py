"""What the catalog alone tells of a published checkpoint, as the planner takes a model. Pure."""

from __future__ import annotations

from stackwright.domain.llm import Llm, LlmSource
from stackwright.domain.model_facts import CatalogLlm, Checkpoint, ModelFacts
from stackwright.models.checkpoint import checkpoint_config
from stackwright.models.config import parse_config


def stored_facts(row: CatalogLlm, checkpoint: Checkpoint) -> ModelFacts:
    """Return the facts of a checkpoint without reading it: its assumed configuration and published size."""
    return ModelFacts(
        name=checkpoint.hub_id,
        source=LlmSource.HUB,
        location=checkpoint.hub_id,
        config=parse_config(checkpoint_config(row, checkpoint)),
        tensors=None,
        weight_bytes=checkpoint.weight_bytes,
        computed=checkpoint.computed,
        gated=checkpoint.gated,
        minimum_engine=row.minimum_engine,
        format=checkpoint.format,
        role=row.role,
        tool_call_parser=row.tool_call_parser,
        reasoning_parser=row.reasoning_parser,
        notes=row.notes,
    )


def name_llm(facts: ModelFacts) -> Llm:
    """Return the name, location and head counts of a model, as a plan carries them."""
    return Llm(
        name=facts.name,
        source=facts.source,
        location=facts.location,
        attention_heads=facts.config.attention_heads,
        kv_heads=facts.config.kv_heads,
    )
