"""What the gateway reads of LiteLLM's configuration: who waits in whose queue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from admission import RefusedError
from models import Models

LIMITS = {"concurrent_requests": 1, "queued_requests": 0}


def entry(name: str, base: str | None = None) -> dict[str, Any]:
    """Return a model as gateway.yaml has it; an adapter names its base, and has its limits written beside it."""
    info = {"id": name, "mode": "chat", "direct": ["chat/completions"], "limits": LIMITS}
    parameters = {"model": f"hosted_vllm/{name}", "api_base": "http://engine:8000/v1", "api_key": "key"}
    return {
        "model_name": name,
        "litellm_params": parameters,
        "model_info": info if base is None else {**info, "base": base},
    }


def read(folder: Path, *entries: dict[str, Any]) -> Models:
    """Return the models of a gateway that has these."""
    router = SimpleNamespace(model_list=list(entries), model_group_alias={}, fallbacks=[], context_window_fallbacks=[])
    return Models(router, str(folder / "slots"))


def enter(models: Models, *names: str) -> None:
    """Begin a request for each of these models in turn; none of them ends."""

    async def work() -> None:
        for name in names:
            model = models.named(name)
            assert model is not None
            assert model.queue is not None
            await model.queue.enter(128, 0.1)

    asyncio.run(work())


@pytest.mark.parametrize("first", ["chat", "adapter"])
def test_an_adapter_waits_in_the_queue_of_its_model(first: str, tmp_path: Path) -> None:
    """They run in one engine: what one of them uses is not there for the other."""
    models = read(tmp_path, entry("chat"), entry("adapter", base="chat"))
    other = "adapter" if first == "chat" else "chat"
    with pytest.raises(RefusedError, match="all 1 slots are in use"):
        enter(models, first, other)


@pytest.mark.parametrize("name", ["adapter", "None"])
def test_models_without_a_base_have_queues_of_their_own(name: str, tmp_path: Path) -> None:
    enter(read(tmp_path, entry(name), entry("chat")), name, "chat")
