"""Originals in a bucket behave as in a folder: moto's server stands for S3, since a real one is somebody's account."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.integration.project import free_port
from tests.integration.retrieval.parts import READY_S, Retrieval, start_retrieval, until

TEXT = b"The lighthouse keeper writes down the wind each evening."
KEY = {"retrieval_s3_key_id": "a-key", "retrieval_s3_secret_key": "its-secret"}


class Bucket:
    """A bucket on moto's server."""

    def __init__(self, folder: Path) -> None:
        self.url, self._log = f"http://127.0.0.1:{free_port()}", folder / "moto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, with an empty bucket."""
        command = [
            str(Path(sys.executable).with_name("moto_server")),
            "-H",
            "127.0.0.1",
            "-p",
            self.url.rpartition(":")[2],
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers, 60)
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/papers", method="PUT")).close()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            urllib.request.urlopen(self.url).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End the server, and with it what was in the bucket."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def names(self) -> list[str]:
        """Return the names of all that lies in the bucket."""
        with urllib.request.urlopen(f"{self.url}/papers?list-type=2") as answer:
            listed = ET.parse(answer)
        return [str(each.text) for each in listed.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]


def start(state: Path, folder: Path, bucket: Bucket, name: str = "papers") -> Any:
    """Start a proxy that keeps originals in the bucket."""
    give_key(folder / "envs/.secrets/dev")
    return start_retrieval(
        state,
        folder,
        RETRIEVAL_ORIGINALS=f"s3://{name}/of/house",
        RETRIEVAL_S3_ENDPOINT=bucket.url,
        RETRIEVAL_S3_REGION="us-east-1",
    )


def give_key(secrets: Path) -> None:
    """Put the bucket's key where the proxy reads it."""
    secrets.mkdir(parents=True, exist_ok=True)
    for name, text in KEY.items():
        (secrets / name).write_text(text, encoding="ascii")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """Start a server with a bucket."""
    made = Bucket(tmp_path_factory.mktemp("bucket"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def retrieval(state_folder: Path, tmp_path_factory: pytest.TempPathFactory, bucket: Bucket) -> Iterator[Retrieval]:
    """Start a proxy on it."""
    with start(state_folder, tmp_path_factory.mktemp("proxy"), bucket) as made:
        yield made


def content_of(retrieval: Retrieval, document: str) -> Any:
    """Return a document's own bytes as the proxy gives them."""
    return retrieval.ask("GET", f"/v1/collections/house/documents/{document}/content")


def test_a_document_is_kept_found_given_back_and_removed(retrieval: Retrieval, bucket: Bucket) -> None:
    large = b"<html><p>" + TEXT + b" gale</p><!--" + b"x" * (11 << 20) + b"--></html>"  # in several parts
    retrieval.send("house", {"wind.txt": TEXT, "gale.html": large})
    documents = {each["name"]: each for each in retrieval.settle("house", limit_s=180)}
    assert {each["state"] for each in documents.values()} == {"done"}, documents

    names = bucket.names()
    assert sorted(name.split("/")[:2] for name in names) == [["of", "house"]] * 2
    assert content_of(retrieval, documents["gale.html"]["id"]).body == large
    assert {each["document"]["name"] for each in retrieval.search("lighthouse", "house")} == set(documents)
    left = [path for name in ("originals", "incoming") for path in (retrieval.folder / "data" / name).iterdir()]
    assert left == []

    retrieval.send("house", {"again.txt": TEXT})
    until(lambda: sorted(bucket.names()) == sorted(names), READY_S)
    retrieval.ask("DELETE", f"/v1/collections/house/documents/{documents['gale.html']['id']}")
    assert len(bucket.names()) == 1
    retrieval.ask("DELETE", "/v1/collections/house")
    assert bucket.names() == []


def test_what_lay_in_the_folder_before_is_still_given(state_folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    with start_retrieval(state_folder, tmp_path) as before:
        before.send("house", {"wind.txt": TEXT})
        (document,) = before.settle("house")
        before.proxy.environment = {
            **before.proxy.environment,
            "RETRIEVAL_ORIGINALS": "s3://papers/other",
            "RETRIEVAL_S3_ENDPOINT": bucket.url,
            "RETRIEVAL_S3_REGION": "us-east-1",
        }
        give_key(Path(before.proxy.environment["SECRETS_DIRECTORY"]))
        before.proxy.end()
        before.proxy.start()
        before.proxy.wait()

        assert content_of(before, document["id"]).body == TEXT


def test_a_bucket_that_is_away_is_told_and_waited_for(state_folder: Path, tmp_path: Path) -> None:
    own = Bucket(tmp_path)
    own.start()
    with start(state_folder, tmp_path / "proxy", own) as retrieval:
        own.stop()
        refused = retrieval.send("house", {"wind.txt": TEXT})
        own.start()
        retrieval.send("house", {"wind.txt": TEXT})
        (document,) = retrieval.settle("house")
        own.stop()
        lost = content_of(retrieval, document["id"])
        log = retrieval.proxy.log.read_text(errors="replace")

    assert (refused.status, lost.status) == (503, 503)
    assert refused.body["error"]["message"] == "the store of the documents does not answer"
    assert "the bucket papers does not store documents:" in log
    assert KEY["retrieval_s3_secret_key"] not in log


def test_a_bucket_that_does_not_exist_is_named(state_folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    with start(state_folder, tmp_path, bucket, "nobodys") as retrieval:
        refused = retrieval.send("house", {"wind.txt": TEXT})
        log = retrieval.proxy.log.read_text(errors="replace")

    assert refused.status == 503
    assert "there is no bucket nobodys" in log


def test_a_backup_holds_what_lies_in_the_bucket(state_folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with start(state_folder, folders[0], bucket) as one, start_retrieval(state_folder, folders[1]) as two:
        one.send("house", {"wind.txt": TEXT})
        (document,) = one.settle("house")
        backup = one.ask("GET", "/v1/backup", key="master").body
        told = two.ask("POST", "/v1/restore", key="master", body=backup, kind="application/x-tar")
        until(lambda: two.ask("GET", "/health").status == 200, READY_S)

        assert told.body == {"collections": 1, "documents": 1, "lost": 0}
        assert content_of(two, document["id"]).body == TEXT
