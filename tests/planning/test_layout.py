"""How a model lies on the GPUs: by objective, across PCIe only in need, and what is said where nothing is sure."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode, Plan
from stackwright.errors import NoPlanError
from stackwright.planning.planner import make_plan
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import FIRST_MODEL, gpu, recorded, request

LLAMA_70B_AWQ = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
CATALOG = load_catalog()
LATENCY, THROUGHPUT, CONTEXT = Objective.LATENCY, Objective.THROUGHPUT, Objective.CONTEXT


def plan_of(host: Host, model: str, objective: Objective | None = None, **pins: str) -> Plan:
    """Plan a named model."""
    return make_plan(replace(request(host, model=model, pins=pins), objective=objective), CATALOG)


def without_nvlink(count: int) -> Host:
    """Return a machine with so many RTX 4090 and nothing between them but PCIe."""
    gpus = tuple(gpu(index, name="NVIDIA GeForce RTX 4090", capability="8.9") for index in range(count))
    return replace(recorded("2x-rtx4090"), gpus=gpus, links=(), p2p=())


def shape(plan: Plan) -> tuple[int, int, int]:
    """Return replicas, tensor parallel and pipeline parallel."""
    return len(plan.replicas), plan.replicas[0].tensor_parallel, plan.replicas[0].pipeline_parallel


def length(plan: Plan) -> int:
    """Return the longest request."""
    return int(flat_settings(plan)["VLLM_MAX_MODEL_LEN"].value)


@pytest.mark.parametrize(
    ("host", "model", "objective", "expected"),
    [
        pytest.param(
            "8x-h100-nvswitch", "Qwen/Qwen3-8B", THROUGHPUT, (8, 1, 1), id="the smallest group, most replicas"
        ),
        pytest.param("8x-h100-nvswitch", "Qwen/Qwen3-8B", LATENCY, (1, 8, 1), id="the whole island reads soonest"),
        pytest.param("8x-h100-nvswitch", "Qwen/Qwen3-8B", None, (2, 4, 1), id="no wish: as many ranks as pay"),
        pytest.param("8x-h100-nvswitch", "Qwen/Qwen3-32B", None, (1, 8, 1), id="no wish: a large model pays them all"),
        pytest.param("8x-h100-nvswitch", FIRST_MODEL, None, (8, 1, 1), id="no wish: a tiny model pays none"),
        pytest.param("8x-h100-nvswitch", FIRST_MODEL, LATENCY, (8, 1, 1), id="a tiny model waits for no other GPU"),
        pytest.param("2x-rtx3090-nvlink", FIRST_MODEL, None, (1, 2, 1), id="slower memory: even a tiny model pays two"),
        pytest.param(
            "8x-h100-nvswitch", "Qwen/Qwen3.6-35B-A3B-FP8", None, (4, 2, 1), id="a mixture reads a part of itself"
        ),
        pytest.param("4x-a100-two-nvlink-pairs", "Qwen/Qwen3-8B", LATENCY, (2, 2, 1), id="two islands, two replicas"),
        pytest.param("2x-rtx3090-nvlink", "Qwen/Qwen3-4B", THROUGHPUT, (2, 1, 1), id="one GPU has as much cache"),
        pytest.param(
            "2x-rtx3090-nvlink", "Qwen/Qwen3-8B", THROUGHPUT, (1, 2, 1), id="a copy less is five times the cache"
        ),
        pytest.param(
            "8x-h100-nvswitch", "Qwen/Qwen3-32B", THROUGHPUT, (4, 2, 1), id="one GPU would be full of weights"
        ),
        pytest.param("2x-rtx3090-nvlink", "Qwen/Qwen3-32B-AWQ", THROUGHPUT, (1, 2, 1), id="one GPU holds short ones"),
        pytest.param("2x-rtx3090-nvlink", "Qwen/Qwen3-8B", CONTEXT, (1, 2, 1), id="two hold longer ones"),
        pytest.param("2x-rtx4090", "Qwen/Qwen3-8B", LATENCY, (2, 1, 1), id="no tensor parallelism over PCIe"),
    ],
)
def test_the_objective_chooses_the_group(
    host: str, model: str, objective: Objective | None, expected: tuple[int, int, int]
) -> None:
    """Throughput the smallest group with room, latency the quickest, context the longest requests."""
    plan = plan_of(recorded(host), model, objective)
    assert shape(plan) == expected
    reason = flat_settings(plan)["VLLM_TENSOR_PARALLEL_SIZE"].reason
    assert (f"for {objective}" if objective else "without an objective") in reason or host == "2x-rtx4090"


def test_multi_asked_for_by_name_shares_the_whole_island() -> None:
    """Whatever the model: who wants replicas says `auto`, or names an objective."""
    asked = request(recorded("8x-h100-nvswitch"), model=FIRST_MODEL, mode=Mode.MULTI)
    assert shape(make_plan(asked, CATALOG)) == (1, 8, 1)
    assert shape(make_plan(replace(asked, objective=THROUGHPUT), CATALOG)) == (8, 1, 1)


def test_what_the_first_choice_does_not_hold_goes_to_a_larger_group() -> None:
    """Four ranks would pay for a model of 8B, but with so little of each GPU only eight hold long requests."""
    pinned = plan_of(recorded("8x-h100-nvswitch"), "Qwen/Qwen3-8B", VLLM_GPU_MEMORY_UTILIZATION="0.07")
    assert shape(pinned) == (1, 8, 1)


def test_context_is_never_shorter_than_with_another_objective() -> None:
    """What the objective is for, and it costs requests at once."""
    plans = {each: plan_of(recorded("2x-rtx3090-nvlink"), LLAMA_70B_AWQ, each) for each in Objective}
    assert length(plans[CONTEXT]) >= length(plans[LATENCY]) >= length(plans[THROUGHPUT])
    seqs = {each: int(flat_settings(plan)["VLLM_MAX_NUM_SEQS"].value) for each, plan in plans.items()}
    assert seqs[CONTEXT] < seqs[LATENCY] <= seqs[THROUGHPUT]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param("Qwen/Qwen3-8B", (4, 1, 1), id="fits on one: no stage"),
        pytest.param("Qwen/Qwen3-14B", (2, 1, 2), id="two stages hold it: two replicas"),
        pytest.param("Qwen/Qwen3-32B", (1, 1, 4), id="only four stages hold it"),
        pytest.param("Qwen/Qwen2.5-72B-Instruct-AWQ", (1, 1, 4), id="two hold it with short requests only"),
    ],
)
@pytest.mark.parametrize("objective", [None, *Objective])
def test_stages_only_where_nothing_smaller_serves(
    model: str, expected: tuple[int, int, int], objective: Objective | None
) -> None:
    """Four GPUs of 24 GB without NVLink; no GPU is left idle."""
    plan = plan_of(without_nvlink(4), model, objective)
    assert shape(plan) == expected
    assert length(plan) >= 8192
    assert sum(len(replica.gpu_uuids) for replica in plan.replicas) == 4


def test_a_pinned_short_length_needs_no_larger_group() -> None:
    """Short requests are a reason for a larger group only where nobody asked for them."""
    plan = plan_of(without_nvlink(4), LLAMA_70B_AWQ, VLLM_MAX_MODEL_LEN="2048", VLLM_GPU_MEMORY_UTILIZATION="0.95")
    assert (shape(plan), length(plan)) == ((2, 1, 2), 2048)


def test_what_is_uncertain_never_beats_what_is_certain() -> None:
    """Two replicas may hold such requests; one on all four GPUs surely does."""
    plan = plan_of(without_nvlink(4), LLAMA_70B_AWQ, VLLM_MAX_MODEL_LEN="2048")
    assert (shape(plan), length(plan)) == ((1, 1, 4), 2048)


def test_room_for_short_requests_alone_is_said_first_with_what_has_more() -> None:
    plan = plan_of(recorded("2x-rtx3090-nvlink"), "Qwen/Qwen3-32B-FP8", VLLM_GPU_MEMORY_UTILIZATION="0.78")
    assert length(plan) < 8192
    assert plan.warnings[0].startswith(f"requests have room for {length(plan):,} tokens with their answers; ")
    assert "Qwen/Qwen3-32B-AWQ fits with a context of " in plan.warnings[0]


def test_what_no_checkpoint_of_the_host_holds_ends_with_the_hosts_that_do() -> None:
    with pytest.raises(NoPlanError) as refusal:
        plan_of(recorded("8x-h100-nvswitch"), "deepseek-ai/DeepSeek-V3")
    assert refusal.value.hint is not None
    assert ", or 8× NVIDIA H200, or two such hosts with 8× NVIDIA H100 80GB HBM3 each" in refusal.value.hint


@pytest.mark.parametrize(
    ("host", "model", "advised"),
    [
        ("1x-rtx3060-12gb", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B-AWQ"),
        ("l40s-busy", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B-FP8"),
        ("2x-rtx3090-nvlink", "Qwen/Qwen3-32B", "Qwen/Qwen3-32B-FP8"),
        ("wsl2-rtx5080", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B-FP8"),
        ("gb10", "Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_least_loss_that_does(host: str, model: str, advised: str) -> None:
    """The refusal counts the bytes; its hint names a published checkpoint, which then has a plan."""
    with pytest.raises(
        NoPlanError, match=rf"{model} does not fit on \d× NVIDIA .*: (per GPU )?weights [0-9.]+ GiB"
    ) as refusal:
        plan_of(recorded(host), model)
    assert refusal.value.hint is not None
    assert f"`--model {advised}`" in refusal.value.hint
    assert plan_of(recorded(host), advised).replicas[0].model == advised


def test_where_no_checkpoint_fits_each_is_named() -> None:
    """Nothing is taken silently, and nothing is left out."""
    with pytest.raises(NoPlanError) as refusal:
        plan_of(recorded("1x-rtx3060-12gb"), "Qwen/Qwen3-14B")
    assert refusal.value.hint == (
        "no catalog checkpoint of qwen3-14b fits (Qwen/Qwen3-14B-FP8: does not fit; Qwen/Qwen3-14B-AWQ: does not fit); "
        "Qwen/Qwen3-14B itself needs 4× NVIDIA GeForce RTX 3060"
    )


@pytest.mark.parametrize("name", ["wsl2-rtx5080", "gb10"])
def test_where_nobody_can_know_the_engine_searches(name: str) -> None:
    """Few requests at once, no length of our own, and the plan says that it is not sure."""
    plan = plan_of(recorded(name), "Qwen/Qwen3-4B")
    assert plan.replicas[0].memory is not None
    assert plan.replicas[0].memory.verdict == "uncertain"
    assert (flat_settings(plan)["VLLM_MAX_MODEL_LEN"].value, flat_settings(plan)["VLLM_MAX_NUM_SEQS"].value) == (
        "auto",
        "16",
    )
    assert any("may not fit" in warning for warning in plan.warnings)
    assert not any("may not fit: lower" in warning for warning in plan.warnings)


def test_a_release_that_cannot_search_is_given_a_length() -> None:
    """Releases before 0.14 refuse the word `auto` and would not start."""
    plan = plan_of(recorded("gb10"), "Qwen/Qwen3-4B", VLLM_IMAGE="vllm/vllm-openai:v0.13.0")
    assert plan.replicas[0].memory is not None
    assert plan.replicas[0].memory.verdict == "uncertain"
    assert (length(plan), flat_settings(plan)["VLLM_MAX_MODEL_LEN"].value) == (8192, "8192")
    assert not any("searches" in warning for warning in plan.warnings)


def test_what_surely_does_not_fit_is_refused_even_there() -> None:
    """Thirty gigabytes of weights do not go into sixteen, whatever Windows counts."""
    with pytest.raises(NoPlanError, match="Qwen/Qwen3-14B does not fit on 1× NVIDIA GeForce RTX 5080"):
        plan_of(recorded("wsl2-rtx5080"), "Qwen/Qwen3-14B")


def test_modest_settings_take_one_whole_picture() -> None:
    """Where no forecast is sure, and where none fits: the engine refuses a step that is shorter than one picture."""
    plan = plan_of(recorded("gb10"), "google/gemma-4-26B-A4B-it")
    assert int(flat_settings(plan)["VLLM_MAX_NUM_BATCHED_TOKENS"].value) > 2048
    with pytest.raises(NoPlanError) as refusal:
        plan_of(recorded("1x-rtx3090"), "google/gemma-4-31B-it")
    assert "a step of" not in refusal.value.message


@pytest.mark.parametrize(
    ("model", "pins", "written"),
    [
        ("Qwen/Qwen3-0.6B", {}, []),
        ("Qwen/Qwen3-0.6B", {"VLLM_MAX_NUM_SEQS": "256"}, ["--max-num-seqs"]),
        ("Qwen/Qwen3-0.6B", {"VLLM_MAX_NUM_SEQS": "16"}, ["--max-num-seqs"]),
        ("Qwen/Qwen3-0.6B", {"VLLM_MAX_NUM_BATCHED_TOKENS": "2048"}, ["--max-num-batched-tokens"]),
        ("Qwen/Qwen3-0.6B", {"VLLM_IMAGE": "own/engine:v9.0.0"}, ["--max-num-seqs", "--max-num-batched-tokens"]),
    ],
)
def test_a_default_of_the_engine_is_no_flag_unless_it_is_pinned(
    model: str, pins: dict[str, str], written: list[str]
) -> None:
    """Written out it would lose the floors that the engine raises its own to; a release that nobody read is told."""
    plan = plan_of(recorded("1x-rtx3090"), model, None, **pins)
    flags = ("--max-num-seqs", "--max-num-batched-tokens")
    assert [flag for flag in flags if flag in plan.replicas[0].args] == written
    assert flat_settings(plan)["VLLM_MAX_NUM_BATCHED_TOKENS"].value == "2048"
    memory = plan.replicas[0].memory
    assert memory is not None
    assert memory.kv_cache_tokens > 0


def test_short_requests_on_one_of_two_gpus_lead_to_both() -> None:
    """The same weights on more GPUs lose nothing, as a checkpoint with fewer bits does."""
    tight = {"VLLM_GPU_MEMORY_UTILIZATION": "0.78"}
    host, model = recorded("2x-rtx3090-nvlink"), "Qwen/Qwen3-14B-FP8"
    plan = make_plan(request(host, Environment.DEV, mode=Mode.SINGLE, model=model, pins=tight), load_catalog())
    assert re.fullmatch(
        r"requests have room for [\d,]+ tokens with their answers; `multi` fits with a context of 40,960",
        plan.warnings[0],
    )


def test_what_fits_nowhere_near_leads_to_the_gpus_that_hold_it() -> None:
    with pytest.raises(NoPlanError) as refusal:
        plan_of(recorded("pod-1x-l40s"), "llama-3.1-405b")
    assert str(refusal.value.hint).endswith("; `stackwright recommend --model llama-3.1-405b` names GPUs that hold it")
