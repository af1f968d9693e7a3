"""Ask a hub for one model, without downloading anything: is it in reach, is there such a model, may we have it.

Touches the network (`HF_ENDPOINT`, and the proxy that the environment names). One HEAD request for the model's
config.json
with the standard library: importing huggingface_hub takes longer than the whole of validation.
"""

from __future__ import annotations

import email.utils
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from stackwright.domain.machine import HubAnswer, Seen, Unseen
from stackwright.models.outlook import ask_address

# huggingface_hub 2.4.0, constants.py: ENDPOINT.
DEFAULT_HUB = "https://huggingface.co"


def ask_hub(hub_id: str, environment: Mapping[str, str], token: str | None) -> Seen[HubAnswer]:
    """Ask the hub that `HF_ENDPOINT` names; Unseen where it does not answer. The token goes nowhere else."""
    hub = hub_of(environment)
    if not hub.startswith(("http://", "https://")):
        return Unseen(why=f"HF_ENDPOINT is not an http URL: {hub[:80]}")
    return read_answer(hub, ask_address(config_url(hub_id, environment), token, environment))


def hub_of(environment: Mapping[str, str]) -> str:
    """Return the hub's address."""
    return (environment.get("HF_ENDPOINT") or DEFAULT_HUB).rstrip("/")


def config_url(hub_id: str, environment: Mapping[str, str]) -> str:
    """Return the address of a model's config.json."""
    return f"{hub_of(environment)}/{urllib.parse.quote(hub_id)}/resolve/main/config.json"


def read_answer(hub: str, answer: Mapping[str, Any]) -> Seen[HubAnswer]:
    """Read what `ask_address` returned for a file of this hub."""
    if "why" in answer:
        return Unseen(why=f"cannot reach {hub}: {answer['why']}")
    # huggingface_hub 2.4.0, utils/_http.py, hf_raise_for_status: X-Error-Code tells a gated model from a missing one.
    is_gated = answer["code"] == "GatedRepo"
    return HubAnswer(hub=hub, status=answer["status"], gated=is_gated, ahead_s=_clock_difference(answer["date"]))


def _clock_difference(date: str | None) -> float | None:
    """Return how many seconds the server's clock is before this machine's; None without a readable date."""
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
