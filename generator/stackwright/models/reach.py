"""Ask a hub for one model, without downloading anything: is it in reach, is there such a model, may we have it.

Touches the network (`HF_ENDPOINT`, and the proxy that the environment names). One HEAD request for the model's
config.json
with the standard library: importing huggingface_hub takes longer than the whole of validation.
"""

from __future__ import annotations

import email.utils
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException

from stackwright.domain.machine import HubAnswer, Seen, Unseen

# huggingface_hub 2.4.0, constants.py: ENDPOINT.
DEFAULT_HUB = "https://huggingface.co"
TIMEOUT_S = 5.0


def ask_hub(hub_id: str, environment: Mapping[str, str], token: str | None) -> Seen[HubAnswer]:
    """Ask the hub that `HF_ENDPOINT` names; Unseen where it does not answer. The token goes nowhere else."""
    hub = (environment.get("HF_ENDPOINT") or DEFAULT_HUB).rstrip("/")
    if not hub.startswith(("http://", "https://")):
        return Unseen(why=f"HF_ENDPOINT is not an http URL: {hub[:80]}")
    url = f"{hub}/{urllib.parse.quote(hub_id)}/resolve/main/config.json"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=headers, method="HEAD")
        with urllib.request.build_opener(_Unredirected).open(request, timeout=TIMEOUT_S) as response:
            return _answer(hub, response.status, response.headers)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return _answer(hub, refusal.code, refusal.headers)
    except (OSError, HTTPException, ValueError) as failure:  # URLError is an OSError; ValueError: no such host name
        reason = getattr(failure, "reason", failure)
        words = getattr(reason, "strerror", None) or str(reason) or type(failure).__name__
        return Unseen(why=f"cannot reach {hub}: {words[:160]}")


class _Unredirected(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the answer that it is: the file exists, and the token stays with the hub."""

    def redirect_request(self, *_: object) -> None:
        """Follow nothing; urllib then raises the redirect as an HTTPError."""
        return


def _answer(hub: str, status: int, headers: Message) -> HubAnswer:
    # huggingface_hub 2.4.0, utils/_http.py, hf_raise_for_status: X-Error-Code tells a gated model from a missing one.
    code = headers.get("X-Error-Code", "")
    return HubAnswer(hub=hub, status=status, gated=code == "GatedRepo", ahead_s=_clock_difference(headers.get("Date")))


def _clock_difference(date: str | None) -> float | None:
    """Return how many seconds the server's clock is before this machine's; None without a readable date."""
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
