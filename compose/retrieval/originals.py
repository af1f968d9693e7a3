"""Where the documents' own bytes are kept: a folder of the host, or an S3 bucket, behind the same three verbs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 1 << 16


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
