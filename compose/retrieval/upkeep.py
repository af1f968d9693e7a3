"""What a growing collection needs beside its rows: fresh statistics of its words, and an index of its vectors.

One process of all does both, beside its lanes. An index that a kill left half built is built again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from retrieval import store
from retrieval.database import conninfo
from retrieval.options import Options

LOOK_S = 15.0
"""How often collections are looked at, and how soon another process takes over where that one has ended."""

UPKEEP_LOCK = 0x5354_4143_4C
"""The advisory lock of the process that does it."""

GROWN, LEAST_GROWN = 2, 200
"""Statistics are taken anew where a collection has grown so many times, and by so many passages at the least."""


class Upkeep:
    """The upkeep of one process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; in a running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End where it is: what is half done is done again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(psycopg.OperationalError):  # PostgreSQL is away, or was
                # A connection of its own: the others give up what takes long.
                async with await AsyncConnection.connect(
                    conninfo(self._options), autocommit=True, row_factory=dict_row
                ) as connection:
                    await self._look(connection)
            await asyncio.sleep(LOOK_S)

    async def _look(self, connection: store.Connection) -> None:
        """Look at all collections again and again, unless another process does; it has the lock as long as it lives."""
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", [UPKEEP_LOCK])
        row = await cursor.fetchone()
        while row is not None and row["mine"]:
            for collection in await store.measured_collections(connection):
                try:
                    await self._tend(connection, collection)
                except psycopg.errors.UndefinedTable:
                    pass  # deleted meanwhile
                except psycopg.OperationalError:
                    raise
                except psycopg.Error as failure:
                    line = str(failure).splitlines()[0] if str(failure) else ""
                    print(f"retrieval upkeep: {type(failure).__name__}: {line}", file=sys.stderr, flush=True)
            await asyncio.sleep(LOOK_S)

    async def _tend(self, connection: store.Connection, collection: store.MeasuredCollection) -> None:
        """Bring one collection's statistics and its index to its size."""
        last = await store.last_chunk(connection, collection)
        if last >= GROWN * collection.counted_to and last - collection.counted_to >= LEAST_GROWN:
            await store.note_statistics(connection, collection, last)
        is_indexable = collection.dimension <= store.LONGEST_INDEXED and last >= self._options.index_from
        if is_indexable and not await store.has_index(connection, collection):
            table, name = collection.vectors(collection.model_id or 0), collection.index(collection.model_id or 0)
            await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name))
            make = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} USING hnsw (embedding halfvec_cosine_ops)")
            await connection.execute(make.format(name, table))
