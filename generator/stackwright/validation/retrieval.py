"""Retrieval: a model whose vectors documents can be found by."""

from __future__ import annotations

from collections.abc import Iterator

from stackwright.domain.finding import Finding, error
from stackwright.domain.plan import Plan
from stackwright.services.retrieval import ADDITION, embedding_model
from stackwright.validation.check import Check


def check_models(plan: Plan) -> Iterator[Finding]:
    """Check that documents can get vectors; nothing where retrieval is not wished for."""
    if ADDITION.name in plan.additions and embedding_model(plan) is None:
        name, models = plan.environment.value, " ".join(f"--model {model.name}" for model in plan.models)
        yield error(
            "retrieval-model",
            found="retrieval is on, and no model gives vectors",
            expected="an embedding model beside the others",
            fix=f"`configure-gpu {name} {models} --model BAAI/bge-m3`, or `--without retrieval`;"
            " see docs/how-to/retrieval.md",
        )


MODELS = Check(
    name="retrieval",
    about="an embedding model, where retrieval is on",
    findings=("retrieval-model",),
    rule=lambda on: check_models(on.plan),
)
