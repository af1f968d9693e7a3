"""Ask the gateway, as a client would. Touches the network on this machine only."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass

# The first request after a start may compile kernels; vLLM's own clients wait this long.
ANSWER_TIMEOUT_S = 300
MOST_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back: `status` None when nothing of use did, `text` the completion or the error's words."""

    status: int | None
    text: str

    @property
    def ok(self) -> bool:
        """Whether a completion came back."""
        return self.status == 200


def base_url(bind: str, port: int) -> str:
    """Return the gateway's address for a client on this machine; 0.0.0.0 listens everywhere, loopback included."""
    return f"http://{'127.0.0.1' if bind == '0.0.0.0' else bind}:{port}"


def complete(url: str, key: str, model: str) -> Answer:
    """Ask `model` for a short chat completion, or a plain one where it has no chat template."""
    chat = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    answer = _post(f"{url}/v1/chat/completions", key, chat)
    if answer.status == 400 and "chat template" in answer.text:
        answer = _post(f"{url}/v1/completions", key, {"model": model, "prompt": "Hello", "max_tokens": 8})
    return answer


def _post(url: str, key: str, body: dict[str, object]) -> Answer:
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    # A proxy from the environment must not be asked for an address of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(request, timeout=ANSWER_TIMEOUT_S) as response:
            return _completion(response.status, response.read(MOST_BYTES))
    except urllib.error.HTTPError as failure:
        return Answer(status=failure.code, text=_words(failure))
    except (OSError, http.client.HTTPException) as failure:
        return Answer(status=None, text=str(failure) or type(failure).__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for an answer: the key is for this gateway alone."""

    def redirect_request(self, *_: object) -> None:
        """Ask nowhere else."""


def _words(refusal: urllib.error.HTTPError) -> str:
    try:
        return refusal.read(MOST_BYTES).decode(errors="replace")[:500]
    except (OSError, http.client.HTTPException):
        return "(cut off)"


def _completion(status: int, body: bytes) -> Answer:
    """Take the completion's text out of a reply. A 200 without one, such as a proxy's page, is no answer."""
    try:
        choice = json.loads(body)["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return Answer(status=None, text=f"a reply that is no completion: {body[:200].decode(errors='replace')}")
    # A model that thinks first may have come to no word of its answer yet.
    return Answer(status=status, text=str(text or ""))
