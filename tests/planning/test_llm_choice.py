"""The model that is served where the user named none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_llms
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.domain.objective import Objective
from stackwright.domain.role import Role
from stackwright.engines.vllm.engine import VLLM
from stackwright.planning.llm_choice import (
    RECENT_MONTHS,
    ROOMY_TOKENS,
    RUNNERS_UP,
    SAME_CLASS,
    LlmCandidate,
    LlmChoice,
    Serves,
    choose_llm,
)

LLMS = load_llms()
RULES = VLLM.format_rules(load_catalog(), None)
LATENCY, THROUGHPUT, CONTEXT = Objective.LATENCY, Objective.THROUGHPUT, Objective.CONTEXT
LONG = 2**20


def within(gib: float) -> Serves:
    """Judge by weights alone, with room for any request beside them."""

    def serves(_: CatalogLlm, checkpoint: Checkpoint) -> int | None:
        return (
            None
            if checkpoint.weight_bytes is None or checkpoint.computed
            else LONG * (checkpoint.weight_bytes <= gib * 2**30)
        )

    return serves


def choose(serves: Serves, **changes: object) -> LlmChoice:
    """Choose for an RTX 4090 without a token, but for what the test changes."""
    wishes: dict[str, object] = {"objective": THROUGHPUT, "compute_capability": "8.9", "has_token": False}
    return choose_llm(RULES, LLMS, serves, **{**wishes, **changes})  # type: ignore[arg-type]


def name(choice: LlmChoice) -> str | None:
    """Return the chosen checkpoint."""
    return choice.best.checkpoint.hub_id if choice.best else None


@pytest.mark.parametrize(
    ("gib", "capability", "objective", "expected"),
    [
        (6, "8.6", THROUGHPUT, "Qwen/Qwen3-8B-AWQ"),
        (20, "8.9", THROUGHPUT, "Qwen/Qwen3-30B-A3B-GPTQ-Int4"),
        (40, "8.9", THROUGHPUT, "Qwen/Qwen3.6-35B-A3B-FP8"),
        (40, "8.9", LATENCY, "Qwen/Qwen3.6-35B-A3B-FP8"),
        (130, "9.0", THROUGHPUT, "Qwen/Qwen3.5-122B-A10B-FP8"),
        (130, "9.0", LATENCY, "Qwen/Qwen3-Next-80B-A3B-Instruct-FP8"),
        (1000, "9.0", CONTEXT, "moonshotai/Kimi-K2.5"),
    ],
)
def test_the_rule_on_real_rows(gib: float, capability: str, objective: Objective, expected: str) -> None:
    choice = choose(within(gib), compute_capability=capability, objective=objective)
    assert name(choice) == expected


def test_among_models_of_about_one_size_the_newest_is_taken() -> None:
    """A vision model with a hundredth more parameters and an older date does not beat the chat model."""
    rows = tuple(row for row in LLMS if row.name in ("qwen2.5-vl-7b", "qwen3-8b"))
    assert len(rows) == 2
    choice = choose_llm(RULES, rows, within(80), objective=THROUGHPUT, compute_capability="12.0", has_token=False)
    assert name(choice) == "Qwen/Qwen3-8B"


@pytest.mark.parametrize("objective", Objective)
def test_runners_up_have_reasons(objective: Objective) -> None:
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
    closed = choose_llm(RULES, only, within(80), objective=LATENCY, compute_capability="9.0", has_token=False)
    opened = choose_llm(RULES, only, within(80), objective=LATENCY, compute_capability="9.0", has_token=True)
    assert (name(closed), name(opened)) == (None, "google/gemma-3-27b-it")
    assert "no token is set" in closed.excluded[0][1]


def test_only_models_that_chat() -> None:
    choice = choose(lambda *_: LONG)
    chosen = {candidate.row.role for candidate in (choice.best, *choice.runners_up) if candidate}
    assert chosen <= {Role.CHAT, Role.VISION}
    assert ("bge-m3", "is for embedding") in choice.excluded


def test_an_old_engine_serves_old_models() -> None:
    choice = choose(within(40), engine_version="0.9.0")
    assert choice.best is not None
    assert choice.best.row.minimum_engine in ("0.6.0", "0.7.3", "0.8.5")
    assert ("qwen3.6-27b", "needs engine 0.17.0, this host runs 0.9.0") in choice.excluded


def test_nothing_fits() -> None:
    choice = choose(lambda *_: 0)
    assert (choice.best, choice.runners_up) == (None, ())
    assert len(choice.excluded) == len(LLMS)


@pytest.mark.parametrize("objective", Objective)
@given(gib=st.floats(0.5, 2000), capability=st.sampled_from(["7.5", "8.6", "9.0", "12.0", None]))
def test_what_is_chosen_always_fits_and_is_open(objective: Objective, gib: float, capability: str | None) -> None:
    serves = within(gib)
    choice = choose_llm(RULES, LLMS, serves, objective=objective, compute_capability=capability, has_token=False)
    for candidate in (choice.best, *choice.runners_up):
        if candidate is not None:
            assert serves(candidate.row, candidate.checkpoint)
            assert candidate.checkpoint.gated is False
    reverse = tuple(reversed(LLMS))
    other = choose_llm(RULES, reverse, serves, objective=objective, compute_capability=capability, has_token=False)
    assert (choice.best, choice.runners_up) == (other.best, other.runners_up)
    assert set(choice.excluded) == set(other.excluded)


def room(tokens_gib: float, gib: float) -> Serves:
    """Judge by weights and a cache that takes so many GiB for each thousand tokens and each billion parameters."""

    def serves(row: CatalogLlm, checkpoint: Checkpoint) -> int | None:
        if checkpoint.weight_bytes is None or checkpoint.computed:
            return None
        left = gib - checkpoint.weight_bytes / 2**30
        return max(0, int(1000 * left / (tokens_gib * (row.parameters or 1) / 1e9)))

    return serves


@pytest.mark.parametrize("objective", Objective)
@given(gib=st.floats(1, 1500), tokens_gib=st.floats(0.0001, 0.1), capability=st.sampled_from(["7.5", "8.9", "10.0"]))
def test_looking_at_few_gives_what_looking_at_all_gives(
    objective: Objective, gib: float, tokens_gib: float, capability: str
) -> None:
    """The rule in its plainest words, over every model: it chooses the same."""
    serves = room(tokens_gib, gib)
    choice = choose_llm(RULES, LLMS, serves, objective=objective, compute_capability=capability, has_token=False)
    # One model at a time has no other to be compared with: what comes out is whether it fits, by which checkpoint.
    alone = [
        choose_llm(RULES, (row,), serves, objective=objective, compute_capability=capability, has_token=False).best
        for row in LLMS
    ]
    fitting = [each for each in alone if each is not None]
    expected = sorted(fitting, key=lambda each: plain_rule(each, fitting, objective))[: 1 + RUNNERS_UP]
    chosen = [each for each in (choice.best, *choice.runners_up) if each is not None]
    assert [(each.checkpoint.hub_id, each.tokens) for each in chosen] == [
        (each.checkpoint.hub_id, each.tokens) for each in expected
    ]


def plain_rule(each: LlmCandidate, fitting: list[LlmCandidate], objective: Objective) -> tuple[object, ...]:
    """Return the place that the module's own words give a candidate."""
    newest = max(months(other) for other in fitting)
    recent = [other for other in fitting if newest - months(other) <= RECENT_MONTHS]
    largest = max(other.row.parameters or 0 for other in recent)
    size = each.row.parameters or 0
    active = each.row.active_parameters or size
    old, small = each not in recent, size < SAME_CLASS * largest
    wishes = {CONTEXT: -each.tokens, LATENCY: active, THROUGHPUT: int(active * 2 >= size)}
    wish = 0 if old or small else wishes[objective]
    narrow = each.tokens < min(ROOMY_TOKENS, each.row.context_tokens or ROOMY_TOKENS)
    # For context the length has been compared already, where it counts.
    narrow = narrow and (objective is not CONTEXT or old or small)
    return (old, small, wish, -round(10 * size / (largest or 1)), narrow, -months(each), -size, each.row.name)


def months(each: LlmCandidate) -> int:
    """Count the months to a release."""
    year, month = (each.row.released or "0-0").split("-")
    return int(year) * 12 + int(month)


def test_the_longest_request_that_fits_is_not_the_longest_that_is_named() -> None:
    """A model that is named for a million tokens, of which this host holds few, gives way to one that it serves in
    full.
    """
    rows = {row.name: row for row in LLMS}
    named_longer, held = rows["qwen3-30b-a3b"], rows["gpt-oss-20b"]
    fitting = {named_longer.name: 9000, held.name: LONG}
    pair = (replace(named_longer, context_tokens=LONG, released=held.released), held)

    def serves(row: CatalogLlm, _: Checkpoint) -> int:
        return fitting[row.name]

    choice = choose_llm(RULES, pair, serves, objective=CONTEXT, compute_capability="9.0", has_token=False)
    assert choice.best is not None
    assert choice.best.row == held
    assert choice.best.tokens == held.context_tokens
    assert f"requests of {held.context_tokens:,} tokens fit" in choice.best.reason
    assert "requests of 9,000 tokens fit" in choice.runners_up[0].reason


@pytest.mark.parametrize(
    ("lengths", "objective", "expected"),
    [
        ((40_960, 40_960, 40_960), THROUGHPUT, "Qwen/Qwen3-14B"),
        ((33_000, 40_960, 40_960), THROUGHPUT, "Qwen/Qwen3-14B"),
        ((33_000, 40_960, 40_960), CONTEXT, "Qwen/Qwen3-14B-FP8"),
        ((10_000, 20_000, 40_960), THROUGHPUT, "Qwen/Qwen3-14B-AWQ"),
        ((10_000, 20_000, 20_000), THROUGHPUT, "Qwen/Qwen3-14B-FP8"),
    ],
)
def test_a_smaller_checkpoint_is_taken_where_it_leaves_room(
    lengths: tuple[int, int, int], objective: Objective, expected: str
) -> None:
    """Up to four short requests, or one long, for `context` up to the model's own length."""
    only = tuple(row for row in LLMS if row.name == "qwen3-14b")
    held = dict(zip(("Qwen/Qwen3-14B", "Qwen/Qwen3-14B-FP8", "Qwen/Qwen3-14B-AWQ"), lengths, strict=True))

    def serves(_: CatalogLlm, checkpoint: Checkpoint) -> int:
        return held.get(checkpoint.hub_id, 0)

    choice = choose_llm(RULES, only, serves, objective=objective, compute_capability="8.9", has_token=False)
    assert name(choice) == expected


def test_of_siblings_the_one_with_room_comes_before_the_newer() -> None:
    rows = tuple(row for row in LLMS if row.name in ("qwen3-30b-a3b", "qwen3-30b-a3b-2507"))
    assert len(rows) == 2

    def serves(_: CatalogLlm, checkpoint: Checkpoint) -> int:
        return LONG if "GPTQ" in checkpoint.hub_id else 10_000 if checkpoint.format == "fp8" else 0

    choice = choose_llm(RULES, rows, serves, objective=THROUGHPUT, compute_capability="8.0", has_token=False)
    assert name(choice) == "Qwen/Qwen3-30B-A3B-GPTQ-Int4"
    assert [each.row.name for each in choice.runners_up] == ["qwen3-30b-a3b-2507"]


@pytest.mark.parametrize("objective", [THROUGHPUT, LATENCY])
def test_few_models_are_asked_about(objective: Objective) -> None:
    """Each question costs a forecast: of a hundred checkpoints that would fit, about as many as are shown."""
    asked: list[str] = []

    def serves(_: CatalogLlm, checkpoint: Checkpoint) -> int:
        asked.append(checkpoint.hub_id)
        return LONG

    choose(serves, objective=objective)
    assert len(asked) <= 2 + 1 + RUNNERS_UP
