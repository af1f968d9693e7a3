"""Models that take turns: one service and one seat for a group, each model planned with all of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.catalog import order_release
from stackwright.domain.machine import Unseen
from stackwright.domain.plan import Plan
from stackwright.domain.role import Role
from stackwright.engines.protocol import EngineNeeds
from stackwright.errors import NoPlanError, UsageError
from stackwright.planning.planner import make_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.validation.capacity import needed_bytes
from stackwright.validation.environment import check_environment
from stackwright.validation.gpu_memory import check_gpu_memory
from stackwright.validation.gpus import used_gpus

from tests.planning.several import (
    AWQ_8B,
    IN_TURNS,
    LLAMA_70B,
    PAIR,
    QWEN_4B,
    QWEN_8B,
    QWEN_32B,
    SIXTEEN,
    Asked,
    embedding,
    first_gpus,
    plan_of,
)
from tests.planning_requests import joined, plan_for, recorded, request, with_model

CPU = recorded("cpu-large")
ON_CPU = (Asked(name="smoke"), Asked(name="Qwen/Qwen3-0.6B", exclusive="x"), Asked(name=QWEN_4B.name, exclusive="x"))
EIGHT = recorded("8x-h100-nvswitch")
_NO_MEMORY = Unseen(why="not asked")
SWITCHING = ("SWITCH_MIN_RESIDENCE_S", "SWITCH_DRAIN_S", "SWITCH_LOAD_LIMIT_S")


def in_turns(*models: Asked) -> tuple[Asked, ...]:
    """Return the models as one exclusive group."""
    return tuple(replace(model, exclusive="turns") for model in models)


def values(plan: Plan) -> dict[str, str]:
    """Return what the plan emits."""
    return {key: setting.value for key, setting in flat_settings(plan).items()}


def test_models_that_do_not_fit_together_take_turns_in_one_service() -> None:
    with pytest.raises(NoPlanError, match="no memory left for"):
        plan_of(SIXTEEN, *(replace(model, exclusive=None, pinned=False) for model in IN_TURNS))
    plan = plan_of(SIXTEEN, *IN_TURNS)
    assert [replica.name for replica in plan.replicas] == ["engine", "engine"]
    assert [replica.model for replica in plan.engines] == [QWEN_4B.name]
    assert plan.turns(plan.replicas[0]) == plan.replicas
    assert used_gpus(plan) == tuple(gpu.uuid for gpu in SIXTEEN.gpus)


def test_each_model_is_planned_for_the_whole_seat() -> None:
    plan = plan_of(SIXTEEN, *IN_TURNS)
    for replica in plan.replicas:
        alone = plan_for(SIXTEEN, model=replica.model).replicas[0]
        assert (replica.memory, replica.args) == (alone.memory, alone.args)


def test_the_pinned_model_has_the_first_slot() -> None:
    plan = plan_of(SIXTEEN, *IN_TURNS)
    assert [model.name for model in plan.models] == [QWEN_4B.name, AWQ_8B.name]
    assert [model.pinned for model in plan.models] == [True, False]


def test_only_such_a_plan_says_how_long_a_switch_may_take() -> None:
    plan, alone = plan_of(SIXTEEN, *IN_TURNS), plan_for(SIXTEEN, model=QWEN_4B.name)
    assert not set(SWITCHING) & flat_settings(alone).keys()
    switch_s = sum(int(flat_settings(plan)[key].value) for key in SWITCHING)
    assert switch_s > 900
    timeouts = [int(each.settings["GATEWAY_REQUEST_TIMEOUT_S"].value) for each in (alone, plan)]
    assert timeouts[1] == timeouts[0] + switch_s


def test_a_pin_of_the_switch_moves_the_timeout_with_it() -> None:
    plan = plan_of(SIXTEEN, *IN_TURNS, pins={"SWITCH_LOAD_LIMIT_S": "60", "SWITCH_DRAIN_S": "10"})
    assert flat_settings(plan)["SWITCH_LOAD_LIMIT_S"].value == "60"
    assert flat_settings(plan)["GATEWAY_REQUEST_TIMEOUT_S"].value == str(300 + 30 + 10 + 60)
    with pytest.raises(NoPlanError, match="SWITCH_DRAIN_S is pinned, but this mode does not use it"):
        plan_for(SIXTEEN, model=QWEN_4B.name, pins={"SWITCH_DRAIN_S": "10"})


def test_who_is_third_in_turn_has_time_for_two_switches() -> None:
    pins = {"SWITCH_LOAD_LIMIT_S": "60", "SWITCH_DRAIN_S": "10"}
    plan = plan_of(SIXTEEN, *in_turns(QWEN_4B, AWQ_8B), *in_turns(Asked(name="Qwen/Qwen3-1.7B")), pins=pins)
    assert flat_settings(plan)["GATEWAY_REQUEST_TIMEOUT_S"].value == str(300 + 2 * (30 + 10 + 60))


def test_what_a_service_has_once_stands_once() -> None:
    plan = plan_of(EIGHT, Asked(name="Qwen/Qwen3-1.7B"), *in_turns(QWEN_4B, LLAMA_70B))
    assert {"VLLM_SHM_SIZE_2", "VLLM_MAX_MODEL_LEN_3"} <= flat_settings(plan).keys()
    assert not {"VLLM_SHM_SIZE_3", "VLLM_IMAGE_3"} & flat_settings(plan).keys()
    assert flat_settings(plan)["VLLM_SHM_SIZE_2"].value == "16gb"  # what the one with several ranks needs
    assert check_environment(plan, values(plan), load_catalog()) == ()


def test_the_seat_is_the_fewest_gpus_that_hold_each_model() -> None:
    plan = plan_of(EIGHT, *in_turns(QWEN_4B, LLAMA_70B), QWEN_32B)
    small, large, other = plan.replicas
    assert set(small.gpu_uuids) < set(large.gpu_uuids)
    assert not set(large.gpu_uuids) & set(other.gpu_uuids)
    assert plan.gpus_of(small) == plan.gpus_of(large)
    assert set(plan.gpus_of(small)) == set(large.gpu_uuids)
    assert {len(plan.turns(each)) for each in (small, large)} == {2}
    assert plan.turns(other) == (other,)


def test_a_model_that_the_host_does_not_hold_says_so() -> None:
    with pytest.raises(NoPlanError, match=r"Llama-3\.3-70B-Instruct does not fit on"):
        plan_of(SIXTEEN, *in_turns(QWEN_4B, LLAMA_70B))


def test_a_group_shares_its_gpu_with_nobody() -> None:
    one = first_gpus(PAIR, 1)
    plan = plan_of(one, *in_turns(QWEN_8B, QWEN_4B), embedding())
    assert [bool(replica.gpu_uuids) for replica in plan.replicas] == [True, True, False]
    with pytest.raises(NoPlanError, match=r"no memory left for Qwen/Qwen3-1\.7B beside the other models"):
        plan_of(one, *in_turns(QWEN_8B, QWEN_4B), Asked(name="Qwen/Qwen3-1.7B"))


def test_the_gpu_has_to_have_room_for_the_larger_share_alone() -> None:
    plan = plan_of(SIXTEEN, *IN_TURNS, pins={"VLLM_GPU_MEMORY_UTILIZATION_2": "0.6"})
    first = float(flat_settings(plan)["VLLM_GPU_MEMORY_UTILIZATION"].value)
    total = SIXTEEN.gpus[0].memory_bytes or 0

    def found(free_share: float) -> list[str]:
        gpus = tuple(replace(gpu, memory_used_bytes=int((1 - free_share) * total)) for gpu in SIXTEEN.gpus)
        host = replace(SIXTEEN, gpus=gpus)
        return [each.check for each in check_gpu_memory(plan, values(plan), host, (), _NO_MEMORY, None)]

    assert found(first + 0.01) == []
    assert found(first - 0.01) == ["gpu-memory"]


def test_the_processor_promises_its_memory_to_one_at_a_time() -> None:
    plan = plan_of(CPU, *ON_CPU)
    smoke, small, large = (replica.memory for replica in plan.replicas)
    assert smoke is not None
    assert small is not None
    assert large is not None
    assert small.budget_bytes == large.budget_bytes == smoke.budget_bytes - smoke.taken_bytes
    cache = {key: "1" for key in values(plan) if key.startswith("VLLM_CPU_KVCACHE_SPACE")}
    both = needed_bytes(plan, {**values(plan), **cache}, [0, 10**9, 8 * 10**9])
    assert both == needed_bytes(plan, {**values(plan), **cache}, [0, 0, 8 * 10**9])


def test_a_single_model_of_a_group_is_a_model_as_any_other() -> None:
    left = replace(IN_TURNS[1], aliases=())
    assert plan_of(SIXTEEN, left) == plan_for(SIXTEEN, model=left.name)
    plan = plan_of(PAIR, left, QWEN_8B)
    assert [replica.name for replica in plan.replicas] == ["engine", "engine-2"]
    assert not set(SWITCHING) & flat_settings(plan).keys()


def test_groups_are_told_apart_from_models_of_their_name() -> None:
    plan = plan_of(PAIR, QWEN_8B, *(replace(model, exclusive=QWEN_8B.name, pinned=False) for model in IN_TURNS))
    assert [replica.name for replica in plan.replicas] == ["engine", "engine-2", "engine-2"]


def test_a_group_of_two_images_is_refused() -> None:
    pins = {"VLLM_IMAGE": "vllm/vllm-openai:v0.32.0", "VLLM_IMAGE_2": "vllm/vllm-openai:v0.31.0"}
    with pytest.raises(NoPlanError, match="the exclusive group chat needs two images"):
        plan_of(SIXTEEN, *IN_TURNS, pins=pins)


def test_a_pin_that_no_service_would_read_is_refused() -> None:
    plan = plan_of(SIXTEEN, *IN_TURNS, pins={"VLLM_SHM_SIZE": "512mb"})
    assert flat_settings(plan)["VLLM_SHM_SIZE"].value == "512mb"
    with pytest.raises(NoPlanError, match="VLLM_SHM_SIZE_2 is pinned, but the models of the exclusive group chat"):
        plan_of(SIXTEEN, *IN_TURNS, pins={"VLLM_SHM_SIZE_2": "512mb"})


def test_the_plan_says_who_takes_turns() -> None:
    plan = plan_of(SIXTEEN, *IN_TURNS)
    reasons = [flat_settings(plan)[f"VLLM_SERVED_MODEL_NAME{end}"].reason for end in ("", "_2")]
    assert ["in turn with" in reason for reason in reasons] == [True, True]
    assert AWQ_8B.name in reasons[0]


def test_an_engine_that_cannot_listen_on_a_socket_is_not_taken() -> None:
    """The release that was asked for is older than that."""
    host, needs = recorded("2x-rtx3090-nvlink"), EngineNeeds(allow_vulnerable=True, exact="0.18.1")
    asked = [replace(request(host, model=name), needs=needs) for name in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B")]
    beside = make_plan(joined(*asked), load_catalog())
    assert order_release(beside.engine.version) < order_release("0.19.1")
    with pytest.raises(NoPlanError, match=r"; models in turn need 0\.19\.1"):
        make_plan(joined(*(with_model(each, exclusive="x") for each in asked)), load_catalog())


def test_writers_of_a_group_keep_it_before_models_for_vectors() -> None:
    group = (embedding(), QWEN_4B)
    plan = plan_of(CPU, embedding("Qwen/Qwen3-1.7B"), *in_turns(*group))
    assert [model.name for model in plan.models] == [QWEN_4B.name, "Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"]
    assert plan.model("Qwen/Qwen3-0.6B").role is Role.EMBEDDING


def test_a_name_that_would_break_the_list_is_refused() -> None:
    made = [with_model(request(CPU, model=name), exclusive="x") for name in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B")]
    quoted = with_model(made[0], llm=replace(made[0].models[0].llm, location='/models/a"b'))
    with pytest.raises(UsageError, match="allowed: a name without quotation marks"):
        make_plan(joined(quoted, made[1]), load_catalog())
