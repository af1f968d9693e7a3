"""What the gateway is told about replicas and limits."""

from __future__ import annotations

import pytest
import yaml
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.cloud import CloudModel
from stackwright.domain.plan import Fallback, Plan
from stackwright.domain.role import Role
from stackwright.engines.vllm.engine import VLLM
from stackwright.errors import UsageError
from stackwright.planning.gateway import choose_strategy, gateway_settings, problem_with_name
from stackwright.planning.planner import make_plan
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings

from tests.planning.several import PAIR, QWEN_4B, QWEN_8B, plan_of
from tests.planning_requests import FIRST_MODEL, gpu, joined, plan_for, recorded, request, with_model


@pytest.mark.parametrize(
    ("groups", "strategy"),
    [
        (((),), "simple-shuffle"),
        (((gpu(0), gpu(1)),), "simple-shuffle"),
        (((gpu(0),), (gpu(1),)), "simple-shuffle"),
        (((gpu(0),), (gpu(1, name="NVIDIA GeForce RTX 4090"),)), "latency-based-routing"),
    ],
)
def test_the_strategy_follows_the_replicas(groups: tuple[tuple[object, ...], ...], strategy: str) -> None:
    """One has no choice, among equal ones chance decides, among unequal ones their speed."""
    assert choose_strategy(groups).value == strategy  # type: ignore[arg-type]


def test_as_many_are_let_in_as_the_replicas_work_on() -> None:
    """And four wait behind each."""
    found = gateway_settings(VLLM, ((gpu(0),), (gpu(1),)), {"VLLM_MAX_NUM_SEQS": "48", "VLLM_MAX_MODEL_LEN": "4096"})
    assert found["GATEWAY_MAX_CONCURRENT_REQUESTS"].value == "96"
    assert found["GATEWAY_MAX_QUEUED_REQUESTS"].value == "384"
    assert found["GATEWAY_MAX_INPUT_TOKENS"].value == "4095"


def test_a_length_that_the_engine_finds_is_left_to_it() -> None:
    """0 means no limit at the door."""
    found = gateway_settings(VLLM, ((),), {"VLLM_MAX_MODEL_LEN": "auto"})
    assert found["GATEWAY_MAX_INPUT_TOKENS"].value == "0"
    assert found["GATEWAY_MAX_CONCURRENT_REQUESTS"].value == "128"


def test_a_request_may_be_as_long_as_the_longest_input() -> None:
    """Never less than pictures need."""
    short, long = (
        gateway_settings(VLLM, ((),), {"VLLM_MAX_MODEL_LEN": length})["GATEWAY_MAX_BODY_BYTES"]
        for length in ("auto", "1000001")
    )
    assert (short.value, long.value) == (str(32 * 2**20), "64000000")


def test_several_models_take_the_longest_requests_of_any() -> None:
    plan = plan_of(PAIR, QWEN_8B, QWEN_4B, pins={"GATEWAY_MAX_INPUT_TOKENS_2": "2000000"})
    assert flat_settings(plan)["GATEWAY_MAX_BODY_BYTES"].value == "128000000"


def test_what_follows_from_a_pin_follows_it() -> None:
    """The engine's pins move the door's limits; a pinned limit moves the queue."""
    plan = plan_for(recorded("2x-rtx3090-pcie"), pins={"VLLM_MAX_NUM_SEQS": "8", "VLLM_MAX_MODEL_LEN": "2048"})
    assert flat_settings(plan)["GATEWAY_MAX_CONCURRENT_REQUESTS"].value == "16"
    assert flat_settings(plan)["GATEWAY_MAX_INPUT_TOKENS"].value == "2047"
    pinned = plan_for(recorded("2x-rtx3090-pcie"), pins={"GATEWAY_MAX_CONCURRENT_REQUESTS": "6"})
    assert flat_settings(pinned)["GATEWAY_MAX_QUEUED_REQUESTS"].value == "24"


def test_a_pinned_strategy_is_the_plans() -> None:
    """In the plan as in the settings."""
    plan = plan_for(recorded("2x-rtx3090-pcie"), pins={"GATEWAY_ROUTING_STRATEGY": "usage-based-routing-v2"})
    assert plan.gateway.routing_strategy == "usage-based-routing-v2"


SMALL, LARGE = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-14B-AWQ"
AWAY = CloudModel(name="away", model="openai/gpt-5-mini", key="openai")


def two_models(
    fallbacks: dict[str, tuple[str, ...]], *clouds: CloudModel, small: Role = Role.CHAT, named: bool = False
) -> Plan:
    """Plan a small model, with an alias and a short context, and a larger one on two GPUs."""
    asked = [
        request(recorded("2x-rtx3090-pcie"), model=name, pins={"VLLM_MAX_MODEL_LEN": "2048"}) for name in (SMALL, LARGE)
    ]
    asked[0] = with_model(asked[0], role=small, aliases=("little",))
    gateway = replace(asked[0].wishes.gateway, fallbacks=fallbacks, cloud=clouds)
    wishes = replace(asked[0].wishes, gateway=gateway)
    return make_plan(replace(joined(*asked), wishes=wishes, named=named), load_catalog())


def test_a_fallback_reaches_the_router_and_a_longer_context_moves_the_limit() -> None:
    """A request that is too long for the first model is for the second one to judge."""
    plan = two_models({"Qwen/Qwen3-0.6B": ("Qwen/Qwen3-14B-AWQ",)})
    chain = ("Qwen/Qwen3-14B-AWQ",)
    assert plan.gateway.fallbacks == (Fallback(model="Qwen/Qwen3-0.6B", to=chain, longer=chain),)
    rendered = next(file.text for file in render_plan(plan) if file.path.name == "gateway.yaml")
    router = yaml.safe_load(rendered)["router_settings"]
    assert router["fallbacks"] == router["context_window_fallbacks"] == [{"Qwen/Qwen3-0.6B": list(chain)}]
    limits = {each["model_name"]: each["model_info"]["limits"] for each in yaml.safe_load(rendered)["model_list"]}
    assert limits["Qwen/Qwen3-0.6B"] == {
        "concurrent_requests": "os.environ/GATEWAY_MAX_CONCURRENT_REQUESTS",
        "queued_requests": "os.environ/GATEWAY_MAX_QUEUED_REQUESTS",
        "input_tokens": "os.environ/GATEWAY_MAX_INPUT_TOKENS_2",
    }


@pytest.mark.parametrize(
    ("fallbacks", "message"),
    [
        ({"nobody": (SMALL,)}, f"found `nobody`, allowed: {SMALL}, {LARGE}"),
        ({SMALL: (SMALL,)}, f"{SMALL} cannot be its own fallback"),
        ({SMALL: ("little",)}, f"{SMALL} cannot be its own fallback"),
        (
            {SMALL: (LARGE,), "little": (LARGE,)},
            f"found {SMALL} twice, the second time as `little`, allowed: one list per model",
        ),
    ],
)
def test_a_fallback_that_leads_nowhere_is_refused(fallbacks: dict[str, tuple[str, ...]], message: str) -> None:
    """Before anything is written, with the file and the key where it stands."""
    with pytest.raises(UsageError) as refusal:
        two_models(fallbacks)
    assert refusal.value.message == f"envs/prod.yaml: gateway.fallbacks: {message}"
    assert refusal.value.hint


@pytest.mark.parametrize("fallbacks", [{SMALL: (LARGE,)}, {LARGE: (SMALL,)}, {SMALL: ("away",)}])
def test_only_models_that_write_stand_in_for_each_other(fallbacks: dict[str, tuple[str, ...]]) -> None:
    """Another model's vectors would be taken for the first one's without a word."""
    with pytest.raises(UsageError) as refusal:
        two_models(fallbacks, *([AWAY] if "away" in str(fallbacks) else []), small=Role.EMBEDDING)
    assert refusal.value.message.endswith(f"found {SMALL}, which is for embedding, allowed: chat models")


def test_what_is_said_of_models_that_the_command_line_leaves_out_is_passed_over() -> None:
    """Chains of others, those that would stand in, and a cloud that only others ask: with one warning."""
    other = replace(AWAY, name="other")
    fallbacks = {"elsewhere": (SMALL, "other"), "little": ("elsewhere", "away"), LARGE: ("elsewhere",)}
    plan = two_models(fallbacks, AWAY, other, named=True)
    assert [(each.model, each.to) for each in plan.gateway.fallbacks] == [(SMALL, ("away",))]
    assert plan.gateway.cloud == (AWAY,)
    assert plan.warnings[-1] == (
        "envs/prod.yaml: gateway.fallbacks: skipped, since --model does not select them: elsewhere"
    )
    with pytest.raises(UsageError, match="found `elsewhere`, allowed: "):
        two_models(fallbacks, AWAY, other)


def test_nothing_is_said_where_the_command_line_names_all() -> None:
    plan, without = (two_models({SMALL: (LARGE,)}, named=named) for named in (True, False))
    assert (plan.gateway, plan.settings, plan.warnings) == (without.gateway, without.settings, without.warnings)
    assert [model.replicas for model in plan.models] == [model.replicas for model in without.models]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("gpt-4o", True), ("Qwen/Qwen3-8B", True), ("*", False), ("openai/*", False), ("os.environ/HOME", False)],
)
def test_what_the_gateway_would_read_as_more_than_a_name_is_none(name: str, is_one: bool) -> None:
    assert (problem_with_name(name) is None) is is_one


def test_without_a_prefix_cache_the_least_busy_replica_is_asked() -> None:
    """Whatever is on: with one replica there is nothing to choose."""
    for host, caching, strategy in (
        ("2x-rtx3090-pcie", "false", "least-busy"),
        ("2x-rtx3090-pcie", "true", "simple-shuffle"),
        ("1x-rtx3090", "false", "simple-shuffle"),
    ):
        pins = {"VLLM_ENABLE_PREFIX_CACHING": caching}
        plan = plan_for(recorded(host), model=FIRST_MODEL, pins=pins)
        assert flat_settings(plan)["GATEWAY_ROUTING_STRATEGY"].value == strategy
