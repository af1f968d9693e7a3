"""The model that is served where the user named none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.catalog.load import load_llms
from generator.domain.model_facts import CatalogLlm, Checkpoint, LlmRole
from generator.planning.llm_choice import OBJECTIVES, RUNNERS_UP, LlmChoice, choose_llm

LLMS = load_llms()
Judge = Callable[[CatalogLlm, Checkpoint], bool | None]


def within(gib: float) -> Judge:
    """Judge by weights alone, with room for nothing else."""

    def fits(_: CatalogLlm, checkpoint: Checkpoint) -> bool | None:
        return None if checkpoint.weight_bytes is None else checkpoint.weight_bytes <= gib * 2**30

    return fits


def choose(fits: Judge, **changes: object) -> LlmChoice:
    """Choose for an RTX 4090 without a token, but for what the test changes."""
    wishes: dict[str, object] = {"objective": "throughput", "compute_capability": "8.9", "has_token": False}
    return choose_llm(LLMS, fits, **{**wishes, **changes})  # type: ignore[arg-type]


def name(choice: LlmChoice) -> str | None:
    """Return the chosen checkpoint."""
    return choice.best.checkpoint.hub_id if choice.best else None


@pytest.mark.parametrize(
    ("gib", "capability", "objective", "expected"),
    [
        (6, "8.6", "throughput", "Qwen/Qwen3-8B-AWQ"),
        (20, "8.9", "throughput", "Qwen/Qwen3-30B-A3B-GPTQ-Int4"),
        (40, "8.9", "throughput", "Qwen/Qwen3.6-35B-A3B-FP8"),
        (40, "8.9", "latency", "Qwen/Qwen3.6-35B-A3B-FP8"),
        (130, "9.0", "throughput", "Qwen/Qwen3.5-122B-A10B-FP8"),
        (130, "9.0", "latency", "Qwen/Qwen3-Next-80B-A3B-Instruct-FP8"),
        (1000, "9.0", "context", "moonshotai/Kimi-K2.5"),
    ],
)
def test_the_rule_on_real_rows(gib: float, capability: str, objective: str, expected: str) -> None:
    choice = choose(within(gib), compute_capability=capability, objective=objective)
    assert name(choice) == expected


def test_among_models_of_about_one_size_the_newest_is_taken() -> None:
    """A vision model with a hundredth more parameters and an older date does not beat the chat model."""
    rows = tuple(row for row in LLMS if row.name in ("qwen2.5-vl-7b", "qwen3-8b"))
    assert len(rows) == 2
    choice = choose_llm(rows, within(80), objective="throughput", compute_capability="12.0", has_token=False)
    assert name(choice) == "Qwen/Qwen3-8B"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_runners_up_have_reasons(objective: str) -> None:
    choice = choose(within(40), objective=objective)
    assert choice.best is not None
    assert len(choice.runners_up) == RUNNERS_UP
    for candidate in (choice.best, *choice.runners_up):
        assert candidate.checkpoint.hub_id in candidate.reason
        assert "\n" not in candidate.reason


def test_nothing_gated_without_a_token() -> None:
    choice = choose(within(10_000))
    assert choice.best is not None
    for candidate in (choice.best, *choice.runners_up):
        assert candidate.checkpoint.gated is False


def test_a_token_opens_what_is_gated() -> None:
    only = tuple(row for row in LLMS if row.name == "gemma-3-27b")
    closed = choose_llm(only, within(80), objective="latency", compute_capability="9.0", has_token=False)
    opened = choose_llm(only, within(80), objective="latency", compute_capability="9.0", has_token=True)
    assert (name(closed), name(opened)) == (None, "google/gemma-3-27b-it")
    assert "there is no token" in closed.excluded[0][1]


def test_only_models_that_chat() -> None:
    choice = choose(lambda *_: True)
    chosen = {candidate.row.role for candidate in (choice.best, *choice.runners_up) if candidate}
    assert chosen <= {LlmRole.CHAT, LlmRole.VISION}
    assert ("bge-m3", "is for embedding") in choice.excluded


def test_an_old_engine_serves_old_models() -> None:
    choice = choose(within(40), engine_version="0.9.0")
    assert choice.best is not None
    assert choice.best.row.minimum_engine in ("0.6.0", "0.7.3", "0.8.5")
    assert ("qwen3.6-27b", "needs engine 0.17.0, this host runs 0.9.0") in choice.excluded


def test_a_cpu_is_not_asked_to_read_much_per_token() -> None:
    choice = choose(within(32), compute_capability=None, most_active_parameters=4_000_000_000)
    assert choice.best is not None
    assert (choice.best.row.active_parameters or choice.best.row.parameters or 0) <= 4_000_000_000
    assert choice.best.checkpoint.format == "bf16"


def test_nothing_fits() -> None:
    choice = choose(lambda *_: False)
    assert (choice.best, choice.runners_up) == (None, ())
    assert len(choice.excluded) == len(LLMS)


@given(st.floats(0.5, 2000), st.sampled_from(OBJECTIVES), st.sampled_from(["7.5", "8.6", "9.0", "12.0", None]))
def test_what_is_chosen_always_fits_and_is_open(gib: float, objective: str, capability: str | None) -> None:
    fits = within(gib)
    choice = choose_llm(LLMS, fits, objective=objective, compute_capability=capability, has_token=False)
    for candidate in (choice.best, *choice.runners_up):
        if candidate is not None:
            assert fits(candidate.row, candidate.checkpoint)
            assert candidate.checkpoint.gated is False
    other = choose_llm(tuple(reversed(LLMS)), fits, objective=objective, compute_capability=capability, has_token=False)
    assert (choice.best, choice.runners_up) == (other.best, other.runners_up)
    assert set(choice.excluded) == set(other.excluded)
