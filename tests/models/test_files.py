"""Whether a model is whole on this host: in a folder of its own, and in Hugging Face's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stackwright.domain.machine import ModelFiles
from stackwright.models.cache import HubCache
from stackwright.models.files import inspect_cache, inspect_folder

from tests.models.checkpoints import write_model
from tests.models.test_folder import CONFIG, FIRST, SECOND, SHARDS

NAME = "someone/Tiny-Model"
COMMIT = "a" * 40
LAST = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def look(folder: Path, uid: int = 4711) -> ModelFiles:
    """Look at a folder for a user who owns nothing in it."""
    return inspect_folder(folder, uid, 4711)


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    """Give a cache with a model in two shards."""
    made = HubCache(models=tmp_path / "hub", assets=tmp_path / "assets")
    folder = made.models / "models--someone--Tiny-Model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="ascii")
    write_model(folder / "snapshots" / COMMIT, CONFIG, SHARDS)
    return made


def snapshot(cache: HubCache) -> Path:
    """Return the folder of the downloaded version."""
    return cache.models / "models--someone--Tiny-Model" / "snapshots" / COMMIT


@pytest.mark.parametrize("shards", [{"model.safetensors": [*FIRST, *SECOND]}, SHARDS], ids=["one file", "shards"])
def test_a_whole_model(shards: dict[str, list], tmp_path: Path) -> None:  # type: ignore[type-arg]
    folder = write_model(tmp_path / "m", CONFIG, shards)
    found = look(folder)
    assert (found.complete, found.problem, found.unreadable, found.missing_bytes) == (True, None, None, 0)
    assert found.weight_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_folder_without_a_description(tmp_path: Path) -> None:
    assert look(tmp_path).problem == f"no config.json in {tmp_path}"


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    (folder / LAST).unlink()
    assert look(folder).problem == f"{folder}: 1 of 2 shards are missing, such as {LAST}"


def test_a_shard_that_was_cut_short(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    whole = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(whole[:-1])
    problem = look(folder).problem
    assert problem == f"{folder / LAST}: has {len(whole) - 1} bytes, but its header says {len(whole)}"


def test_a_file_that_the_stacks_user_may_not_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    assert look(folder).unreadable is None
    (folder / LAST).chmod(0o600)
    assert look(folder).unreadable == str(folder / LAST)
    assert look(folder, uid=0).unreadable is None
    assert look(folder, uid=(folder / LAST).stat().st_uid).unreadable is None


def test_a_model_of_which_nothing_was_downloaded(tmp_path: Path) -> None:
    cache = HubCache(models=tmp_path / "none", assets=tmp_path / "none")
    found = inspect_cache(NAME, cache, 4711, 4711, 1000)
    assert found == ModelFiles(folder=None, complete=False, weight_bytes=1000, missing_bytes=1000)
    assert inspect_cache(NAME, cache, 4711, 4711, None).missing_bytes is None


def test_what_was_downloaded_already_is_not_needed_again(cache: HubCache) -> None:
    (snapshot(cache) / LAST).unlink()
    blobs = cache.models / "models--someone--Tiny-Model" / "blobs"
    blobs.mkdir()
    (blobs / "abc.incomplete").write_bytes(b"x" * 600)
    found = inspect_cache(NAME, cache, 4711, 4711, 1000)
    assert (found.complete, found.problem, found.missing_bytes) == (False, None, 400)


def test_a_whole_download(cache: HubCache) -> None:
    found = inspect_cache(NAME, cache, 4711, 4711, None)
    assert (found.complete, found.folder) == (True, str(snapshot(cache).parents[1]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [(LAST, b"x", "not a safetensors file"), (INDEX, b"[", "not valid JSON")],
    ids=["shard", "index"],
)
def test_a_download_that_is_damaged(name: str, content: bytes, words: str, cache: HubCache) -> None:
    (snapshot(cache) / name).write_bytes(content)
    found = inspect_cache(NAME, cache, 4711, 4711, None)
    assert not found.complete
    assert found.problem is not None
    assert words in found.problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["config.json", INDEX, LAST]), content=st.binary(max_size=200))
def test_any_content_is_judged(name: str, content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.rmtree(folder, ignore_errors=True)
    write_model(folder, CONFIG, SHARDS)
    (folder / name).write_bytes(content)
    found = look(folder)
    assert found.complete or found.problem
    assert found.problem is None or "\n" not in found.problem
