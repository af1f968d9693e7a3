"""Where the documents' own bytes are kept: a folder of the host, or an S3 bucket, behind the same three verbs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from retrieval.options import Bucket

BLOCK_BYTES = 1 << 16

BUCKET_CONNECT_S, BUCKET_ANSWER_S, BUCKET_RETRY_S = 5, 600, 30
"""Longest time to a connection to the bucket, of one request with its file, and of what is tried again."""


PARTS = 2
"""Parts of a file, of 5 MiB, that are on their way at once: each is in memory."""


class OriginalsError(OSError):
    """The bucket did not do what was asked; it may later."""


class Originals(Protocol):
    """Bytes by key (store.original_key). A key is written once and never changed."""

    async def put(self, key: str, file: Path) -> None:
        """Take a file in; when this returns, a power cut does not lose it."""

    def local(self, key: str) -> contextlib.AbstractAsyncContextManager[Path]:
        """Give the bytes as a file of this host. Raises FileNotFoundError."""

    async def remove(self, key: str) -> None:
        """Forget a key; it is no mistake if it is not there."""


class FolderOriginals:
    """Originals in a folder. `put` moves the file, so it has to lie on the same file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key: str, file: Path) -> None:
        """Move a file in."""
        await asyncio.to_thread(self._put, self._folder / key, file)

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """Give the file itself. Raises FileNotFoundError."""
        path = self._folder / key
        path.stat()
        yield path

    async def remove(self, key: str) -> None:
        """Delete a file."""
        await asyncio.to_thread((self._folder / key).unlink, missing_ok=True)

    def _put(self, path: Path, file: Path) -> None:
        is_new = not path.parent.is_dir()
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync(file)
        file.rename(path)
        _sync(path.parent)
        if is_new:
            _sync(self._folder)


class BucketOriginals:
    """Originals in a bucket that speaks S3. What lay in the folder before there was a bucket is still found there."""

    def __init__(self, bucket: Bucket, incoming: Path, before: FolderOriginals) -> None:
        from obstore.store import S3Store

        self._bucket, self._incoming, self._before = bucket, incoming, before
        self._store = S3Store(
            bucket.name,
            prefix=bucket.prefix or None,
            access_key_id=bucket.key_id,
            secret_access_key=bucket.secret_key,
            region=bucket.region,
            endpoint=bucket.endpoint,
            client_options={
                "allow_http": bucket.endpoint.startswith("http://"),
                "connect_timeout": f"{BUCKET_CONNECT_S}s",
                "timeout": f"{BUCKET_ANSWER_S}s",
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=BUCKET_RETRY_S)},
        )

    async def put(self, key: str, file: Path) -> None:
        """Send a file. Raises OriginalsError."""
        with self._told("store"):
            await self._store.put_async(key, file, max_concurrency=PARTS)

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """Fetch the bytes to a file that lasts as long as the block. Raises FileNotFoundError, OriginalsError."""
        async with contextlib.AsyncExitStack() as held:
            path = None
            with contextlib.suppress(FileNotFoundError):
                path = await held.enter_async_context(self._before.local(key))
            if path is not None:
                yield path
                return
        path = self._incoming / f"{uuid4().hex}.original"
        try:
            await self._fetch(key, path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def _fetch(self, key: str, path: Path) -> None:
        with self._told("give", may_lack=True):
            found = await self._store.get_async(key)
            with path.open("xb") as file:
                async for block in found.stream(min_chunk_size=BLOCK_BYTES):
                    await asyncio.to_thread(file.write, block)

    async def remove(self, key: str) -> None:
        """Delete an object. Raises OriginalsError."""
        await self._before.remove(key)
        with self._told("delete"):
            await self._store.delete_async(key)

    @contextlib.contextmanager
    def _told(self, verb: str, *, may_lack: bool = False) -> Iterator[None]:
        """Say in one line what the bucket refused; its own text has its whole answer."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            if may_lack:
                raise
            raise OriginalsError(f"there is no bucket {self._bucket.name}") from None
        except BaseError as failure:
            told = str(failure).partition("\n")[0][:300]
            raise OriginalsError(f"the bucket {self._bucket.name} does not {verb} documents: {told}") from failure


def open_originals(folder: Path, incoming: Path, bucket: Bucket | None) -> Originals:
    """Return where originals lie: the bucket where there is one, else the folder."""
    own = FolderOriginals(folder)
    return own if bucket is None else BucketOriginals(bucket, incoming, own)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def read_blocks(path: Path) -> AsyncIterator[bytes]:
    """Yield a file's bytes in blocks, without holding more than one."""
    with path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block
