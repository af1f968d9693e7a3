"""Which values a search may try on recorded hosts: nothing that a person decided on, nothing that cannot matter."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.llm import LlmSource
from stackwright.domain.load import Workload
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.plan import Origin, Plan, ServedModel, Setting
from stackwright.domain.tuning import Axis, Goal
from stackwright.models.read import SMOKE, read_model
from stackwright.planning.planner import make_plan
from stackwright.planning.tuning import TuneRequest, axes_of, choose_at_once, objection_to

from tests.planning.several import Asked, plan_of
from tests.planning_requests import NOWHERE, SMOKE_FOLDER, recorded, request, with_setting

CHAT = Workload(preset="chat", input_tokens=512, output_tokens=128)
SEQS, STEP, RANKS, FORMAT = (
    "VLLM_MAX_NUM_SEQS",
    "VLLM_MAX_NUM_BATCHED_TOKENS",
    "VLLM_TENSOR_PARALLEL_SIZE",
    "VLLM_KV_CACHE_DTYPE",
)


def facts_of(model: ServedModel) -> ModelFacts:
    name = SMOKE if model.source is LlmSource.SMOKE else model.location
    return read_model(name, load_catalog().llms(), SMOKE_FOLDER, NOWHERE)


def axes(plan: Plan, goal: Goal = Goal.THROUGHPUT, *, at_once: int = 64, **changes: Any) -> dict[str, Axis]:
    """Return the axes of a plan's first model, by key."""
    model = plan.models[0]
    asked = TuneRequest(
        plan=plan,
        model=model,
        facts=facts_of(model),
        catalog=load_catalog(),
        goal=goal,
        at_once=at_once,
        workload=CHAT,
        most_share=0.90,
    )
    return {axis.key: axis for axis in axes_of(replace(asked, **changes))}


def plan(host: str, pins: dict[str, str] | None = None, model: str | None = None) -> Plan:
    return make_plan(request(recorded(host), pins=pins, model=model), load_catalog())


def fixed(found: Plan, key: str, origin: Origin) -> Plan:
    """Return a plan in which somebody else decided on a setting."""
    model = found.models[0]
    settings = model.settings if key in model.settings else found.settings
    return with_setting(found, key, replace(settings[key], origin=origin))


def test_ladders_go_up_and_down_from_what_is_planned() -> None:
    found = axes(plan("2x-rtx4090"))
    assert found[RANKS].ladders == (("2",),)
    assert found[FORMAT].ladders == (("fp8",),)
    # 256 requests at once are more than 32 for each of two replicas: more would change nothing.
    assert found[SEQS].ladders == (("16", "8", "4"),)
    assert found[STEP].ladders == (("4096", "8192", "16384"), ("1024", "512"))
    assert found["LITELLM_NUM_WORKERS"].ladders[0][0] == "2"
    assert next(iter(found)) == RANKS


def test_a_goal_orders_the_ladders() -> None:
    four = plan("4x-a100-two-nvlink-pairs")
    ranks = four.models[0].replicas[0].tensor_parallel
    for goal in Goal:
        ladders = axes(four, goal)[RANKS].ladders
        first = int(ladders[0][0])
        assert first < ranks if goal is Goal.THROUGHPUT and ranks > 1 else first != ranks
    assert axes(plan("2x-rtx4090"), Goal.LATENCY)[STEP].ladders[0] == ("1024", "512")


def test_a_limit_that_the_load_never_reaches_is_left_alone() -> None:
    found = axes(plan("2x-rtx4090"), at_once=4)
    assert SEQS not in found
    # Two prompts of 512 tokens for each replica fill no step of 2,048.
    assert found[STEP].ladders == (("512",),)
    crowded = axes(plan("2x-rtx4090", {SEQS: "16"}), at_once=128)
    assert SEQS not in crowded
    free = fixed(plan("2x-rtx4090", {SEQS: "16"}), SEQS, Origin.COMPUTED)
    assert axes(free, at_once=128)[SEQS].ladders == (("32", "64"), ("8", "4"))


@pytest.mark.parametrize("origin", [Origin.PINNED, Origin.WISHED, Origin.REMEMBERED, Origin.LOCAL])
@pytest.mark.parametrize("key", [RANKS, FORMAT, SEQS, STEP, "LITELLM_NUM_WORKERS"])
def test_what_a_person_decided_on_is_never_changed(key: str, origin: Origin) -> None:
    found = plan("2x-rtx4090")
    assert key in axes(found)
    assert key not in axes(fixed(found, key, origin))
    assert key in axes(fixed(found, key, Origin.TUNED))
    assert key not in axes(found, local=frozenset({key}))


def test_the_share_of_memory_goes_no_further_than_is_allowed_and_free() -> None:
    small = plan("1x-rtx3060-12gb")
    now = float(small.models[0].settings["VLLM_GPU_MEMORY_UTILIZATION"].value)
    assert now < 0.88
    # 0.90 is wished, and a desktop leaves 0.88.
    assert axes(small)["VLLM_GPU_MEMORY_UTILIZATION"].ladders == (("0.88",),)
    assert axes(small, most_share=0.87)["VLLM_GPU_MEMORY_UTILIZATION"].ladders == (("0.87",),)
    assert "VLLM_GPU_MEMORY_UTILIZATION" not in axes(small, most_share=now)


def test_speculative_decoding_where_the_model_has_layers_for_it() -> None:
    key = "VLLM_SPECULATIVE_CONFIG"
    assert key not in axes(plan("1x-h200"))
    found = plan("1x-h200")
    facts = facts_of(found.models[0])
    drafting = replace(facts, config=replace(facts.config, shape=replace(facts.config.shape, draft_layers=1)))
    [ladder] = axes(found, facts=drafting)[key].ladders
    assert ladder == tuple(f'{{"method":"mtp","num_speculative_tokens":{count}}}' for count in (1, 2, 3))


def test_a_processor_has_requests_steps_and_workers() -> None:
    found = plan("cpu-large")
    assert set(axes(found, at_once=16)) <= {RANKS, SEQS, STEP, "LITELLM_NUM_WORKERS"}
    assert axes(found, at_once=16)[SEQS].now == "128"
    nodes = found.host.cpu.numa_nodes or 1
    assert (RANKS in axes(found)) == (nodes > 1)


def test_further_models_have_keys_of_their_own_and_keep_their_gpus() -> None:
    both = plan_of(recorded("2x-rtx4090"), Asked(name="Qwen/Qwen3-0.6B"), Asked(name="Qwen/Qwen3-4B"))
    model = both.models[1]
    found = axes(replace(both, models=(both.models[0], model)), model=model)
    assert {f"{SEQS}_2", f"{STEP}_2"} <= set(found)
    assert not {RANKS, f"{RANKS}_2"} & set(found)


@pytest.mark.parametrize(
    ("seqs", "tokens", "goal", "expected"),
    [
        ("256", 10**6, Goal.THROUGHPUT, 64),
        ("8", 10**6, Goal.THROUGHPUT, 16),
        ("256", 6400, Goal.THROUGHPUT, 10),
        ("256", 10**6, Goal.LATENCY, 4),
        ("2", 10**6, Goal.LATENCY, 2),
    ],
)
def test_the_usual_load_is_what_fills_the_engine(seqs: str, tokens: int, goal: Goal, expected: int) -> None:
    found = plan("1x-h200", {SEQS: seqs})
    [model] = found.models
    memory = model.forecast
    assert memory is not None
    replica = replace(model.replicas[0], memory=replace(memory, kv_cache_tokens=tokens))
    assert choose_at_once(replace(model, replicas=(replica,)), goal, CHAT) == expected


def test_a_plan_that_serves_less_is_not_tried() -> None:
    found = plan("2x-rtx4090")
    name = found.models[0].name
    assert objection_to(found, found, name) == "changes nothing here"
    assert objection_to(found, plan("2x-rtx4090", {"LITELLM_NUM_WORKERS": "3"}), name) is None
    shorter = with_setting(
        plan("2x-rtx4090", {SEQS: "16"}), "VLLM_MAX_MODEL_LEN", setting(found, "VLLM_MAX_MODEL_LEN", "1024")
    )
    assert "would shorten the context from " in (objection_to(found, shorter, name) or "")
    [model] = plan("2x-rtx4090", {SEQS: "16"}).models
    memory = model.forecast
    assert memory is not None
    doubtful = replace(model.replicas[0], memory=replace(memory, verdict="uncertain"))
    unsure = replace(found, models=(replace(model, replicas=(doubtful, *model.replicas[1:])),))
    assert objection_to(found, unsure, name) == "may not fit in memory"
    assert objection_to(found, plan("2x-rtx4090", model="Qwen/Qwen3-4B"), name) == "the model does not fit with it"


def setting(found: Plan, key: str, value: str) -> Setting:
    return replace(found.models[0].settings[key], value=value)
