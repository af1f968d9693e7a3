"""Chat completions with collections: what was found goes into the conversation, and what was cited comes back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
from starlette.responses import JSONResponse, Response, StreamingResponse

from retrieval.failures import GatewayError, bad_request
from retrieval.gateway import Gateway
from retrieval.options import Options
from retrieval.pieces import Found
from retrieval.prompting import (
    NOTHING_FOUND,
    choose_sources,
    cited,
    question_of,
    source_room,
    source_row,
    with_sources,
)
from retrieval.search import Search

PASSAGES = 12
"""Passages that are offered to the model where the request does not say how many."""

CONTEXT_TOKENS = 4096
"""The context of a model whose length is not known: one of a cloud's."""

LONGEST_EVENT_BYTES = 4 << 20


class Answering:
    """Answers of one process."""

    def __init__(self, options: Options, search: Search, gateway: Gateway) -> None:
        self._options, self._search, self._gateway = options, search, gateway

    async def answer(self, owner: str, key: str, fields: Mapping[str, Any]) -> Response:
        """Answer a chat request that names collections; in a stream where it asks for one.

        Raises:
            RefusedError: the request is wrong, or a collection is not the owner's.
            GatewayError: no vector could be had, or no answer.
        """
        messages, names, most = _read(fields)
        question = question_of(messages)
        if not question.strip():
            raise bad_request("`messages` has no text of the user to search with")
        found = (await self._search.find((owner, key), names, question, most)).passages
        fields = {name: value for name, value in fields.items() if name not in ("collections", "passages")}
        if not found:
            return _nothing(fields)
        room = source_room(messages, self._context(fields), _answer_tokens(fields))
        sources = choose_sources(found, room)
        if not sources:
            raise bad_request("the conversation leaves no room for a source in the model's context; shorten it")
        return await self._ask(fields, messages, sources, key)

    def _context(self, fields: Mapping[str, Any]) -> int:
        model = self._options.model_named(str(fields.get("model")))
        return (model.context_tokens if model else 0) or CONTEXT_TOKENS

    async def _ask(
        self, fields: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], sources: list[Found], key: str
    ) -> Response:
        """Ask with fewer and fewer sources, while the model refuses: how long a text is only its tokenizer knows."""
        while True:
            body = orjson.dumps({**fields, "messages": with_sources(messages, sources)})
            response = await self._gateway.open("POST", "/chat/completions", key, body)
            if response.status not in (400, 413) or len(sources) == 1:
                break
            response.release()
            sources = sources[: len(sources) // 2]
        rows = [source_row(number, source) for number, source in enumerate(sources, start=1)]
        if response.status != 200:
            return await handed_on(self._gateway, response)
        if fields.get("stream"):
            return StreamingResponse(_with_rows(response, rows), media_type="text/event-stream")
        async with response:
            answer = orjson.loads(await self._gateway.read(response))
        answer["sources"] = _marked(rows, _said(answer, "message"))
        return JSONResponse(answer)


def _read(fields: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[str], int]:
    """Return a request's messages, its collections, and how many passages it wants."""
    messages, names, most = fields.get("messages"), fields.get("collections"), fields.get("passages", PASSAGES)
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise bad_request("`messages` must be a list of messages, with one at least")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise bad_request("`collections` must be a list of names")
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 50:
        raise bad_request("`passages` must be a number from 1 to 50")
    return messages, names, most


def _answer_tokens(fields: Mapping[str, Any]) -> int | None:
    value = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return value if isinstance(value, int) and value > 0 else None


def _said(answer: Mapping[str, Any], part: str) -> str:
    choices = answer.get("choices")
    listed = choices if isinstance(choices, list) else []
    return "".join(str((choice.get(part) or {}).get("content") or "") for choice in listed)


def _marked(rows: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    numbers = cited(answer, len(rows))
    return [{**row, "cited": row["number"] in numbers} for row in rows]


def _nothing(fields: Mapping[str, Any]) -> Response:
    """Answer that nothing was found, in the form that was asked for; no model is asked to make something up."""
    base: dict[str, Any] = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "sources": []}
    base["model"] = fields.get("model")
    words = {"role": "assistant", "content": NOTHING_FOUND}
    if not fields.get("stream"):
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        choice = {"index": 0, "message": words, "finish_reason": "stop"}
        return JSONResponse({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
    chunk = {**base, "object": "chat.completion.chunk"}
    events = (
        {**chunk, "choices": [{"index": 0, "delta": words, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    )
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    return Response(body, media_type="text/event-stream")


async def _with_rows(response: aiohttp.ClientResponse, rows: list[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Pass a stream on: its first event gets the sources, and the one that ends it those that were cited."""
    said, is_first, event = "", True, b""
    async with response:
        try:
            async for block in response.content.iter_any():
                *whole, event = (event + block).split(b"\n\n")
                for text in whole:
                    data = _data(text)
                    if data is None:
                        yield text + b"\n\n"
                        continue
                    said += _said(data, "delta")
                    data |= {"sources": rows} if is_first else {}
                    data |= {"sources": _marked(rows, said)} if _ends(data) else {}
                    is_first = False
                    yield b"data: " + orjson.dumps(data) + b"\n\n"
                if len(event) > LONGEST_EVENT_BYTES:
                    raise GatewayError(502, "the answer's event is too long")
        except (aiohttp.ClientError, TimeoutError, GatewayError) as failure:
            error = {"message": f"the answer broke off: {type(failure).__name__}", "type": "api_error", "code": 502}
            yield b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def _ends(data: Mapping[str, Any]) -> bool:
    return any(choice.get("finish_reason") for choice in data.get("choices") or ())


def _data(event: bytes) -> dict[str, Any] | None:
    """Return an event's document; None of one that has none, like the last."""
    if not event.startswith(b"data: {"):
        return None
    try:
        data = orjson.loads(event[6:])
    except orjson.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


async def handed_on(gateway: Gateway, response: aiohttp.ClientResponse) -> Response:
    """Return the gateway's own answer, in a stream where it is one."""
    media_type = response.headers.get("Content-Type", "application/json")
    headers = {"Retry-After": response.headers["Retry-After"]} if "Retry-After" in response.headers else {}
    if media_type.startswith("text/event-stream"):
        return StreamingResponse(_blocks(response), response.status, headers, media_type=media_type)
    async with response:
        content = await gateway.read(response)
    return Response(content, response.status, headers, media_type=media_type)


async def _blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with response:
        async for block in response.content.iter_any():
            yield block
