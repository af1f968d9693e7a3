"""What lay in the folder before there was a bucket: given from there, and failures of whoever reads it are its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from retrieval.options import Bucket
from retrieval.originals import BucketOriginals, FolderOriginals


@pytest.fixture
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BucketOriginals:
    """Give originals in a bucket, with one that is older in the folder. Nobody asks the bucket."""
    monkeypatch.setitem(sys.modules, "obstore.store", SimpleNamespace(S3Store=lambda *_, **__: None))
    (tmp_path / "ab").write_bytes(b"older")
    bucket = Bucket(name="papers", prefix="", endpoint="http://x", region="r", key_id="i", secret_key="k")
    return BucketOriginals(bucket, tmp_path / "incoming", FolderOriginals(tmp_path))


def test_an_older_original_is_given_from_the_folder(originals: BucketOriginals) -> None:
    async def read() -> bytes:
        async with originals.local("ab") as path:
            return path.read_bytes()

    assert asyncio.run(read()) == b"older"


def test_what_its_reader_does_not_find_is_no_reason_to_ask_the_bucket(originals: BucketOriginals) -> None:
    async def read() -> None:
        async with originals.local("ab"):
            raise FileNotFoundError("a program that the reader needs")

    with pytest.raises(FileNotFoundError, match="a program"):
        asyncio.run(read())
