"""Several models on one host: whole GPUs first, then parts of one, no memory promised twice."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.host import Host
from stackwright.domain.machine import Unseen
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode, Plan, Replica
from stackwright.domain.role import Role
from stackwright.errors import NoPlanError, UsageError
from stackwright.planning.planner import make_plan
from stackwright.project.pins import read_pins
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import changed_keys, flat_settings
from stackwright.validation.environment import check_environment
from stackwright.validation.gpu_memory import check_gpu_memory

from tests.planning.several import (
    AWQ_8B,
    CASES,
    PAIR,
    QWEN_4B,
    QWEN_8B,
    QWEN_32B,
    Asked,
    embedding,
    first_gpus,
    plan_of,
)
from tests.planning_requests import joined, plan_for, recorded, request, with_model

ONE = first_gpus(PAIR, 1)
EIGHT = recorded("8x-h100-nvswitch")
PAIRS = recorded("4x-a100-two-nvlink-pairs")
GB10 = recorded("gb10")
SHARE = "VLLM_GPU_MEMORY_UTILIZATION"
AWQ_14B, AWQ_32B = Asked(name="Qwen/Qwen3-14B-AWQ"), Asked(name="Qwen/Qwen3-32B-AWQ")
RERANKER = Asked(name="BAAI/bge-reranker-v2-m3", role=Role.RERANK)


def gpus_of(plan: Plan) -> dict[str, list[int]]:
    """Return the indices of the GPUs of each model's replicas together."""
    indices = {gpu.uuid: gpu.index for gpu in plan.host.gpus}
    return {
        model: [indices[uuid] for each in plan.replicas if each.model == model for uuid in each.gpu_uuids]
        for model in [model.name for model in plan.models]
    }


def share(plan: Plan, replica: Replica) -> float:
    """Return the share of its GPUs that a replica takes."""
    return float(plan.model(replica.model).settings[SHARE].value)


def test_one_model_is_planned_as_ever() -> None:
    assert plan_of(PAIR, QWEN_8B) == plan_for(PAIR, model="Qwen/Qwen3-8B")


@pytest.mark.parametrize(
    ("host", "models", "gpus"),
    [
        pytest.param(PAIR, (QWEN_8B, QWEN_4B), [[0], [1]], id="one each"),
        pytest.param(
            EIGHT, (QWEN_32B, QWEN_8B), [[0, 1, 2, 3], [4, 5, 6, 7]], id="what is left doubles groups in turn"
        ),
        pytest.param(PAIRS, (QWEN_8B, QWEN_4B), [[0, 1], [2, 3]], id="a group lies on one island"),
        pytest.param(PAIR, (QWEN_8B, QWEN_4B, embedding()), [[0], [1], [1]], id="vectors where there is more room"),
        pytest.param(EIGHT, (embedding(), QWEN_32B), [[0, 1, 2, 3, 4, 5, 6, 7], [7]], id="writers come first"),
        pytest.param(ONE, (AWQ_8B, embedding()), [[0], [0]], id="a part of the one GPU"),
        pytest.param(ONE, (QWEN_8B, embedding()), [[0], []], id="vectors from the processor"),
        pytest.param(PAIR, (AWQ_32B, embedding(), RERANKER), [[0, 1], [1], [0]], id="one small model on each rank"),
        pytest.param(GB10, (QWEN_8B, embedding()), [[0], []], id="nothing sure of shared memory"),
        pytest.param(PAIR, (QWEN_8B, QWEN_4B, AWQ_8B), [[0], [1], [1]], id="three on two"),
    ],
)
def test_whole_gpus_first(host: object, models: tuple[Asked, ...], gpus: list[list[int]]) -> None:
    assert [sorted(found) for found in gpus_of(plan_of(host, *models)).values()] == gpus  # type: ignore[arg-type]


def test_a_wished_share_of_eight_gpus_is_a_number_of_them() -> None:
    models = (Asked(name=QWEN_32B.name, gpu_share=0.5), Asked(name=QWEN_8B.name, gpu_share=0.25))
    plan = plan_of(EIGHT, *models)
    assert [len(gpus) for gpus in gpus_of(plan).values()] == [4, 2]
    assert any("GPUs 6 and 7" in warning and "left idle" in warning for warning in plan.warnings)


@pytest.mark.parametrize("models", [(AWQ_8B, embedding()), (AWQ_8B, QWEN_4B), (AWQ_8B, QWEN_4B, embedding())])
def test_no_memory_of_a_gpu_is_promised_twice(models: tuple[Asked, ...]) -> None:
    """The shares of all engines, with the context of each further one, stay below what one model alone would take."""
    plan = plan_of(ONE, *models)
    alone = plan_for(ONE, model=AWQ_8B.name)
    on_gpu = [replica for replica in plan.replicas if replica.gpu_uuids]
    total = ONE.gpus[0].memory_bytes or 0
    contexts = (len(on_gpu) - 1) * 2**29
    taken = sum(share(plan, replica) for replica in on_gpu) * total + contexts
    assert len(on_gpu) > 1
    assert taken <= share(alone, alone.replicas[0]) * total
    for replica in on_gpu:
        assert replica.memory is not None
        assert replica.memory.verdict == "fits"
        assert replica.memory.budget_bytes <= share(plan, replica) * total


@pytest.mark.parametrize("models", [(AWQ_32B, embedding(), RERANKER), (AWQ_32B, embedding(), embedding(QWEN_4B.name))])
def test_what_one_rank_leaves_is_taken_of_none(models: tuple[Asked, ...]) -> None:
    """All ranks of an engine take one share: on each GPU the shares and the further contexts fit together."""
    plan = plan_of(PAIR, *models)
    total = PAIR.gpus[0].memory_bytes or 0
    for gpu in PAIR.gpus:
        here = [replica for replica in plan.replicas if gpu.uuid in replica.gpu_uuids]
        taken = sum(share(plan, replica) for replica in here) * total + (len(here) - 1) * 2**29
        assert taken <= 0.9 * total
    assert {replica.memory.verdict for replica in plan.replicas if replica.memory} == {"fits"}
    assert [other.model for other in plan.before(plan.replicas[1])] == [AWQ_32B.name]


@pytest.mark.parametrize(
    ("host", "chat", "why"),
    [
        (ONE, QWEN_8B, "GPU 0 has no room for it beside Qwen/Qwen3-8B"),
        (GB10, QWEN_8B, "what Qwen/Qwen3-8B leaves of the memory of GPU 0 cannot be forecast for sure"),
    ],
)
def test_a_model_on_the_processor_says_why(host: Host, chat: Asked, why: str) -> None:
    plan = plan_of(host, chat, embedding())
    assert f"Qwen/Qwen3-0.6B runs on the processor: {why}" in plan.warnings
    assert flat_settings(plan)["VLLM_IMAGE_2"].reason == f"on the processor, since {why}"


def test_long_requests_come_before_vectors_from_a_gpu() -> None:
    """Where the environment asks for context, a model that does not write takes none of it."""
    # Where the cache can be kept in FP8 there is room for both.
    host = replace(ONE, gpus=(replace(ONE.gpus[0], compute_capability="7.5"),))
    models = (AWQ_14B, embedding())
    asked = joined(*(with_model(request(host, model=one.name), role=one.role) for one in models))
    found = {
        objective: make_plan(replace(asked, objective=objective), load_catalog())
        for objective in (None, Objective.CONTEXT)
    }
    assert gpus_of(found[None])["Qwen/Qwen3-0.6B"] == [0]
    assert gpus_of(found[Objective.CONTEXT])["Qwen/Qwen3-0.6B"] == []
    (why,) = [warning for warning in found[Objective.CONTEXT].warnings if "runs on the processor" in warning]
    assert "would leave Qwen/Qwen3-14B-AWQ a context of 39,424 tokens instead of 40,960" in why


def test_no_gpu_is_given_whole_to_two() -> None:
    plan = plan_of(EIGHT, QWEN_32B, QWEN_8B, QWEN_4B)
    for one, other in combinations(plan.replicas, 2):
        assert not set(one.gpu_uuids) & set(other.gpu_uuids)


def test_the_processor_promises_its_memory_once() -> None:
    """Each further engine is forecast with what the others have left."""
    plan = plan_of(recorded("cpu-large"), Asked(name="smoke"), Asked(name="Qwen/Qwen3-0.6B"), Asked(name=QWEN_4B.name))
    budgets = [replica.memory.budget_bytes for replica in plan.replicas if replica.memory]
    taken = [
        memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes + memory.kv_cache_bytes
        for replica in plan.replicas
        if (memory := replica.memory)
    ]
    assert budgets == [budgets[0], budgets[0] - taken[0], budgets[0] - taken[0] - taken[1]]


def test_what_the_processor_cannot_hold_is_refused() -> None:
    big = Asked(name=QWEN_8B.name)
    with pytest.raises(NoPlanError, match="for what runs beside it"):
        plan_of(recorded("cpu-small"), Asked(name="Qwen/Qwen3-1.7B"), Asked(name="Qwen/Qwen3-0.6B"), big)


def test_what_no_gpu_holds_beside_the_others_is_refused() -> None:
    with pytest.raises(
        NoPlanError, match=re.escape("no memory left for Qwen/Qwen3-4B beside the other models")
    ) as refusal:
        plan_of(ONE, QWEN_8B, QWEN_4B)
    assert "in envs/prod.yaml serve some in turn with `exclusive`" in (refusal.value.hint or "")


def test_a_model_that_fits_nowhere_says_why_itself() -> None:
    with pytest.raises(NoPlanError, match=re.escape("Qwen/Qwen3-32B does not fit on")):
        plan_of(PAIR, QWEN_32B, QWEN_4B)


def test_a_share_of_one_model_alone_is_kept() -> None:
    """The rest of the GPUs, or of the one, is for whatever else the person runs."""
    plan = plan_of(EIGHT, replace(QWEN_8B, gpu_share=0.25))
    assert len(gpus_of(plan)[QWEN_8B.name]) == int(flat_settings(plan)["GPU_COUNT"].value) == 2
    assert "2 models" not in flat_settings(plan)["GPU_COUNT"].reason
    half = plan_of(ONE, replace(AWQ_8B, gpu_share=0.5))
    alone = plan_for(ONE, model=AWQ_8B.name)
    assert share(half, half.replicas[0]) == pytest.approx(share(alone, alone.replicas[0]) / 2, abs=0.01)


def test_a_wished_share_is_explained_as_one() -> None:
    plan = plan_of(ONE, replace(AWQ_8B, gpu_share=0.5), embedding())
    assert flat_settings(plan)[SHARE].reason.endswith("its gpu_share is 0.5")
    assert "; needs at least " in flat_settings(plan)[f"{SHARE}_2"].reason


@pytest.mark.parametrize("models", [(QWEN_4B,), (QWEN_4B, embedding())])
def test_a_share_of_gpus_on_a_processor_is_refused(models: tuple[Asked, ...]) -> None:
    asked = (replace(models[0], gpu_share=0.5), *models[1:])
    for host, mode in ((recorded("cpu-large"), None), (PAIR, Mode.CPU)):
        with pytest.raises(UsageError) as refusal:
            plan_of(host, *asked, mode=mode)
        assert refusal.value.message == "--model Qwen/Qwen3-4B: found gpu_share 0.5, but no GPU is used"
        assert "envs/prod.yaml" in (refusal.value.hint or "")


def test_a_share_that_is_too_small_is_named_as_what_to_raise() -> None:
    """The same model fits on the whole of that GPU: another checkpoint is not what it lacks."""
    with pytest.raises(NoPlanError, match=f"{AWQ_8B.name} does not fit on") as refusal:
        plan_of(ONE, replace(AWQ_8B, gpu_share=0.05))
    assert refusal.value.hint == "raise its gpu_share in envs/prod.yaml, or name a smaller model"


def test_pins_reach_the_model_of_their_slot() -> None:
    plan = plan_of(PAIR, QWEN_8B, QWEN_4B, pins={"VLLM_MAX_MODEL_LEN_2": "4096", "VLLM_MAX_NUM_SEQS": "8"})
    assert flat_settings(plan)["VLLM_MAX_MODEL_LEN_2"].value == "4096"
    assert flat_settings(plan)["VLLM_MAX_MODEL_LEN"].value != "4096"
    assert flat_settings(plan)["VLLM_MAX_NUM_SEQS"].value == "8"
    assert flat_settings(plan)["VLLM_MAX_NUM_SEQS_2"].value != "8"
    assert plan.replicas[1].args[plan.replicas[1].args.index("--max-model-len") + 1] == "4096"


def test_a_pin_of_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(NoPlanError, match="VLLM_MAX_MODEL_LEN_3 is pinned, but there are 2 models"):
        plan_of(PAIR, QWEN_8B, QWEN_4B, pins={"VLLM_MAX_MODEL_LEN_3": "4096"})


def test_a_pin_of_the_file_is_dropped_there() -> None:
    """`--set` would be looked for in vain."""
    key = "VLLM_CPU_KVCACHE_SPACE_2"
    asked = joined(*(request(PAIR, model=model.name) for model in (QWEN_8B, QWEN_4B)))
    in_file, on_command_line = read_pins({key: "1"}, {}, "prod"), read_pins({}, {key: "1"}, "prod")
    for pins, place in ((in_file, f"{key} in settings of envs/prod.yaml"), (on_command_line, f"`--set {key}=…`")):
        with pytest.raises(NoPlanError, match=f"^{key} is pinned, but this mode does not use it") as refusal:
            make_plan(replace(asked, pins=pins), load_catalog())
        assert refusal.value.hint == f"remove {place}"


@pytest.mark.parametrize(
    ("models", "message", "hint"),
    [
        (
            (QWEN_8B, replace(QWEN_4B, aliases=(QWEN_8B.name,))),
            f"--model {QWEN_4B.name}: has the same name as --model {QWEN_8B.name}: `{QWEN_8B.name}`",
            "names must differ: rename a folder, or remove an alias",
        ),
        (
            (Asked(name="qwen3-8b"), QWEN_8B),
            f"--model {QWEN_8B.name}: the same model as --model qwen3-8b",
            "name it once",
        ),
        ((replace(QWEN_8B, aliases=("a", "a")),), f"--model {QWEN_8B.name}: the alias `a` is already its name", None),
        (
            (replace(QWEN_8B, aliases=(QWEN_8B.name,)), QWEN_4B),
            f"--model {QWEN_8B.name}: the alias `{QWEN_8B.name}` is already its name",
            "remove the alias",
        ),
    ],
)
def test_a_name_that_stands_twice_is_refused_with_its_place(
    models: tuple[Asked, ...], message: str, hint: str | None
) -> None:
    with pytest.raises(UsageError) as refusal:
        plan_of(PAIR, *models)
    assert refusal.value.message == message
    assert hint is None or refusal.value.hint == hint


def test_an_image_is_pinned_for_every_engine_on_gpus() -> None:
    plan = plan_of(ONE, QWEN_8B, embedding(), pins={"VLLM_IMAGE": "own/engine:v0.32.0"})
    images = {key: setting.value for key, setting in flat_settings(plan).items() if key.startswith("VLLM_IMAGE")}
    assert images == {"VLLM_IMAGE": "own/engine:v0.32.0", "VLLM_IMAGE_2": "vllm/vllm-openai-cpu:v0.32.0"}


def test_a_further_model_that_comes_or_goes_is_one_change() -> None:
    alone, both = (
        {key: setting.value for key, setting in flat_settings(plan_of(EIGHT, AWQ_8B, *others)).items()}
        for others in ((), (QWEN_4B,))
    )
    assert "VLLM_DTYPE_2" in both
    for before, after in ((alone, both), (both, alone)):
        changed = changed_keys(before, after, "VLLM_MODEL")
        assert [key for key in changed if key.endswith("_2")] == ["VLLM_MODEL_2"]
        assert set(changed) - {"VLLM_MODEL_2"} == {key for key in alone if alone[key] != both.get(key)}
    other = {**both, "VLLM_DTYPE_2": "float32"}
    assert changed_keys(both, other, "VLLM_MODEL") == ("VLLM_DTYPE_2",)


def test_beside_others_a_model_gets_as_many_gpus_to_a_replica_as_pay() -> None:
    """As it does alone; all of its share only where `multi` was asked for."""
    sizes = {
        mode: [
            (replica.model, len(replica.gpu_uuids)) for replica in plan_of(EIGHT, AWQ_8B, QWEN_4B, mode=mode).replicas
        ]
        for mode in (None, Mode.MULTI)
    }
    assert sizes[None] == [(AWQ_8B.name, 2)] * 2 + [(QWEN_4B.name, 2)] * 2
    assert sizes[Mode.MULTI] == [(AWQ_8B.name, 4), (QWEN_4B.name, 4)]


def test_single_puts_all_on_the_one_best_gpu() -> None:
    plan = plan_of(PAIR, AWQ_8B, QWEN_4B, mode=Mode.SINGLE)
    assert plan.mode is Mode.SINGLE
    assert list(gpus_of(plan).values()) == [[0], [0]]


def test_a_model_for_vectors_is_started_as_one() -> None:
    plan = plan_of(ONE, AWQ_8B, embedding())
    writes, embeds = plan.replicas
    assert embeds.args[-2:] == ("--runner", "pooling")
    assert "--runner" not in writes.args


@pytest.mark.parametrize("case", CASES)
def test_every_variable_of_the_override_is_a_setting(case: str) -> None:
    host, models = CASES[case]
    plan = plan_of(host, *models)
    (override,) = (file.text for file in render_plan(plan) if file.path.name == "override.yaml")
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", override)) <= flat_settings(plan).keys()


@pytest.mark.parametrize("case", CASES)
def test_the_plan_and_its_values_pass_the_checks(case: str) -> None:
    host, models = CASES[case]
    plan = plan_of(host, *models)
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    assert check_environment(plan, env, load_catalog()) == ()
    wrong = check_environment(plan, {**env, "VLLM_MAX_MODEL_LEN_2": "some"}, load_catalog())
    assert [finding.check for finding in wrong] == ["env-value"]
    one_more = check_environment(plan, {**env, "VLLM_DTYPE_3": "auto"}, load_catalog())
    assert [(finding.check, finding.found) for finding in one_more] == [("env-unknown-key", "VLLM_DTYPE_3")]
    missing = {key: value for key, value in env.items() if key != "VLLM_MODEL_2"}
    assert [finding.check for finding in check_environment(plan, missing, load_catalog())] == ["env-missing-key"]


def test_the_shares_of_a_gpu_are_checked_together() -> None:
    """Each engine alone would find its share free; both do not."""
    plan = plan_of(ONE, AWQ_8B, embedding())
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    (gpu,) = ONE.gpus
    half = replace(ONE, gpus=(replace(gpu, memory_used_bytes=(gpu.memory_bytes or 0) // 4),))
    (finding,) = check_gpu_memory(plan, env, half, (), Unseen(why=""), None)
    assert finding.check == "gpu-memory"
    assert "VLLM_GPU_MEMORY_UTILIZATION=0.74 + VLLM_GPU_MEMORY_UTILIZATION_2=0.13" in finding.expected


def test_the_processor_is_not_promised_what_a_gpu_without_memory_of_its_own_takes() -> None:
    """GB10: the chat engine's share and the model on the processor are of one memory."""
    host = recorded("gb10")
    with pytest.raises(NoPlanError, match="no memory left for Qwen/Qwen3-Embedding-8B beside the other models"):
        plan_of(host, QWEN_8B, embedding("Qwen/Qwen3-Embedding-8B"))
    plan = plan_of(host, QWEN_8B, embedding("BAAI/bge-m3"))
    writes, embeds = (replica.memory for replica in plan.replicas)
    assert writes is not None
    assert embeds is not None
    assert not plan.replicas[1].gpu_uuids
    assert writes.budget_bytes + embeds.taken_bytes < (host.memory_bytes or 0)
