"""What is known of a model's size before it is loaded, and how its arrival is seen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.domain.plan import Replica
from stackwright.models.cache import find_cache
from stackwright.watching.weights import INDEX, Download, Weights, find_weights

from tests.planning_requests import plan_for, recorded

UNKNOWN = replace(plan_for(recorded("cpu-small")).replicas[0], memory=None)
NOWHERE = Path("/nonexistent")


def planned(weights_bytes: int, ranks: int = 1) -> Replica:
    """Return a replica whose plan forecasts its weights, in bytes per GPU."""
    replica = plan_for(recorded("1x-h200")).replicas[0]
    assert replica.memory is not None
    return replace(replica, tensor_parallel=ranks, memory=replace(replica.memory, weights_bytes=weights_bytes))


def write(folder: Path, **sizes: int) -> None:
    """Write files of these sizes, each name with its ending after `__`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        (folder / name.replace("__", ".")).write_bytes(b"x" * size)


def write_index(folder: Path, total: object) -> None:
    """Write an index that names so many bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}}))


def test_a_folder_tells_by_its_files(tmp_path: Path) -> None:
    write(tmp_path, a__safetensors=70, b__safetensors=50, config__json=9)
    assert find_weights(str(tmp_path), NOWHERE, UNKNOWN) == Weights(total_bytes=120, largest_file_bytes=70)


def test_a_model_that_has_not_come_is_told_by_the_plan() -> None:
    known = Weights(total_bytes=4000, largest_file_bytes=4000)
    assert find_weights("acme/tiny", NOWHERE, planned(1000, ranks=4)) == known
    assert find_weights("acme/tiny", NOWHERE, UNKNOWN) == Weights()


def test_a_model_that_has_come_in_part_is_told_by_its_index(tmp_path: Path) -> None:
    """The planner has fetched the index; one file of two is there."""
    folder = find_cache({}, tmp_path).folder("acme/tiny")
    write(folder / "refs", main=0)
    (folder / "refs" / "main").write_text("abc1234")
    write_index(folder / "snapshots" / "abc1234", 200)
    write(folder / "snapshots" / "abc1234", a__safetensors=70)
    assert find_weights("acme/tiny", folder, UNKNOWN) == Weights(total_bytes=200, largest_file_bytes=200)
    write(folder / "snapshots" / "abc1234", b__safetensors=130)
    assert find_weights("acme/tiny", folder, UNKNOWN) == Weights(total_bytes=200, largest_file_bytes=130)


@pytest.mark.parametrize("total", [None, "many", -1, 0, 2**70, [], True])
def test_an_index_that_names_no_size_is_none(total: object, tmp_path: Path) -> None:
    write_index(tmp_path, total)
    assert find_weights(str(tmp_path), NOWHERE, UNKNOWN) == Weights()


@pytest.mark.parametrize("commit", ["", "../../etc", "a/b"])
def test_a_reference_leads_nowhere_else(commit: str, tmp_path: Path) -> None:
    folder = find_cache({}, tmp_path).folder("acme/tiny")
    write(folder / "refs", main=0)
    (folder / "refs" / "main").write_text(commit)
    write(folder / "snapshots", a__safetensors=70)
    assert find_weights("acme/tiny", folder, UNKNOWN) == Weights()


def test_only_what_grows_is_a_download(tmp_path: Path) -> None:
    """A part that an interrupted download has left says nothing until it is taken up again."""
    blobs = tmp_path / "blobs"
    write(blobs, aa=10, bb__incomplete=4096)
    os.truncate(blobs / "bb.incomplete", 2**30)  # room that is kept for it, and not filled yet
    download = Download(tmp_path)
    assert download.sample() == (10 + 4096, False)
    (blobs / "bb.incomplete").write_bytes(b"x" * 8192)
    assert download.sample() == (10 + 8192, True)
    (blobs / "bb.incomplete").replace(blobs / "bb")
    assert download.sample() == (10 + 8192, False)
    write(blobs, cc__incomplete=4096)
    assert download.sample() == (10 + 8192 + 4096, True)


def test_nothing_to_arrive_is_nothing() -> None:
    assert Download(None).sample() == (0, False)
    assert Download(NOWHERE).sample() == (0, False)
