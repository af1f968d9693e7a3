"""The whole plan: settings, pins, utilization, and that every host gives a plan or a clear refusal."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode
from stackwright.errors import NoPlanError
from stackwright.planning.planner import make_plan
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings

from tests.planning_examples import Example, examples, faults, work_out
from tests.planning_requests import HOST_NAMES, gpu, plan_for, recorded, request

PAIR = "2x-rtx3090-nvlink"


def with_gpu_in_use(used_gib: float) -> Host:
    """Return the NVLink pair with so much of its second GPU taken."""
    host = recorded(PAIR)
    first, second = host.gpus
    return replace(host, gpus=(first, replace(second, memory_used_bytes=int(used_gib * 2**30))))


@pytest.mark.parametrize(
    ("environment", "wish"), [(Environment.DEV, "0.80"), (Environment.STAGING, "0.85"), (Environment.PROD, "0.90")]
)
def test_utilization_is_the_environments_wish(environment: Environment, wish: str) -> None:
    """The ground rule of the three environments."""
    assert flat_settings(plan_for(recorded(PAIR), environment))["VLLM_GPU_MEMORY_UTILIZATION"].value == wish


def test_utilization_yields_to_what_is_in_use() -> None:
    """An engine told to take more than is free aborts; the reason names the GPU."""
    setting = flat_settings(plan_for(with_gpu_in_use(6)))["VLLM_GPU_MEMORY_UTILIZATION"]
    assert float(setting.value) < (24 - 6) / 24
    assert "GPU 1 has 6.0 GiB in use" in setting.reason


def test_a_full_gpu_is_refused() -> None:
    """Nothing useful starts in two percent."""
    with pytest.raises(NoPlanError, match=r"GPU 1 .* has .* free"):
        plan_for(with_gpu_in_use(22))


@pytest.mark.parametrize("name", [PAIR, "cpu-large"])
@pytest.mark.parametrize(
    ("wished", "pinned", "place"),
    [
        (10_000_000, {}, "max_model_len in envs/prod.yaml"),
        (None, {"VLLM_MAX_MODEL_LEN": "10000000"}, "`--set VLLM_MAX_MODEL_LEN=…`"),
    ],
)
def test_a_context_that_is_too_long_is_what_to_lower(
    wished: int | None, pinned: dict[str, str], place: str, name: str
) -> None:
    """Not the model: it fits, and no other checkpoint of it would be given so much."""
    asked = request(recorded(name), model="Qwen/Qwen3-4B", pins=pinned)
    asked = replace(asked, wishes=replace(asked.wishes, max_model_len=wished))
    with pytest.raises(NoPlanError, match=r"^Qwen/Qwen3-4B (does not fit|cannot be served) ") as refusal:
        make_plan(asked, load_catalog())
    lowered, _, fits = (refusal.value.hint or "").partition(": ")
    assert lowered == f"lower {place}"
    if recorded(name).gpus:
        shorter = replace(asked, pins=(), wishes=replace(asked.wishes, max_model_len=int(fits.removesuffix(" fits"))))
        assert flat_settings(make_plan(shorter, load_catalog()))["VLLM_MAX_MODEL_LEN"].value == fits.removesuffix(
            " fits"
        )


def test_gpus_are_pinned_by_uuid_and_numbered_from_zero_inside() -> None:
    """The reservation names UUIDs; the container counts from 0; CUDA numbers by PCI bus."""
    plan = plan_for(recorded(PAIR))
    uuids = tuple(gpu.uuid for gpu in plan.host.gpus)
    assert plan.replicas[0].gpu_uuids == uuids
    values = {key: setting.value for key, setting in flat_settings(plan).items()}
    assert values["NVIDIA_VISIBLE_DEVICES"] == ",".join(str(uuid) for uuid in uuids)
    assert (values["CUDA_VISIBLE_DEVICES"], values["CUDA_DEVICE_ORDER"], values["GPU_COUNT"]) == (
        "0,1",
        "PCI_BUS_ID",
        "2",
    )


def test_cpu_mode_needs_no_gpu_and_uses_none() -> None:
    """Even where there are GPUs."""
    plan = plan_for(recorded(PAIR), mode=Mode.CPU)
    assert plan.replicas[0].gpu_uuids == ()
    assert "CUDA_VISIBLE_DEVICES" not in flat_settings(plan)
    assert plan.engine.cuda is None
    assert "--enforce-eager" in plan.replicas[0].args


def test_a_pin_beats_the_computed_value_and_reaches_the_engine() -> None:
    """In the settings, the replica's arguments and the gateway."""
    plan = plan_for(recorded(PAIR), pins={"VLLM_MAX_MODEL_LEN": "4096", "GATEWAY_PORT": "4444"})
    assert flat_settings(plan)["VLLM_MAX_MODEL_LEN"].reason == "pinned by the user"
    words = plan.replicas[0].args
    assert words[words.index("--max-model-len") + 1] == "4096"
    assert plan.gateway.port == 4444


def test_a_pin_that_nothing_reads_is_refused() -> None:
    """A GPU setting in CPU mode would be silently ignored otherwise."""
    with pytest.raises(NoPlanError, match="VLLM_GPU_MEMORY_UTILIZATION is pinned, but this mode does not use it"):
        plan_for(recorded("cpu-small"), pins={"VLLM_GPU_MEMORY_UTILIZATION": "0.5"})


def test_old_gpus_get_half_precision() -> None:
    """Turing has no bfloat16, and vLLM refuses it there."""
    host = replace(recorded(PAIR), gpus=(gpu(0, name="Tesla T4", gib=15, capability="7.5"),), links=(), p2p=())
    assert flat_settings(plan_for(host))["VLLM_DTYPE"].value == "float16"


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        ({"VLLM_BLOCK_SIZE": "7"}, "no attention kernel has blocks of 7 tokens, but of 16 or a multiple"),
        (
            {"VLLM_MAX_NUM_BATCHED_TOKENS": "64", "VLLM_MAX_NUM_SEQS": "128"},
            "a step of 64 tokens is too short for 128 requests at once",
        ),
    ],
)
def test_sizes_that_the_engine_refuses_are_refused(pins: dict[str, str], words: str) -> None:
    """Both where 0.33.0 reads its configuration: config/scheduler.py, and the attention backends."""
    with pytest.raises(NoPlanError, match=re.escape(words)):
        plan_for(recorded(PAIR), model="Qwen/Qwen3-8B", pins=pins)


def test_one_pinned_of_two_sizes_moves_the_other() -> None:
    few = flat_settings(plan_for(recorded(PAIR), model="Qwen/Qwen3-8B", pins={"VLLM_MAX_NUM_BATCHED_TOKENS": "64"}))
    assert int(few["VLLM_MAX_NUM_SEQS"].value) <= 64
    many = flat_settings(plan_for(recorded(PAIR), model="Qwen/Qwen3-8B", pins={"VLLM_MAX_NUM_SEQS": "4096"}))
    assert int(many["VLLM_MAX_NUM_BATCHED_TOKENS"].value) >= 4096


@pytest.mark.parametrize("name", HOST_NAMES)
def test_the_same_request_gives_the_same_bytes(name: str) -> None:
    """Planning and rendering are pure."""
    try:
        first, second = plan_for(recorded(name)), plan_for(recorded(name))
    except NoPlanError:
        return
    assert render_plan(first) == render_plan(second)


@given(example=examples())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_host_gives_a_sound_plan_or_a_refusal(example: Example) -> None:
    """Whatever the snapshot schema allows: allowed values, whole GPUs, none used twice, known flags, files that
    parse.
    """
    assert faults(example, work_out(example)) == []
