"""What the proxy asks of the gateway: vectors, ranks, answers. Each request says whom it is for, by key or by name."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import orjson
from keys import ACTS_FOR
from trust import trust_gateway

from retrieval.failures import GatewayError
from retrieval.options import ServedModel

PASSING = frozenset({0, 401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses behind which the same request can succeed later: also a key or a model that the stack does not have yet."""

MOST_ANSWER_BYTES = 64 << 20
"""An answer that is read whole: a batch of vectors has a megabyte."""

AT_ONCE = 8
"""Requests for vectors at once where each text is one: a conversation gets one vector (vLLM 0.32.0)."""

CONNECT_S, READ_S = 5, 300
"""Longest time to a connection, and between two parts of an answer: a queue of the gateway's is waited out."""


@dataclass(frozen=True, slots=True)
class Acting:
    """The proxy's own key, for what it does later in the name of another: whose rights and limits then hold."""

    key: str
    name: str


Key: TypeAlias = "str | Acting"


def authorization(key: Key) -> dict[str, str]:
    """Return the headers that say whose request it is."""
    if isinstance(key, str):
        return {"Authorization": f"Bearer {key}"}
    return {"Authorization": f"Bearer {key.key}", ACTS_FOR: key.name}


class Gateway:
    """The gateway of the stack."""

    def __init__(self, url: str, certificate: Path | None) -> None:
        self._url, self._certificate = url, certificate
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the connections of this process, made in its event loop."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT_S, sock_read=READ_S)
            trust = True if self._certificate is None else trust_gateway(self._certificate)
            connector = aiohttp.TCPConnector(limit=128, keepalive_timeout=30, ssl=trust)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=True)
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def embed(self, served: ServedModel, texts: Sequence[str], key: Key) -> list[list[float]]:
        """Return a vector for each text; by a model that sees, in the frame that its pictures have, too.

        Raises:
            GatewayError: there is no answer, or none with as many vectors of one dimension, in finite numbers.
        """
        model = served.name
        if served.sees:
            fields = [{"model": model, "messages": [{"role": "user", "content": text}]} for text in texts]
        else:
            fields = [{"model": model, "input": list(texts)}]
        answers = [
            answer
            for first in range(0, len(fields), AT_ONCE)
            for answer in await asyncio.gather(
                *(self._post("/embeddings", each, key) for each in fields[first : first + AT_ONCE])
            )
        ]
        try:
            rows = [row for answer in answers for row in sorted(answer["data"], key=lambda row: int(row["index"]))]
            vectors = [row["embedding"] for row in rows]
            dimensions = {len(vector) for vector in vectors}
            is_sound = all(math.isfinite(sum(vector)) and any(vector) for vector in vectors)
        except (KeyError, TypeError, ValueError) as failure:
            raise GatewayError(502, f"`{model}` gave no vectors: {type(failure).__name__}") from failure
        if len(vectors) != len(texts) or len(dimensions) != 1 or not is_sound:
            raise GatewayError(502, f"`{model}` gave {len(vectors)} vectors for {len(texts)} texts, or empty ones")
        return vectors

    async def rerank(self, model: str, query: str, texts: Sequence[str], key: Key) -> list[float]:
        """Return how well each text answers the query. Raises GatewayError."""
        fields = {"model": model, "query": query, "documents": list(texts), "top_n": len(texts)}
        answer = await self._post("/rerank", fields, key)
        try:
            scores = {int(row["index"]): float(row["relevance_score"]) for row in answer["results"]}
            return [scores[number] for number in range(len(texts))]
        except (KeyError, TypeError, ValueError) as failure:
            raise GatewayError(502, f"`{model}` gave no ranks: {type(failure).__name__}") from failure

    async def open(self, method: str, path: str, key: Key, body: bytes | None) -> aiohttp.ClientResponse:
        """Return an answer whose body is not read yet; the caller releases it. Raises GatewayError."""
        headers = authorization(key) | ({"Content-Type": "application/json"} if body else {})
        try:
            return await self.session.request(method, self._url + path, data=body, headers=headers)
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise GatewayError(0, f"the gateway does not answer: {type(failure).__name__}") from failure

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the whole body of an answer. Raises GatewayError where it breaks off or has too many bytes."""
        content = bytearray()
        try:
            async for block in response.content.iter_any():
                content += block
                if len(content) > MOST_ANSWER_BYTES:
                    raise GatewayError(502, f"the gateway's answer has more than {MOST_ANSWER_BYTES} bytes")
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise GatewayError(0, f"the gateway's answer broke off: {type(failure).__name__}") from failure
        return bytes(content)

    async def _post(self, path: str, fields: Mapping[str, Any], key: Key) -> Any:
        response = await self.open("POST", path, key, orjson.dumps(fields))
        async with response:
            content = await self.read(response)
        if response.status != 200:
            sentence = failure_text(content) or f"the gateway answered {response.status}"
            pause = response.headers.get("Retry-After", "") if response.status == 429 else ""
            raise GatewayError(response.status, sentence, float(pause) if pause.isdecimal() else 0.0)
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as failure:
            raise GatewayError(502, "the gateway's answer is not JSON") from failure


def failure_text(content: bytes) -> str:
    """Return the sentence of an error in OpenAI's form, or nothing."""
    try:
        error = orjson.loads(content)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return ""
