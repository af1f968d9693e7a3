"""The score over the observed start-ups in benchmarks/cases/: what must stay reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.forecast import Row, score, summarize
from benchmarks.observed import read_cases

CASES = Path(__file__).parents[4] / "benchmarks/cases"


def _scored(file: str) -> list[Row]:
    return [score(case) for case in read_cases(CASES / file, CASES / "configs.yaml", CASES / "readings.yaml")]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return _scored("vllm_memory_cases.yaml")


@pytest.fixture(scope="module")
def found() -> list[Row]:
    """Return the start-ups that were found after the rules had been written."""
    return _scored("found.yaml")


def test_no_log_that_shows_a_failure_is_said_to_fit(rows: list[Row]) -> None:
    failed = [row for row in rows if row.failed and row.verdict["ours"] is not None]
    assert len(failed) >= 12
    assert [row.id for row in failed if row.verdict["ours"] == "fits"] == []


def test_starts_are_not_refused(rows: list[Row]) -> None:
    fitted = [row for row in rows if not row.failed and row.verdict["ours"] is not None]
    assert len(fitted) >= 27
    assert [row.id for row in fitted if row.verdict["ours"] == "does-not-fit"] == []


def test_weights_and_pool_are_within_the_targets(rows: list[Row]) -> None:
    figures = summarize(rows, "ours")
    weights, pool = figures["weights, % of the log's"], figures["pool, % of the GPU's memory"]
    assert (weights["median"] <= 0.2, weights["mean"] <= 1.0) == (True, True)
    assert pool["median"] <= 1.0


def test_bytes_per_token_are_right(rows: list[Row]) -> None:
    wrong = [
        row.id
        for row in rows
        if (error := row.token_error["ours"]) is not None and abs(error) > max(1.0, row.token_tolerance or 0.0)
    ]
    # Its log prints the pool of a rank that is not the smallest one (note of the case).
    assert wrong == ["vllm-21348-qwen3-235b-fp8-4xh100"]


def test_start_ups_found_since_are_judged_right(found: list[Row]) -> None:
    judged = [row for row in found if row.verdict["ours"] is not None]
    assert len(judged) >= 20
    assert [row.id for row in judged if row.failed and row.verdict["ours"] == "fits"] == []
    assert [row.id for row in judged if not row.failed and row.verdict["ours"] == "does-not-fit"] == []


def test_every_cache_found_since_holds_the_tokens_that_its_log_prints(found: list[Row]) -> None:
    errors = {row.id: error for row in found if (error := row.token_error["ours"]) is not None}
    assert len(errors) >= 18
    assert {name: error for name, error in errors.items() if abs(error) > 0.2} == {}
