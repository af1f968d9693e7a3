"""What is remembered of the memory that good starts took, and that no file in its place can do harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.detect.snapshot import read_snapshot
from stackwright.domain.forecast import ObservedStart
from stackwright.engines.vllm.start_report import read_start
from stackwright.watching.remembered import MOST_STARTS, host_word, keep_observed, remembered_starts

from tests.engines.vllm.start_logs import NEWEST

HOST = read_snapshot(Path(__file__).parents[1] / "hosts/1x-rtx3090/host.yaml")
NAME = "NVIDIA GeForce RTX 3090"
MODEL = "Qwen/Qwen3-8B"


def start(length: int = 16384, *, cold: bool | None = True) -> ObservedStart:
    """Return a start with another length."""
    found = read_start(NEWEST)
    assert found is not None
    return replace(found, cold=cold, settings=replace(found.settings, max_model_len=length))


def test_the_newest_comes_first_and_the_same_settings_once(tmp_path: Path) -> None:
    keep_observed(tmp_path, HOST, NAME, "2026-11-26", start(4096))
    keep_observed(tmp_path, HOST, NAME, "2026-11-27", start())
    keep_observed(tmp_path, HOST, NAME, "2026-11-28", start(4096))
    seen = remembered_starts(tmp_path, HOST, MODEL)
    assert [(each.date, each.start.settings.max_model_len) for each in seen] == [
        ("2026-11-28", 4096),
        ("2026-11-27", 16384),
    ]
    assert seen[1].start == start()


def test_a_first_start_is_not_forgotten_for_a_warm_one(tmp_path: Path) -> None:
    keep_observed(tmp_path, HOST, NAME, "2026-11-27", start())
    keep_observed(tmp_path, HOST, NAME, "2026-11-28", start(cold=False))
    assert [each.start.cold for each in remembered_starts(tmp_path, HOST, MODEL)] == [False, True]
    keep_observed(tmp_path, HOST, NAME, "2026-11-29", start())
    assert [each.start.cold for each in remembered_starts(tmp_path, HOST, MODEL)] == [True]


def test_another_host_or_model_has_its_own_past(tmp_path: Path) -> None:
    keep_observed(tmp_path, HOST, NAME, "2026-11-27", start())
    busy = replace(HOST, gpus=tuple(replace(gpu, memory_used_bytes=20 * 2**30) for gpu in HOST.gpus))
    other = replace(HOST, gpus=tuple(replace(gpu, name="NVIDIA A10") for gpu in HOST.gpus))
    assert remembered_starts(tmp_path, HOST, "acme/other") == ()
    assert remembered_starts(tmp_path, other, MODEL) == ()
    assert len(remembered_starts(tmp_path, busy, MODEL)) == 1
    assert host_word(busy) == host_word(HOST)


def test_only_the_newest_are_kept_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    for number in range(MOST_STARTS + 3):
        keep_observed(tmp_path, HOST, NAME, "2026-11-27", start(1000 + number))
    (file,) = tmp_path.iterdir()
    assert len(remembered_starts(tmp_path, HOST, MODEL)) == MOST_STARTS
    assert file.stat().st_mode & 0o777 == 0o600
    assert "very-secret" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2, "starts": []}', '{"schema": 1, "starts": [1, {}]}', "\0"]
)
def test_a_damaged_file_means_that_nothing_is_known(tmp_path: Path, text: str) -> None:
    (tmp_path / "observed.json").write_text(text, encoding="utf-8")
    assert remembered_starts(tmp_path, HOST, MODEL) == ()
    keep_observed(tmp_path, HOST, NAME, "2026-11-27", start())
    assert len(remembered_starts(tmp_path, HOST, MODEL)) == 1
