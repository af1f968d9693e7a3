"""What the gateway template shows. Pure."""

from __future__ import annotations

from generator.domain.plan import Plan


def gateway_context(plan: Plan) -> dict[str, object]:
    """Return the template's values. Replicas of one model share its name: LiteLLM makes a group of them."""
    return {
        "environment": plan.environment.value,
        "routing_strategy": plan.gateway.routing_strategy,
        "entries": [
            {
                "model": replica.model,
                "litellm_model": f"hosted_vllm/{replica.model}",
                "api_base": f"os.environ/{replica.url_variable}",
            }
            for replica in plan.replicas
        ],
    }
