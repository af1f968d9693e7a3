"""What the gateway template shows. Pure."""

from __future__ import annotations

from stackwright.domain.catalog import order_release
from stackwright.domain.plan import Plan, ServedModel
from stackwright.domain.role import Role
from stackwright.domain.service import SettingRef
from stackwright.engines import engine_named
from stackwright.rendering.numbered import key_of
from stackwright.services.gateway import LIMITS

_TEXT = frozenset("chat/completions completions responses messages messages/count_tokens".split())
# Vectors are ranked by their likeness, too.
ENDPOINTS = {
    role: _TEXT if role.generates else frozenset({"embeddings", "rerank"} if role is Role.EMBEDDING else {"rerank"})
    for role in Role
}


def gateway_context(plan: Plan) -> dict[str, object]:
    """Return the template's values. Replicas of one model share its name: LiteLLM makes a group of them."""
    return {
        "environment": plan.environment.value,
        "entries": [
            {
                "model": name,
                "base": None if name == model.name else model.name,
                "litellm_model": f"{engine_named(model.engine.name).gateway_prefix}/{name}",
                "api_base": f"os.environ/{replica.url_variable}",
                "mode": None if model.role.generates else model.role.value,
                "direct": _direct(plan, model),
                "limits": _limits(plan, model),
            }
            for model in plan.models
            for name in (model.name, *(adapter.name for adapter in model.attached.adapters))
            for replica in model.replicas
        ],
        "cloud": [
            {"name": cloud.name, "model": cloud.model, "address": cloud.address, "key": f"os.environ/{cloud.secret}"}
            for cloud in plan.gateway.cloud
        ],
        "several_replicas": len(plan.replicas) > len({replica.model for replica in plan.replicas}),
        "fallbacks": [(fallback.model, fallback.to) for fallback in plan.gateway.fallbacks],
        "context_window_fallbacks": [(fallback.model, fallback.longer) for fallback in plan.gateway.fallbacks],
        "aliases": [(alias, model.name) for model in plan.models for alias in model.aliases],
    }


def _direct(plan: Plan, model: ServedModel) -> list[str]:
    """Return the endpoints of a model's role that the planned release of its engine answers itself."""
    release = order_release(plan.engine.version)
    endpoints = engine_named(model.engine.name).endpoints
    own = [name for name in endpoints if name in ENDPOINTS[model.role]]
    return [name for name in own if release >= order_release(endpoints[name])]


def _limits(plan: Plan, model: ServedModel) -> dict[str, str]:
    # Where another model takes a longer context, the longest input is that one's: LiteLLM hands it on.
    chains = (fallback.longer for fallback in plan.gateway.fallbacks if fallback.model == model.name)
    longer = next((chain[0] for chain in chains if chain), None)
    whose = {"input_tokens": longer or model.name}
    return {word: key_of(plan, SettingRef(key=key, model=whose.get(word, model.name))) for word, key in LIMITS.items()}
