"""Models of a cloud as fallbacks: which ones can be asked with one key, and what they may stand in for. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from urllib.parse import urlsplit

from stackwright.domain.cloud import CloudModel
from stackwright.domain.plan import Plan
from stackwright.errors import UsageError

# LiteLLM 1.108.0, litellm_core_utils/get_llm_provider_logic.py (2026-11-29; asked: 1.105.3): those that take one key
# and bring an address of their own. Azure's `/openai/v1` and whatever else speaks OpenAI's protocol is `openai` with an
# address.
PROVIDERS = (
    *("anthropic", "cerebras", "cohere_chat", "dashscope", "deepinfra", "deepseek", "fireworks_ai", "gemini", "groq"),
    *("mistral", "moonshot", "nebius", "novita", "nvidia_nim", "openai", "openrouter", "perplexity", "sambanova"),
    *("scaleway", "together_ai", "xai"),
)
# Judgement: enough for a name, and no provider's key is as short; one that was pasted here is refused, not used as a
# name.
_KEY = re.compile(r"[a-z][a-z0-9_]{0,19}")
_MODEL = re.compile(r"[a-z_]+/[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
# What a person wrote there may be the key itself, or an address with one in it.
_HIDDEN = "found another value, not shown since it may hold a key"


def problem_with_cloud(cloud: CloudModel) -> tuple[str, str] | None:
    """Return the field of an entry that is wrong, and what was found there and is allowed; None where all is right."""
    if not _MODEL.fullmatch(cloud.model) or cloud.provider not in PROVIDERS:
        return "model", f"found {cloud.model[:80]!r}, allowed: PROVIDER/MODEL with one of {', '.join(PROVIDERS)}"
    if not _KEY.fullmatch(cloud.key):
        allowed = "a name for the key's file: at most 20 lower-case letters, digits and _, beginning with a letter"
        return "key", f"{_HIDDEN}, allowed: {allowed}"
    if cloud.address is not None and not _is_closed(cloud.address):
        allowed = "https://HOST/PATH, or http:// with a private IP address; no user, query or blank"
        return "address", f"{_HIDDEN}, allowed: {allowed}"
    return None


def check_cloud(plan: Plan) -> None:
    """Refuse models of a cloud that clients could not tell from others, or that stand in for none.

    Raises:
        UsageError: two models have one name, or one backs no model.
    """
    where = f"envs/{plan.environment.value}.yaml: gateway.cloud"
    taken = {name for model in plan.models for name in (model.name, *model.aliases)}
    asked = {name for fallback in plan.gateway.fallbacks for name in fallback.to}
    for cloud in plan.gateway.cloud:
        if cloud.name in taken:
            raise UsageError(
                f"{where}: two models have the name `{cloud.name[:80]}`", hint="give the cloud's model another `name`"
            )
        if cloud.name not in asked:
            raise UsageError(f"{where}: `{cloud.name[:80]}` is in no fallback list", hint=_how_to_ask(plan, cloud))
        taken.add(cloud.name)


def _how_to_ask(plan: Plan, cloud: CloudModel) -> str:
    """Return the line that makes a model of a cloud stand in for the first of ours, to be pasted. JSON is YAML."""
    first = plan.models[0]
    if not first.role.generates:
        return "remove it: there is no chat model here"
    chains = {fallback.model: list(fallback.to) for fallback in plan.gateway.fallbacks}
    chains.setdefault(first.name, []).append(cloud.name)
    return f"remove it, or add below `gateway:` the line `fallbacks: {json.dumps(chains, ensure_ascii=False)}`"


def _is_closed(address: str) -> bool:
    """Return whether a key may be sent there: over TLS, or inside a private network.

    The address itself holds no secret.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    plain = address.isascii() and address.isprintable() and " " not in address and len(address) <= 500
    if not plain or not host or "@" in parts.netloc or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_private(host))


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"
