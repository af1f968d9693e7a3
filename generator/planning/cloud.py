"""Models of a cloud as fallbacks: which ones can be asked with one key, and what they may stand in for. Pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from generator.domain.cloud import CloudModel
from generator.domain.plan import Plan
from generator.errors import NoPlanError

# LiteLLM 1.105.3, litellm_core_utils/get_llm_provider_logic.py, read and asked on 2026-11-21: those that take one key and
# bring an address of their own. Azure's `/openai/v1` and whatever else speaks OpenAI's protocol is `openai` with an address.
PROVIDERS = (
    *("anthropic", "cerebras", "cohere_chat", "dashscope", "deepinfra", "deepseek", "fireworks_ai", "gemini", "groq"),
    *("mistral", "moonshot", "nebius", "novita", "nvidia_nim", "openai", "openrouter", "perplexity", "sambanova"),
    *("scaleway", "together_ai", "xai"),
)
_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MODEL = re.compile(r"[a-z_]+/[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")


def problem_with_cloud(cloud: CloudModel) -> tuple[str, str, str] | None:
    """Return the field of an entry that is wrong, what was found there and what is allowed; None where all is right."""
    if not _MODEL.fullmatch(cloud.model) or cloud.provider not in PROVIDERS:
        return "model", cloud.model, f"PROVIDER/MODEL with one of {', '.join(PROVIDERS)}"
    if not _KEY.fullmatch(cloud.key):
        return "key", cloud.key, "the key's name: lower-case letters, digits and _, beginning with a letter"
    if cloud.address is not None and not _is_closed(cloud.address):
        # What stands there may be a key that somebody put into the address.
        return "address", "another", "https://HOST/PATH, or http:// with a private IP address; no user, query or blank"
    return None


def check_cloud(plan: Plan, clouds: tuple[CloudModel, ...]) -> None:
    """Refuse models of a cloud that clients could not tell from others, or that stand in for none.

    Raises:
        NoPlanError: two models have one name, or one backs no model.
    """
    taken = {name for group in plan.gateway.groups for name in (group.model, *group.aliases)}
    asked = {name for each in plan.gateway.fallbacks for name in each.to}
    for cloud in clouds:
        if cloud.name in taken:
            raise NoPlanError(
                f"gateway.cloud: two models answer to `{cloud.name[:80]}`", hint="give the cloud's another `name`"
            )
        if cloud.name not in asked:
            raise NoPlanError(
                f"gateway.cloud: `{cloud.name[:80]}` stands in for no model",
                hint=f"write `gateway.fallbacks: {{{plan.gateway.models[0]}: [{cloud.name[:80]}]}}`, or leave it out",
            )
        taken.add(cloud.name)


def _is_closed(address: str) -> bool:
    """Say whether a key may be sent there: over TLS, or inside a private network. The address itself holds no secret."""
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
