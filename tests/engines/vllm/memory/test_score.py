"""The score over the observed start-ups in benchmarks/cases/: what must stay reached."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.domain.forecast import CAME_UP, Measured, ObservedStart, RememberedStart
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.engines.vllm.memory.releases import Release

from benchmarks.forecast import Row, score, summarize
from benchmarks.observed import Case, read_cases

CASES = Path(__file__).parents[4] / "benchmarks/cases"


def read(file: str) -> tuple[Case, ...]:
    """Return the start-ups of a file."""
    return read_cases(CASES / file, CASES / "configs.yaml", CASES / "readings.yaml")


def _scored(file: str) -> list[Row]:
    return [score(case) for case in read(file)]


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


def _seen(case: Case) -> RememberedStart:
    """Return a case as this host would remember it."""
    measured = Measured(
        weights_bytes=round(case.weights_bytes) if case.weights_bytes else None,
        kv_cache_bytes=round(case.kv_bytes or 0),
        max_concurrency=case.concurrency,
    )
    start = ObservedStart(engine="vllm", model=case.id, settings=case.settings, measured=measured, outcome=CAME_UP)
    return RememberedStart(host="here", date="2026-11-29", gpu="", start=start)


@pytest.mark.parametrize("halved", [False, True], ids=["the same start again", "with half the context"])
def test_what_a_host_has_shown_is_what_it_shows_again(halved: bool) -> None:
    """Releases whose step follows the context, and pipeline stages, are left to the forecast."""
    off = {}
    for case in (*read("vllm_memory_cases.yaml"), *read("found.yaml")):
        known = case.shape and case.gpu and case.modelled and case.utilization_known and case.settings.version
        first = Release(case.settings.version, legacy_engine=case.settings.legacy_engine).first_engine
        if not known or not case.kv_bytes or case.failed or first or case.settings.pp > 1:
            continue
        assert case.shape is not None
        assert case.gpu is not None
        length = case.settings.max_model_len or case.shape.default_length
        settings = replace(case.settings, max_model_len=length // 2 if halved else length)
        answer = forecast(case.shape, settings, replace(case.gpu, used_bytes=0, seen=(_seen(case),)))
        if answer.basis:
            off[case.id] = abs(answer.memory.kv_cache_bytes - case.kv_bytes) / case.gpu.total_bytes
    assert len(off) >= 20
    assert {name: error for name, error in off.items() if error > 0.0001} == {}
