"""What `--hf-overrides` makes of a model: its architecture, and how many scores it gives to a text. Pure.

Rerankers are published as chat models, and rank by the odds of a word; vLLM makes a layer for scores of that word's row
of the output matrix (0.32.0 model_executor/models/adapters.py:415-445 and models/config.py:826-847; read 2026-11-30).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from msgspec.structs import replace

from stackwright.domain.arguments import key_of_flag
from stackwright.domain.model_facts import ModelConfig, ModelFacts
from stackwright.engines.vllm.settings import ARGUMENT_PREFIX
from stackwright.models.config import architecture_of

OVERRIDES = key_of_flag("--hf-overrides", ARGUMENT_PREFIX)
_QWEN = {"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": True}
# The overrides that vLLM documents, by the architecture that config.json names (docs/models/pooling_models/scoring.md
# and examples/pooling/score; read 2026-11-30).
_RERANKERS: Mapping[str, Mapping[str, object]] = {
    "Qwen3ForCausalLM": {"architectures": ["Qwen3ForSequenceClassification"], **_QWEN},
    "Qwen3VLForConditionalGeneration": {"architectures": ["Qwen3VLForSequenceClassification"], **_QWEN},
    "Qwen2ForCausalLM": {
        "architectures": ["Qwen2ForSequenceClassification"],
        "classifier_from_token": ["0", "1"],
        "method": "from_2_way_softmax",
    },
    "GemmaForCausalLM": {
        "architectures": ["GemmaForSequenceClassification"],
        "classifier_from_token": ["Yes"],
        "method": "no_post_processing",
    },
}


def overridden(facts: ModelFacts, pins: Mapping[str, str]) -> ModelFacts:
    """Return a model as the overrides among the pins have it; one that they name otherwise has no role of its own."""
    given = _read(pins.get(OVERRIDES, ""))
    architecture = architecture_of(given) or facts.config.architecture
    config = replace(
        facts.config,
        architecture=architecture,
        shape=replace(facts.config.shape, architecture=architecture),
        scores=_scores(given, facts.config),
    )
    renamed = architecture != facts.config.architecture
    return replace(facts, config=config, role=None if renamed else facts.role)


def ranking_overrides(architecture: str) -> str | None:
    """Return the overrides that make a reranker of a chat model of an architecture; None where none are documented."""
    known = _RERANKERS.get(architecture)
    return json.dumps(known, separators=(",", ":")) if known else None


def _read(text: str) -> Mapping[str, object]:
    """Read the JSON of the overrides; what cannot be read changes nothing, and is the engine's to refuse."""
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _scores(given: Mapping[str, object], config: ModelConfig) -> int:
    words, method = given.get("classifier_from_token"), given.get("method")
    if isinstance(words, list):
        compared = method == "from_2_way_softmax" or given.get("is_original_qwen3_reranker") is True
        return 1 if compared else len(words)
    labels = given.get("num_labels")
    return labels if isinstance(labels, int) else config.scores
