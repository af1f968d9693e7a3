"""Kills at any moment of an ingest: every document is there once, and none is lost."""

from __future__ import annotations

from pathlib import Path

from tests.integration.retrieval.kills import KINDS, run_kills


def test_kills_of_the_proxy_and_of_postgresql_lose_and_double_nothing(state_folder: Path, tmp_path: Path) -> None:
    told = run_kills(state_folder, tmp_path, kills=4, seed=1)

    assert told.kills == dict.fromkeys(KINDS, 1)
    assert told.faults == ()
    assert told.documents > 0
