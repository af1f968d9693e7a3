"""What the gateway template shows. Pure."""

from __future__ import annotations

from generator.domain.plan import Plan


def url_variable(replica: str) -> str:
    """Return the variable that holds a replica's address: `engine-2` → `ENGINE_2_URL`. Both runtimes set it."""
    return replica.upper().replace("-", "_") + "_URL"


def gateway_context(plan: Plan) -> dict[str, object]:
    """Return the template's values. Replicas of one model share its name: LiteLLM makes a group of them."""
    return {
        "environment": plan.environment.value,
        "routing_strategy": plan.gateway.routing_strategy,
        "entries": [
            {
                "model": replica.model,
                "litellm_model": f"hosted_vllm/{replica.model}",
                "api_base": f"os.environ/{url_variable(replica.name)}",
            }
            for replica in plan.replicas
        ],
    }
