"""What each worker of the gateway does once at its start: it makes requests cheaper, and lays our layer before LiteLLM.

LiteLLM's documented LITELLM_WORKER_STARTUP_HOOKS names both functions. Nothing of LiteLLM is changed: the garbage
collector is Python's own (docs/explanation/gateway.md), and the application around which front.py stands is Starlette's
own attribute.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from front import Front

COLLECT_AFTER = (50_000, 20, 50)
"""New objects before the collector looks at the youngest; then how many such looks before the next older.

After Python's own 700 it looks many times in one request.
"""


def prepare() -> None:
    """Leave what start-up loaded out of every collection, and collect less often.

    A full collection otherwise walks all of LiteLLM's modules while every request waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def stand_before() -> None:
    """See every request before LiteLLM. Its start has begun: `add_middleware` would come too late."""
    from connections import admit_by, hang_up
    from figures import find_figures
    from front import Front
    from keys import open_keys, open_limits
    from litellm.proxy.proxy_server import app  # noqa: TID251  # runs inside LiteLLM
    from models import read_models
    from traces import open_traces

    front = Front(
        app.middleware_stack,
        os.environ,
        keys=open_keys(os.environ),
        limits=open_limits(os.environ),
        hang_up=hang_up,
        models=read_models,
        figures=find_figures,
        traces=open_traces(os.environ),
    )
    app.middleware_stack = front
    admit_by(front.judge)
    drain_at_sigterm(front, float(os.environ["GATEWAY_DRAIN_S"]))


def drain_at_sigterm(front: "Front", limit_s: float) -> None:
    """Let a first SIGTERM end what is open in time, and a second at once; then the server's own handler ends the rest.

    uvicorn has set its handler before it runs this: it would close the way in first, so that nobody is told to come
    again, and cut streams without a word.
    """
    loop, close = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    ending: list[asyncio.Task[None]] = []

    async def leave(work: Coroutine[None, None, None]) -> None:
        await work
        if callable(close):
            close(signal.SIGTERM, None)

    def begin() -> None:
        ending.append(loop.create_task(leave(front.end() if ending else front.drain(limit_s))))

    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(begin))
