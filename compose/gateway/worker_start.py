"""What each worker of the gateway does once at its start, so that requests cost less (docs/explanation/gateway.md).

LiteLLM's documented LITELLM_WORKER_STARTUP_HOOKS names `prepare`. Nothing of LiteLLM is changed: the garbage collector is
Python's own, and so is the way to set it.
"""

import gc

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
