"""What the gateway template shows. Pure."""

from __future__ import annotations

from stackwright.domain.plan import Plan, Replica
from stackwright.settings import slot_key

LIMITS = {
    "concurrent_requests": "GATEWAY_MAX_CONCURRENT_REQUESTS",
    "queued_requests": "GATEWAY_MAX_QUEUED_REQUESTS",
    "input_tokens": "GATEWAY_MAX_INPUT_TOKENS",
}
"""The limits of one model as compose/gateway/door.py names them, and the settings that carry them."""


def gateway_context(plan: Plan) -> dict[str, object]:
    """Return the template's values. Replicas of one model share its name: LiteLLM makes a group of them."""
    return {
        "environment": plan.environment.value,
        "entries": [
            {
                "model": replica.model,
                "litellm_model": f"hosted_vllm/{replica.model}",
                "api_base": f"os.environ/{replica.url_variable}",
                "mode": None if (role := plan.gateway.role_of(replica.model)).generates else role.value,
                "limits": _limits(plan, replica),
            }
            for replica in plan.replicas
        ],
        "cloud": [
            {"name": each.name, "model": each.model, "address": each.address, "key": f"os.environ/{each.secret}"}
            for each in plan.gateway.cloud
        ],
        "several_replicas": len(plan.replicas) > len({replica.model for replica in plan.replicas}),
        "fallbacks": [(each.model, each.to) for each in plan.gateway.fallbacks],
        "context_window_fallbacks": [(each.model, each.longer) for each in plan.gateway.fallbacks],
        "aliases": [(alias, group.model) for group in plan.gateway.groups for alias in group.aliases],
    }


def further_limits(plan: Plan) -> tuple[str, ...]:
    """Return the keys of the limits that the models after the first have of their own."""
    slots = range(2, len(plan.gateway.models) + 1)
    return tuple(own for slot in slots for key in LIMITS.values() if (own := slot_key(key, slot)) in plan.settings)


def _limits(plan: Plan, replica: Replica) -> dict[str, str]:
    slot = plan.gateway.slot_of(replica)
    own = {word: slot_key(key, slot) for word, key in LIMITS.items()}
    # Where another model takes a longer context, the longest input is that one's: LiteLLM hands it on.
    longer = next(
        (each.longer[0] for each in plan.gateway.fallbacks if each.model == replica.model and each.longer), None
    )
    if longer is not None:
        own["input_tokens"] = slot_key(LIMITS["input_tokens"], plan.gateway.models.index(longer) + 1)
    return {word: key if key in plan.settings else LIMITS[word] for word, key in own.items()}
