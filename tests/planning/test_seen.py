"""A plan made after a start on the same host: what was measured counts, and the context's reason says so."""

from __future__ import annotations

from stackwright.catalog.load import load_catalog
from stackwright.domain.forecast import EngineSettings, Measured, ObservedStart, RememberedStart
from stackwright.domain.plan import Memory, Plan
from stackwright.planning.planner import make_plan
from stackwright.units import GIB

from tests.planning_requests import plan_for, recorded, request, with_model

MODEL = "Qwen/Qwen3-8B"


def remembered(plan: Plan, measured: Measured) -> RememberedStart:
    """Return the start of a plan with one GPU, as its log would tell of it."""
    (model,) = plan.models
    values = {key: setting.value for key, setting in model.settings.items()}
    settings = EngineSettings(
        version=model.engine.version,
        gpu_memory_utilization=float(values["VLLM_GPU_MEMORY_UTILIZATION"]),
        max_model_len=int(values["VLLM_MAX_MODEL_LEN"]),
        max_num_seqs=int(values["VLLM_MAX_NUM_SEQS"]),
        max_num_batched_tokens=int(values["VLLM_MAX_NUM_BATCHED_TOKENS"]),
        kv_cache_dtype=values["VLLM_KV_CACHE_DTYPE"],
    )
    start = ObservedStart(engine="vllm", model=model.location, settings=settings, measured=measured, outcome="fit")
    return RememberedStart(host="here", date="2026-11-28", gpu="NVIDIA GeForce RTX 5090", start=start)


def planned_again(plan: Plan, measured: Measured) -> Plan:
    asked = request(recorded("1x-rtx5090"), model=MODEL)
    return make_plan(with_model(asked, seen=(remembered(plan, measured),)), load_catalog())


def memory_of(plan: Plan) -> Memory:
    memory = plan.models[0].forecast
    assert memory is not None
    return memory


def test_a_smaller_pool_than_forecast_shortens_the_next_plan_and_says_why() -> None:
    plan = plan_for(recorded("1x-rtx5090"), model=MODEL)
    before = memory_of(plan)
    pool = before.kv_cache_bytes - 2 * GIB
    again = planned_again(plan, Measured(weights_bytes=before.weights_bytes, kv_cache_bytes=pool))
    context = again.models[0].settings["VLLM_MAX_MODEL_LEN"]
    assert abs(memory_of(again).kv_cache_bytes - pool) < GIB // 10
    assert context.reason.endswith("measured on this host on 2026-11-28")


def test_a_start_on_another_gpu_of_the_host_tells_nothing() -> None:
    plan = plan_for(recorded("1x-rtx5090"), model=MODEL)
    asked = request(recorded("1x-rtx3090"), model=MODEL)
    seen = remembered(plan, Measured(weights_bytes=GIB, kv_cache_bytes=GIB))
    assert make_plan(with_model(asked, seen=(seen,)), load_catalog()) == make_plan(asked, load_catalog())
