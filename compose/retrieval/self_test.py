"""One question that proves the whole way: a document goes in, is found by its words, and is gone again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from retrieval import store
from retrieval.failures import GatewayError, RefusedError

if TYPE_CHECKING:
    from keys import Caller

    from retrieval.app import Proxy

LIMIT_S = 60.0


async def check_itself(proxy: Proxy, caller: Caller, key: str) -> Mapping[str, Any]:
    """Return what each step took in seconds, and whether all of them did what they should."""
    steps: dict[str, float] = {}
    word, begin_s = f"lantern{uuid4().hex[:12]}", time.monotonic()
    name = f"self-test-{word}"
    problem = ""
    try:
        async with asyncio.timeout(LIMIT_S):
            await _ingest(proxy, caller, name, f"The {word} hangs above the door of the archive.")
            steps["ingest_s"] = time.monotonic() - begin_s
            found = await proxy.search.find((caller.name, key), [name], f"Where is the {word}?", 1)
            steps["search_s"] = time.monotonic() - begin_s - steps["ingest_s"]
            if not found.passages or word not in found.passages[0].text:
                problem = "the document that was stored is not found"
    except (RefusedError, GatewayError) as failure:
        problem = failure.sentence
    except TimeoutError:
        problem = f"the document is not ingested after {LIMIT_S:.0f} s"
    finally:
        await _clean(proxy, caller, name)
    told = {step: round(seconds, 3) for step, seconds in steps.items()}
    return {"ok": not problem, "steps": told} | ({"problem": problem} if problem else {})


async def _ingest(proxy: Proxy, caller: Caller, name: str, text: str) -> None:
    collection = await proxy.collection(caller, name)
    path: Path = proxy.options.incoming / uuid4().hex
    path.write_text(text, encoding="utf-8")
    upload = store.Upload(
        name="self-test", media_type="text/plain", size_bytes=len(text), content_hash=sha256(text.encode()).digest()
    )
    row, _ = await proxy.take_in(collection, path, upload)
    while row["state"] in ("queued", "running"):
        await asyncio.sleep(0.1)
        async with proxy.pool.connection() as connection:
            row = await store.find_document(connection, caller.name, name, row["id"])
    if row["state"] != "done":
        raise RefusedError(503, row["detail"])


async def _clean(proxy: Proxy, caller: Caller, name: str) -> None:
    try:
        async with proxy.pool.connection() as connection:
            keys = await store.delete_collection(connection, caller.name, name)
        await proxy.remove(keys)
    except RefusedError:
        pass  # it was never made
