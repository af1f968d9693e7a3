"""From where an engine may fetch the pictures, films and sounds that a request names by address. Pure.

Left to itself vLLM fetches whatever address a client names, and follows redirects (0.32.0
multimodal/media/connector.py). The engine stands inside the network, beside services that ask for no key. So it fetches
nothing, unless a person names a host: clients send `data:` URLs.
"""

from __future__ import annotations

from stackwright.domain.plan import Setting
from stackwright.engines.protocol import EngineTask

# No list of hosts means every host to vLLM, so the list holds one that never is: RFC 2606, 2, reserves `.invalid`.
NOWHERE = "nowhere.invalid"
# The first with `--allowed-media-domains` (catalog/flags.yaml).
MEDIA_RELEASE = "0.11.0"


def media_settings(task: EngineTask) -> dict[str, Setting]:
    """Return from where the engine may fetch; nothing for a model that only reads text, which fetches nothing."""
    if not task.facts.config.takes_media:
        return {}
    why = "image URLs are not fetched; send `data:` URLs or allow a host"
    return {"VLLM_ALLOWED_MEDIA_DOMAINS": Setting(value=NOWHERE, reason=why, source="docs/decisions/0037-pictures.md")}
