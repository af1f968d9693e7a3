"""Ask each engine whether it is well, so that a replica that is not gets no request until it is again.

LiteLLM's own background checks send a completion to every deployment from every worker: that costs an engine tokens,
and behind a full queue a busy replica would pass for a dead one. vLLM's `/health` costs nothing and waits for nobody.
What is found goes where LiteLLM's checks put theirs (1.105.3, router_utils/health_state_cache.py); its router reads it
where `enable_health_check_routing` is on, which gateway.yaml says where a model has several replicas. A finding that is
not renewed is forgotten, and where no replica is well all are asked, so this cannot stop a request. What is known of
each replica is shown in /metrics. Runs inside the gateway.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx  # LiteLLM's own client
from figures import find_figures
from lane import Replica
from models import read_models

EVERY_S = 2.0
WAIT_S = 4.0
"""Below vLLM's own pauses, such as a long prompt's tokens, one answer may come late; two in a row do not."""

MISSES = 2

_watches: set["asyncio.Task[None]"] = set()


async def watch() -> None:
    """Begin to look. LiteLLM calls this once in each worker, before it has read its configuration."""
    _watches.add(asyncio.create_task(_watch()))


async def _watch() -> None:
    from litellm.proxy import proxy_server  # noqa: TID251  # runs inside LiteLLM

    while proxy_server.llm_router is None:
        await asyncio.sleep(EVERY_S)
    router = proxy_server.llm_router
    replicas = {replica.number: replica for model in read_models() for replica in model.replicas}
    misses: Counter[str] = Counter()
    async with httpx.AsyncClient(timeout=WAIT_S, trust_env=False) as client:
        while True:
            try:
                if router.enable_health_check_routing:
                    await _look(client, router, replicas, misses)
                figures = find_figures()
                if figures is not None:
                    figures.show_replicas(read_models())
                    figures.show_worker(read_models())
            except Exception as fault:  # noqa: BLE001  # the next look may go well
                print(f"gateway: a look at the engines failed: {fault!a}", file=sys.stderr, flush=True)
            await asyncio.sleep(EVERY_S)


async def _look(client: httpx.AsyncClient, router: Any, replicas: Mapping[str, Replica], misses: Counter[str]) -> None:
    """Ask every engine once, and tell the lane and LiteLLM's router of each."""
    seen = await asyncio.gather(*(is_well(client, f"{one.base}/health") for one in replicas.values()))
    for (number, replica), well in zip(replicas.items(), seen, strict=True):
        misses[number] = 0 if well else misses[number] + 1
        replica.well = misses[number] < MISSES
    states = {number: state(misses[number]) for number in replicas}
    # It may talk to Redis, and waits for the answer.
    await asyncio.to_thread(router.health_state_cache.set_deployment_health_states, states)


async def is_well(client: httpx.AsyncClient, address: str) -> bool:
    """Return whether an engine answers 200; vLLM answers 503 where its core has died."""
    try:
        return (await client.get(address)).status_code == 200
    except httpx.HTTPError:
        return False


def state(misses: int) -> dict[str, object]:
    """Return what LiteLLM's router reads."""
    return {"is_healthy": misses < MISSES, "timestamp": time.time(), "reason": f"{misses} health checks missed"}
