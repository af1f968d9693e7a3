"""Where Hugging Face's cache is, and what is found in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.domain.tensors import TensorHeader
from stackwright.models.cache import HubCache, find_cache, find_snapshot, keep_headers, load_headers

HOME = Path.home()


@pytest.mark.parametrize(
    ("environment", "home", "models", "assets"),
    [
        ({}, None, HOME / ".cache/huggingface/hub", HOME / ".cache/huggingface/assets"),
        ({"XDG_CACHE_HOME": "/c"}, None, Path("/c/huggingface/hub"), Path("/c/huggingface/assets")),
        ({"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/c"}, None, HOME / "hf/hub", HOME / "hf/assets"),
        ({"HF_HOME": "/hf", "HF_HUB_CACHE": "/m"}, None, Path("/m"), Path("/hf/assets")),
        ({"HF_HOME": "/hf", "HF_ASSETS_CACHE": "/a"}, None, Path("/hf/hub"), Path("/a")),
        ({"HF_HOME": "/hf", "HF_HUB_CACHE": "/m"}, Path("/given"), Path("/given/hub"), Path("/given/assets")),
    ],
)
def test_the_cache_is_where_hugging_face_has_it(
    environment: dict[str, str], home: Path | None, models: Path, assets: Path
) -> None:
    assert find_cache(environment, home) == HubCache(models=models, assets=assets)


@pytest.mark.parametrize("commit", ["../../elsewhere", "", "main", "0123456789abcdef"])
def test_a_snapshot_is_named_by_a_commit_that_is_there(tmp_path: Path, commit: str) -> None:
    cache = HubCache(models=tmp_path, assets=tmp_path)
    folder = tmp_path / "models--a--b"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit + "\n", encoding="ascii")
    assert find_snapshot("a/b", cache) is None
    (folder / "snapshots/0123456789abcdef").mkdir(parents=True)
    found = find_snapshot("a/b", cache)
    assert found == (folder / "snapshots/0123456789abcdef" if commit == "0123456789abcdef" else None)


def test_headers_come_back_as_they_were_kept(tmp_path: Path) -> None:
    cache = HubCache(models=tmp_path, assets=tmp_path)
    tensors = (TensorHeader(name="ü", dtype="BF16", shape=(2, 3)), TensorHeader(name="s", dtype="F32", shape=()))
    keep_headers("a/b", "0123456", tensors, cache)
    assert load_headers("a/b", "0123456", cache) == tensors
    assert load_headers("a/b", "7654321", cache) is None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "stackwright").write_text("a file where a folder should be", encoding="ascii")
    cache = HubCache(models=tmp_path, assets=tmp_path)
    keep_headers("a/b", "0123456", (), cache)
    assert load_headers("a/b", "0123456", cache) is None
