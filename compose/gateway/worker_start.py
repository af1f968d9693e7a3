"""What each worker of the gateway does once at its start: it makes requests cheaper, and looks at them before LiteLLM
does.

LiteLLM's documented LITELLM_WORKER_STARTUP_HOOKS names both functions. Nothing of LiteLLM is changed: the garbage
collector is Python's own (docs/explanation/gateway.md), and the application around which guard.py stands is Starlette's
own attribute.
"""

import gc
import os
import sys

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


def stand_guard() -> None:
    """Look at every request before LiteLLM. Its start has begun: `add_middleware` would come too late."""
    from guard import Guard
    from key_auth import is_right
    from litellm.proxy.proxy_server import app  # noqa: TID251  # runs inside LiteLLM

    most_bytes = int(os.environ["GATEWAY_MAX_BODY_BYTES"]) or sys.maxsize
    app.middleware_stack = Guard(app.middleware_stack, most_bytes, is_right)
