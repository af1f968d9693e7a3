"""The HTTP side: routes, whose key it is, errors in OpenAI's form. One application for each worker process."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import orjson
import psycopg
from keys import MASTER, Caller, open_keys
from psycopg_pool import PoolTimeout, TooManyRequests
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from retrieval import store
from retrieval.answering import Answering, handed_on
from retrieval.database import make_pool
from retrieval.embedding import Embedding
from retrieval.failures import GatewayError, RefusedError, bad_request, not_found
from retrieval.figures import Figures, exposition
from retrieval.gateway import Gateway
from retrieval.ingest import Ingest
from retrieval.options import OWN, Options, ServedModel, read_options
from retrieval.originals import OriginalsError, open_originals, read_blocks
from retrieval.prompting import passage_row
from retrieval.saving import Saving
from retrieval.search import BOTH, LONGEST_QUERY, MOST_COLLECTIONS, WAYS, Search
from retrieval.self_test import check_itself
from retrieval.upkeep import Upkeep
from retrieval.uploads import MOST_JSON_BYTES, Bounded, Uploads, read_json

MOST_AT_ONCE = 64
"""Requests that one worker process works on; each beyond is refused at once, so that memory and waits are bounded."""

PASSED_ON = frozenset({"/v1/models", "/v1/embeddings", "/v1/completions", "/v1/rerank"})
"""What a client of an OpenAI server asks for besides, and the gateway answers."""

LANGUAGE = "english"
"""Whose endings and fillers the text search knows, where a collection does not say."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
LEAST_RESULTS, MOST_RESULTS, RESULTS = 1, 100, 10
LISTED = 1000

Handler = Callable[[Request, Caller, str], Awaitable[Response]]


class Proxy:
    """Everything that one worker process has."""

    def __init__(self, options: Options) -> None:
        self.options, self.pool = options, make_pool(options, self._forget)
        self.gateway, self.figures = Gateway(options.gateway_url, options.gateway_certificate), Figures()
        self.originals = open_originals(options.originals, options.incoming, options.bucket)
        self.keys, self.uploads = open_keys(os.environ), Uploads(options)
        self.embedding = Embedding(options, self.pool, self.gateway)
        self.search = Search(options, self.pool, self.gateway, self.embedding)
        self.answering = Answering(options, self.search, self.gateway)
        self.ingest = Ingest(options, self.pool, self.originals, self.gateway, self.embedding, self.figures)
        self.upkeep, self.saving = Upkeep(options), Saving(options, self.pool, self.originals)
        self._open = 0

    def _forget(self) -> None:
        """Drop what was kept of another database."""
        self.embedding.forget()
        self.search.forget()

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Open what needs the event loop, and close it."""
        await self.pool.open()
        self.ingest.start()
        self.upkeep.start()
        yield
        await self.upkeep.stop()
        await self.ingest.stop()
        await self.gateway.close()
        await self.pool.close()

    def route(self, path: str, method: str, handler: Handler) -> Route:
        """Return a route that knows the caller, counts the answer and tells every failure in OpenAI's form."""

        async def answer(request: Request) -> Response:
            begin_s = time.monotonic()
            response = await self._answer(request, handler)
            self.figures.count_request(f"{method} {path}", response.status_code, time.monotonic() - begin_s)
            return response

        return Route(path, answer, methods=[method])

    async def _answer(self, request: Request, handler: Handler) -> Response:
        try:
            caller, key = self._caller(request)
            if self._open >= MOST_AT_ONCE:
                raise RefusedError(503, "too many requests at once", "api_error", retry_after_s=1)
            self._open += 1
            try:
                return await handler(request, caller, key)
            finally:
                self._open -= 1
        except Exception as failure:  # noqa: BLE001  # error_response tells of those that nobody expected
            return error_response(failure)

    def _caller(self, request: Request) -> tuple[Caller, str]:
        key = request.headers.get("authorization", "").rpartition(" ")[2]
        caller = self.keys.find(key) if key else None
        if caller is None:
            raise RefusedError(401, self.keys.refusal(key) if key else "wrong or missing key", "auth_error")
        return caller, key

    async def health(self, _: Request) -> Response:
        """Answer 200 where PostgreSQL does."""
        try:
            async with self.pool.connection(timeout=3) as connection:
                await connection.execute("SELECT 1")
        except (psycopg.Error, PoolTimeout, TooManyRequests) as failure:
            return PlainTextResponse(f"PostgreSQL does not answer: {type(failure).__name__}\n", 503)
        return PlainTextResponse("ok\n")

    async def metrics(self, _: Request) -> Response:
        """Give the figures of all worker processes."""
        try:
            async with self.pool.connection(timeout=3) as connection:
                return Response(await exposition(connection), media_type="text/plain; version=0.0.4")
        except (psycopg.Error, PoolTimeout, TooManyRequests):
            return PlainTextResponse("PostgreSQL does not answer\n", 503)

    async def list_collections(self, _: Request, caller: Caller, __: str) -> Response:
        """List the caller's collections."""
        async with self.pool.connection() as connection:
            rows = await store.list_collections(connection, caller.name)
        return JSONResponse({"object": "list", "data": [_collection_row(row) for row in rows]})

    async def make_collection(self, request: Request, caller: Caller, _: str) -> Response:
        """Make a collection: `name`, and where wished `model` and `language`."""
        fields = await read_json(request)
        name, language = _collection_name(fields.get("name")), fields.get("language", LANGUAGE)
        if language not in store.LANGUAGES:
            raise bad_request(f"`language` must be one of {', '.join(sorted(store.LANGUAGES))}")
        await self.collection(caller, name, language, fields.get("model"))
        async with self.pool.connection() as connection:
            rows = await store.list_collections(connection, caller.name)
        return JSONResponse(next(_collection_row(row) for row in rows if row["name"] == name))

    async def delete_collection(self, request: Request, caller: Caller, _: str) -> Response:
        """Delete a collection with its documents."""
        name = request.path_params["name"]
        async with self.pool.connection() as connection:
            keys = await store.delete_collection(connection, caller.name, name)
        await self.remove(keys)
        return JSONResponse({"object": "collection.deleted", "name": name, "deleted": True})

    async def add_documents(self, request: Request, caller: Caller, _: str) -> Response:
        """Take documents in, to be ingested: 202, or 200 where all of them were there."""
        name = _collection_name(request.path_params["name"])
        async with self.uploads.read(request) as files:
            collection = await self.collection(caller, name)
            taken = [await self.take_in(collection, path, upload) for path, upload in files]
        rows = [_document_row(row) | {"duplicate": not is_new} for row, is_new in taken]
        is_any_new = any(is_new for _, is_new in taken)
        return JSONResponse({"object": "list", "data": rows}, 202 if is_any_new else 200)

    async def take_in(
        self, collection: store.Collection, path: Path, upload: store.Upload
    ) -> tuple[dict[str, Any], bool]:
        """Store a file to be ingested; return its document, and whether it is new. Raises RefusedError 404."""
        document = uuid4()
        key = store.original_key(upload.content_hash, document)
        async with self.pool.connection() as connection:
            await store.expect_original(connection, key)
        await self.originals.put(key, path)
        async with self.pool.connection() as connection:
            row, is_new = await store.add_document(connection, collection, document, upload)
        if is_new:
            self.ingest.wake()
        else:
            await self.remove([key])
        return row, is_new

    async def list_documents(self, request: Request, caller: Caller, _: str) -> Response:
        """List a collection's documents in the order in which they came, by pages."""
        state, after, most = request.query_params.get("state"), request.query_params.get("after"), LISTED
        if "limit" in request.query_params:
            most = _whole("limit", request.query_params["limit"], 1, LISTED)
        behind = _document_number(after) if after else None
        async with self.pool.connection() as connection:
            collection = (await store.find_collections(connection, caller.name, [request.path_params["name"]]))[0]
            rows = await store.list_documents(connection, collection, state, behind, most + 1)
        data = [_document_row(row) for row in rows[:most]]
        return JSONResponse({"object": "list", "data": data, "has_more": len(rows) > most})

    async def find_document(self, request: Request, caller: Caller, _: str) -> Response:
        """Tell a document's state."""
        return JSONResponse(_document_row(await self._document(request, caller)))

    async def delete_document(self, request: Request, caller: Caller, _: str) -> Response:
        """Delete a document with its passages and its original."""
        document = _document_number(request.path_params["document"])
        async with self.pool.connection() as connection:
            key = await store.delete_document(connection, caller.name, request.path_params["name"], document)
        await self.remove([key])
        return JSONResponse({"object": "document.deleted", "id": str(document), "deleted": True})

    async def content(self, request: Request, caller: Caller, _: str) -> Response:
        """Give a document's own bytes back; as a download, never as a page of this address."""
        row = await self._document(request, caller)
        return await self._original(store.original_key(row["content_hash"], row["id"]), row)

    async def _original(self, key: str, row: dict[str, Any]) -> Response:
        opened = self.originals.local(key)
        try:
            path = await opened.__aenter__()
        except FileNotFoundError:
            raise not_found("document") from None

        async def blocks() -> AsyncIterator[bytes]:
            try:
                async for block in read_blocks(path):
                    yield block
            finally:
                await opened.__aexit__(None, None, None)

        headers = {
            "Content-Length": str(row["size_bytes"]),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(row['name'])}",
            "X-Content-Type-Options": "nosniff",
        }
        return StreamingResponse(blocks(), headers=headers, media_type=row["media_type"])

    async def find_passages(self, request: Request, caller: Caller, key: str) -> Response:
        """Search."""
        fields = await read_json(request)
        query, names, most = fields.get("query"), fields.get("collections"), fields.get("limit", RESULTS)
        if not isinstance(query, str) or not query.strip() or len(query) > LONGEST_QUERY:
            raise bad_request(f"`query` must be a text of at most {LONGEST_QUERY} characters")
        collections = _names(names)
        if isinstance(most, bool) or not isinstance(most, int) or not LEAST_RESULTS <= most <= MOST_RESULTS:
            raise bad_request(f"`limit` must be a number from {LEAST_RESULTS} to {MOST_RESULTS}")
        if (by := fields.get("by", BOTH)) not in WAYS:
            raise bad_request(f"`by` must be one of {', '.join(WAYS)}")
        answer = await self.search.find((caller.name, key), collections, query, most, by)
        rows = [passage_row(found) for found in answer.passages]
        return JSONResponse({"object": "list", "data": rows, "reranked": answer.reranked})

    async def chat(self, request: Request, caller: Caller, key: str) -> Response:
        """Answer with the caller's documents; a request without `collections` goes to the gateway as it is."""
        fields = await read_json(request)
        if "collections" not in fields:
            return await self._hand_on(request, key, orjson.dumps(fields))
        _names(fields["collections"])
        return await self.answering.answer(caller.name, key, fields)

    async def pass_on(self, request: Request, _: Caller, key: str) -> Response:
        """Hand a request on to the gateway."""
        bounded = Request(request.scope, Bounded(request, MOST_JSON_BYTES))
        return await self._hand_on(request, key, await bounded.body() if request.method == "POST" else None)

    async def _hand_on(self, request: Request, key: str, body: bytes | None) -> Response:
        path = request.url.path.removeprefix("/v1")
        return await handed_on(self.gateway, await self.gateway.open(request.method, path, key, body))

    async def back_up(self, _: Request, caller: Caller, __: str) -> Response:
        """Give everything that all keys have, as an archive."""
        _check_administrator(caller)
        blocks = self.saving.archive()
        first = await anext(blocks)  # what fails, fails before the answer has begun
        return StreamingResponse(_chained(first, blocks), media_type="application/x-tar")

    async def restore(self, request: Request, caller: Caller, _: str) -> Response:
        """Put a backup in the place of what is there."""
        _check_administrator(caller)
        overwrite = request.query_params.get("overwrite") == "true"
        return JSONResponse(asdict(await self.saving.restore(request, overwrite=overwrite)))

    async def check_itself(self, _: Request, caller: Caller, key: str) -> Response:
        """Ingest, find and delete a document of the proxy's own."""
        if caller.name not in (OWN, MASTER):
            raise RefusedError(403, "the self-test is for the stack's own key", "permission_error")
        told = await check_itself(self, caller, key)
        return JSONResponse(told, 200 if told["ok"] else 503)

    async def _document(self, request: Request, caller: Caller) -> dict[str, Any]:
        document = _document_number(request.path_params["document"])
        async with self.pool.connection() as connection:
            return await store.find_document(connection, caller.name, request.path_params["name"], document)

    async def collection(
        self, caller: Caller, name: str, language: str = LANGUAGE, model: object = None
    ) -> store.Collection:
        """Return the caller's collection of this name; it is made where there is none. Raises RefusedError."""
        served = self._embedding_model(model)
        if not caller.may_ask(served.name):
            raise RefusedError(403, f"this key may not use the model `{served.name}`", "permission_error")
        async with self.pool.connection() as connection:
            return await store.make_collection(connection, caller.name, name, language, served.source)

    def _embedding_model(self, name: object) -> ServedModel:
        models = self.options.models_for("embedding")
        if not models:
            sentence = "this stack serves no embedding model; add one to envs/<env>.yaml (docs/how-to/retrieval.md)"
            raise RefusedError(503, sentence, "api_error")
        served = models[0] if name is None else next((model for model in models if model.name == name), None)
        if served is None:
            raise bad_request(f"`model` must be one of {', '.join(model.name for model in models)}")
        return served

    async def remove(self, keys: list[str]) -> None:
        """Remove originals now; where this ends early, a lane does it later."""
        for key in keys:
            await self.originals.remove(key)
        async with self.pool.connection() as connection:
            await store.forget_removals(connection, keys)


def make_application() -> Starlette:
    """Return the application of one worker process; called by uvicorn in each."""
    proxy = Proxy(read_options())
    documents = "/v1/collections/{name}/documents"
    routes = [
        Route("/health", proxy.health, methods=["GET"]),
        Route("/metrics", proxy.metrics, methods=["GET"]),
        proxy.route("/v1/collections", "GET", proxy.list_collections),
        proxy.route("/v1/collections", "POST", proxy.make_collection),
        proxy.route("/v1/collections/{name}", "DELETE", proxy.delete_collection),
        proxy.route(documents, "POST", proxy.add_documents),
        proxy.route(documents, "GET", proxy.list_documents),
        proxy.route(documents + "/{document}", "GET", proxy.find_document),
        proxy.route(documents + "/{document}", "DELETE", proxy.delete_document),
        proxy.route(documents + "/{document}/content", "GET", proxy.content),
        proxy.route("/v1/search", "POST", proxy.find_passages),
        proxy.route("/v1/chat/completions", "POST", proxy.chat),
        proxy.route("/v1/self-test", "POST", proxy.check_itself),
        proxy.route("/v1/backup", "GET", proxy.back_up),
        proxy.route("/v1/restore", "POST", proxy.restore),
        *(proxy.route(path, "GET" if path == "/v1/models" else "POST", proxy.pass_on) for path in sorted(PASSED_ON)),
    ]
    handlers: Any = {HTTPException: _told, Exception: _told}
    return Starlette(routes=routes, lifespan=proxy.lifespan, exception_handlers=handlers)


async def _told(_: Request, failure: Exception) -> Response:
    return error_response(failure)


def error_response(failure: Exception) -> Response:
    """Return a failure as an error in OpenAI's form."""
    refused = _as_refused(failure)
    error = {"message": refused.sentence, "type": refused.kind, "param": None, "code": str(refused.status)}
    headers = {"Retry-After": str(refused.retry_after_s)} if refused.retry_after_s else {}
    return JSONResponse({"error": error}, refused.status, headers)


def _as_refused(failure: Exception) -> RefusedError:
    match failure:
        case RefusedError():
            return failure
        case HTTPException(status_code=404 | 405):
            return RefusedError(404, "the retrieval proxy does not serve this; the gateway may")
        case HTTPException():
            return RefusedError(failure.status_code, failure.detail)
        case GatewayError() if failure.status in (400, 401, 403, 404, 429):
            return RefusedError(failure.status, failure.sentence)
        case GatewayError():
            return RefusedError(503, failure.sentence, "api_error", retry_after_s=2)
        case OriginalsError():
            print(f"retrieval: {failure}", file=sys.stderr, flush=True)
            return RefusedError(503, "the store of the documents does not answer", "api_error", retry_after_s=2)
        case psycopg.errors.UndefinedTable():
            return not_found("collection")  # deleted in this moment
        case psycopg.Error() | PoolTimeout() | TooManyRequests():
            return RefusedError(503, "the documents' database does not answer", "api_error", retry_after_s=2)
        case ClientDisconnect() | asyncio.TimeoutError():
            return RefusedError(400, "the request broke off")
    traceback.print_exception(failure)
    return RefusedError(500, f"unexpected: {type(failure).__name__}", "api_error")


def _check_administrator(caller: Caller) -> None:
    if caller.name != MASTER:
        raise RefusedError(403, "only the administrator may do this", "permission_error")


async def _chained(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in blocks:
        yield block


def _collection_name(name: object) -> str:
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise bad_request("a collection's name is 1 to 63 letters, digits, dots, dashes and underscores")
    return name


def _names(names: object) -> list[str]:
    if isinstance(names, list) and all(isinstance(name, str) for name in names) and 0 < len(names) <= MOST_COLLECTIONS:
        return names
    raise bad_request(f"`collections` must be a list of 1 to {MOST_COLLECTIONS} names")


def _document_number(text: str) -> UUID:
    """Return a document's number. What is none is answered like one that nobody has."""
    try:
        return UUID(text)
    except ValueError:
        raise not_found("document") from None


def _whole(name: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise bad_request(f"`{name}` must be a number from {least} to {most}")
    return int(text)


def _collection_row(row: dict[str, Any]) -> dict[str, Any]:
    kept = "name language documents chunks waiting failed".split()
    model = {"source": row["model_source"], "revision": row["revision"], "dimension": row["dimension"]}
    return {
        "object": "collection",
        **{name: row[name] for name in kept},
        "model": model,
        "created": int(row["created_at"].timestamp()),
    }


def _document_row(row: dict[str, Any]) -> dict[str, Any]:
    done = 1.0 if row["state"] == "done" else row["stored"] / row["pieces"] if row["pieces"] else 0.0
    return {
        "object": "document",
        "id": str(row["id"]),
        "collection": row["collection"],
        "name": row["name"],
        "media_type": row["media_type"],
        "size_bytes": row["size_bytes"],
        "sha256": row["content_hash"].hex(),
        "state": row["state"],
        "progress": round(done, 3),
        "detail": row["detail"],
        "passages": row["stored"],
        "created": int(row["created_at"].timestamp()),
        "finished": int(row["finished_at"].timestamp()) if row["finished_at"] else None,
    }
