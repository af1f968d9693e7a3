"""A service that asks in the name of a key: through the real gateway that key's limits hold, and it is counted."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from stackwright.domain.access_key import Rights
from stackwright.project.access_keys import add_key
from stackwright.project.key_usage import read_usage

from tests.integration.gateway.front import LOOK_S, MODEL, Front, until


def ask(front: Front, key: str, name: str) -> tuple[int, str]:
    """Ask for a completion in the name of a key; return the status and the answer."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Who are you?"}]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "X-Stackwright-For": name}
    address = f"http://127.0.0.1:{front.port}/v1/chat/completions"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def test_what_a_service_asks_counts_for_the_key_that_it_names(fresh: Front) -> None:
    paths = fresh.stack.paths
    anna = add_key(paths, "anna", Rights(requests_per_minute=0, tokens_per_day=1)).text
    service = add_key(paths, "multimodal", Rights(acts_for=True, requests_per_minute=0)).text
    until(lambda: ask(fresh, service, "anna")[0] == 200, LOOK_S)

    until(lambda: ask(fresh, service, "anna")[0] == 429, LOOK_S)
    assert "the key `anna` has used its 1 tokens a day" in ask(fresh, service, "anna")[1]
    status, told = ask(fresh, anna, "multimodal")
    assert (status, "`anna` may not ask in the name of another" in told) == (403, True)
    assert {row.key for row in read_usage(paths, days=1)} == {"anna"}
