"""The lanes that ingest documents: each takes one at a time, cuts it, has it embedded and stores it, batch by batch.

A lane can be killed at any moment. Its lease ends, another takes the document and goes on behind the last stored batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from retrieval import store
from retrieval.embedding import BATCH, Embedding
from retrieval.failures import DocumentError, GatewayError, RefusedError
from retrieval.figures import Figures
from retrieval.gateway import PASSING, Acting, Gateway, Key
from retrieval.kinds import is_media
from retrieval.media import Media, Unfinished, found_pieces
from retrieval.options import OWN, Options, ServedModel
from retrieval.originals import Originals
from retrieval.parser import Parser
from retrieval.pieces import Piece, fingerprint

LANES = 2
"""Documents that one process works on at once: one is read while the engine has the other."""

IDLE_S, DATABASE_AGAIN_S = 0.5, 1.0
"""How long a lane waits where nothing is due, and where PostgreSQL does not answer."""

GATEWAY_AGAIN_S, MEDIA_AGAIN_S, SERVED_AGAIN_S, LONGEST_PAUSE_S = 5.0, 2.0, 60.0, 3600.0
"""How long a document waits for the gateway, for the multimodal worker, for a model that is not served, and at most
for the end of a limit, which may be raised meanwhile.
"""

MOST_STARTS = 20
"""A document whose workers ended so often without one more batch is given up: it may be what ends them."""

NO_SUCH_JOB = 404

CHARACTERS_PER_TOKEN = 3
"""Fewer than in English prose, so that a passage seldom exceeds the model's context; what does is shortened."""

LONGEST_PIECE, SHORTEST_PIECE = 1500, 200
"""Characters of a passage: some 300 tokens, of which ten fit into any context."""


def capacity_of(model: ServedModel) -> int:
    """Return how many characters a passage for this embedding model has at most."""
    room = model.context_tokens * CHARACTERS_PER_TOKEN or LONGEST_PIECE
    return max(SHORTEST_PIECE, min(LONGEST_PIECE, room))


class Ingest:
    """The lanes of one process."""

    def __init__(
        self,
        options: Options,
        pool: AsyncConnectionPool[Any],
        originals: Originals,
        gateway: Gateway,
        embedding: Embedding,
        figures: Figures,
    ) -> None:
        self._options, self._pool, self._originals = options, pool, originals
        self._embedding, self._figures = embedding, figures
        self._media = Media(options, gateway)
        self._tasks: list[asyncio.Task[None]] = []
        self._come = asyncio.Event()

    def start(self) -> None:
        """Begin to work; in a running event loop."""
        self._tasks = [asyncio.create_task(self._lane()) for _ in range(LANES)]

    def wake(self) -> None:
        """Look for documents at once: one has come in."""
        self._come.set()

    async def stop(self) -> None:
        """End the lanes where they are: their documents go on elsewhere."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _lane(self) -> None:
        parser = Parser()
        try:
            while True:
                try:
                    worked = await self._step(parser)
                except (psycopg.Error, PoolTimeout, OSError) as failure:
                    # PostgreSQL is away, or the disk is full: the lease ends, and the document is taken again.
                    _tell(f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}")
                    await asyncio.sleep(DATABASE_AGAIN_S)
                    continue
                if not worked:
                    await self._idle()
        finally:
            await parser.close()

    async def _idle(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._come.wait(), IDLE_S)
        self._come.clear()

    async def _step(self, parser: Parser) -> bool:
        """Work on one document, or tidy up; return whether there was anything to do."""
        async with self._pool.connection() as connection:
            work = await store.take_work(connection, self._options.lease_s)
            if work is None:
                return await self._remove_originals(connection)
        with contextlib.suppress(store.LostLeaseError):
            if work.attempts > MOST_STARTS:
                await self._end(work, f"given up after {MOST_STARTS} starts without progress")
            else:
                await self._work(parser, work)
        return True

    async def _work(self, parser: Parser, work: store.Work) -> None:
        keeper = asyncio.create_task(self._keep(work))
        try:
            await self._ingest(parser, work)
        except DocumentError as failure:
            await self._end(work, str(failure))
        except RefusedError as failure:
            await self._put_off(work, failure.sentence, SERVED_AGAIN_S)
        except Unfinished as unfinished:
            await self._put_off(work, unfinished.detail, MEDIA_AGAIN_S)
        except GatewayError as failure:
            if failure.status not in PASSING:
                await self._end(work, f"the gateway refuses it: {failure.sentence}")
            else:
                await self._put_off(
                    work,
                    f"waits for the gateway: {failure.sentence}",
                    min(max(GATEWAY_AGAIN_S, failure.pause_s), LONGEST_PAUSE_S),
                )
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _ingest(self, parser: Parser, work: store.Work) -> None:
        served = self._embedding.served(work.collection)
        pieces, note = await self._pieces(parser, work, served)
        model = await self._embedding.measured(served, self._options.own_key)
        key = self._acting(work)
        with_pictures = any(piece.picture is not None for piece in pieces)
        async with self._pool.connection() as connection:
            await store.prepare_vectors(connection, work.collection, model, with_pictures=with_pictures)
            stored = await store.begin_pieces(connection, work, fingerprint(pieces), len(pieces))
        for first in range(stored, len(pieces), BATCH):
            batch = pieces[first : first + BATCH]
            embedded = await self._embedding.embed_pieces(served, model, batch, key)
            async with self._pool.connection() as connection:
                await store.add_pieces(connection, work, model, first, embedded)
        async with self._pool.connection() as connection:
            await store.finish(connection, work, note)
        self._figures.count_document("done", len(pieces))

    def _acting(self, work: store.Work) -> Key:
        """Return in whose name a document is worked on: its collection's."""
        owner = work.collection.owner
        return self._options.own_key if owner == OWN else Acting(self._options.own_key, owner)

    async def _pieces(self, parser: Parser, work: store.Work, served: ServedModel) -> tuple[Sequence[Piece], str]:
        """Return a document's passages, and what to tell of it when it is done."""
        key = store.original_key(work.content_hash, work.id)
        try:
            async with self._originals.local(key) as path:
                if is_media(work.media_type):
                    return await self._of_media(path, work, served), ""
                pieces, scanned = await parser.pieces(path, work.media_type, capacity_of(served))
                if not scanned:
                    return pieces, ""
                try:
                    seen = await self._of_media(path, work, served, texts=False)
                except DocumentError as failure:
                    told = f"{_pages(scanned)} scanned, without a text: {failure}"
                    if pieces:
                        return pieces, told
                    raise DocumentError(told) from failure
                return sorted([*pieces, *seen], key=lambda piece: piece.page or 0), ""
        except FileNotFoundError:
            raise DocumentError("its original is gone") from None

    async def _of_media(
        self, path: Path, work: store.Work, served: ServedModel, *, texts: bool = True
    ) -> Sequence[Piece]:
        """Return what the multimodal worker finds in a file. Raises as `Media` does, and Unfinished until it has."""
        if work.remote_job is None:
            job: str | None = await self._media.begin(path, work.name, work.media_type, self._acting(work))
        else:
            try:
                result = await self._media.result(work.remote_job, self._acting(work))
            except GatewayError as failure:
                if failure.status != NO_SUCH_JOB:
                    raise
                job = None  # it was kept for some days (MULTIMODAL_KEEP_DAYS), or deleted
            else:
                return found_pieces(result if texts else {**result, "pages": ()}, capacity_of(served), served.name)
        async with self._pool.connection() as connection:
            await store.note_remote_job(connection, work, job)
        raise Unfinished("the multimodal worker has it" if job else "the multimodal worker is asked again")

    async def _keep(self, work: store.Work) -> None:
        """Renew the lease while the document is worked on."""
        while True:
            await asyncio.sleep(self._options.lease_s / 3)
            with contextlib.suppress(psycopg.Error, PoolTimeout, store.LostLeaseError):
                async with self._pool.connection() as connection:
                    await store.renew(connection, work, self._options.lease_s)

    async def _end(self, work: store.Work, detail: str) -> None:
        async with self._pool.connection() as connection:
            await store.fail(connection, work, detail)
        self._figures.count_document("failed", 0)

    async def _put_off(self, work: store.Work, detail: str, delay_s: float) -> None:
        async with self._pool.connection() as connection:
            await store.put_off(connection, work, detail, delay_s)

    async def _remove_originals(self, connection: store.Connection) -> bool:
        keys = await store.take_removals(connection, 100)
        for key in keys:
            await self._originals.remove(key)
        if keys:
            await store.forget_removals(connection, keys)
        return bool(keys)


def _pages(numbers: Sequence[int]) -> str:
    """Return pages in words, of many the first ones, with their verb."""
    if len(numbers) == 1:
        return f"page {numbers[0]} is"
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"pages {', '.join(map(str, numbers[:5]))}{more} are"


def _tell(sentence: str) -> None:
    print(f"retrieval ingest: {sentence}", file=sys.stderr, flush=True)
