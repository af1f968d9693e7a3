"""What a client may not choose, by any way that LiteLLM would listen to: another model, another host, other limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from tests.integration.gateway.exchange import Answer, Ask, exchange
from tests.integration.gateway.front import MODEL, Front


def ask(front: Front, path: str, further: Mapping[str, object]) -> Answer:
    """Ask for a completion of our model."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "who are you?"}], **further}
    return asyncio.run(exchange(front.port, Ask(path=path, content=json.dumps(asked).encode(), key=front.key)))


@pytest.mark.parametrize("path", ["/v1/chat/completions?model=away", "/v1/chat/completions?api-version=1&model=x"])
def test_an_address_does_not_choose_the_model(fresh: Front, path: str) -> None:
    """LiteLLM takes a model from there before it takes the body's."""
    answer = ask(fresh, path, {})
    assert (answer.status, fresh.cloud.keys) == (200, [])
    assert json.loads(answer.body)["choices"][0]["message"]["content"].startswith("engine")


@pytest.mark.parametrize("word", ["silent_model", "model_info", "tags", "max_fallbacks", "_router_weights"])
def test_a_field_of_litellms_own_has_no_effect(fresh: Front, word: str) -> None:
    """`silent_model` would send a copy of the request to another model."""
    answer = ask(fresh, "/v1/chat/completions", {word: "away"})
    assert answer.status == 200
    assert fresh.ask()[0] == 200
    assert fresh.cloud.keys == []
