"""Plans and `fit` where the engine runs on the processor: the host must hold weights, cache, processes and the
gateway.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.host import Host
from stackwright.domain.plan import Memory, Mode, Plan
from stackwright.engines.vllm.cpu import choose_space_gib
from stackwright.engines.vllm.memory.cpu import SYSTEM_BYTES
from stackwright.errors import NoPlanError
from stackwright.planning.workers import WORKER_BYTES
from stackwright.rendering.numbered import flat_settings
from stackwright.units import GIB

from tests.planning_requests import plan_for, recorded

SMALL_LLM = "Qwen/Qwen3-0.6B"


def host_with(gib: float | None, nodes: int = 1) -> Host:
    """Return the small machine with so much memory."""
    host = recorded("cpu-small")
    memory = None if gib is None else int(gib * GIB)
    return replace(host, memory_bytes=memory, cpu=replace(host.cpu, numa_nodes=nodes))


def memory_of(plan: Plan) -> Memory:
    """Return the forecast of a plan that has one."""
    (replica,) = plan.replicas
    assert replica.memory is not None
    return replica.memory


def taken_bytes(memory: Memory) -> int:
    """Add up what one rank takes."""
    return memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes + memory.kv_cache_bytes


def test_the_forecast_is_of_the_hosts_memory() -> None:
    plan = plan_for(host_with(24), model=SMALL_LLM)
    memory = memory_of(plan)
    assert memory.total_bytes == 24 * GIB
    assert memory.budget_bytes == 24 * GIB - SYSTEM_BYTES - plan.workers.litellm * WORKER_BYTES
    assert memory.kv_cache_bytes == int(flat_settings(plan)["VLLM_CPU_KVCACHE_SPACE"].value) * GIB
    assert memory.verdict == "fits"
    assert (memory.cuda_graph_bytes, memory.max_concurrency >= 1) == (0, True)


def test_gpus_do_not_count_in_cpu_mode() -> None:
    host = recorded("8x-h100-nvswitch")
    assert memory_of(plan_for(host, mode=Mode.CPU)).total_bytes == host.memory_bytes


def test_a_model_beyond_the_hosts_memory_is_refused_with_the_sum() -> None:
    with pytest.raises(NoPlanError) as failure:
        plan_for(host_with(24), model="Qwen/Qwen3-14B")
    assert failure.value.exit_code == 4
    assert failure.value.message.startswith("Qwen/Qwen3-14B does not fit in this host's memory: weights 27.5 GiB, ")
    assert "the host's 24.0 GiB minus 512 MiB for the gateway and 1.5 GiB for the system" in failure.value.message


def test_the_verdict_turns_with_the_hosts_memory() -> None:
    """Above the sum by the margin it fits, below by the margin it does not; between, the plan says that nobody
    knows.
    """
    memory = memory_of(plan_for(host_with(100), model=SMALL_LLM, pins={"VLLM_CPU_KVCACHE_SPACE": "2"}))
    aside = memory.total_bytes - memory.budget_bytes
    margin = memory.uncertainty_bytes

    def plan_with(spare_bytes: int) -> Plan:
        total = taken_bytes(memory) + aside + spare_bytes
        pins = {"VLLM_CPU_KVCACHE_SPACE": "2", "LITELLM_NUM_WORKERS": str(aside_workers)}
        return plan_for(host_with(total / GIB), model=SMALL_LLM, pins=pins)

    aside_workers = (aside - SYSTEM_BYTES) // WORKER_BYTES
    assert memory_of(plan_with(2 * margin)).verdict == "fits"
    between = plan_with(0)
    assert memory_of(between).verdict == "uncertain"
    assert any("may not be enough" in warning for warning in between.warnings)
    with pytest.raises(NoPlanError):
        plan_with(-2 * margin)


def test_the_cache_counts_too() -> None:
    with pytest.raises(NoPlanError, match=r"cache 22\.0 GiB"):
        plan_for(host_with(24), pins={"VLLM_CPU_KVCACHE_SPACE": "22"})


def test_a_wished_length_gets_the_cache_that_it_needs() -> None:
    """The rule's 3 GiB hold 28,000 tokens of this model; the engine would refuse to start with 40,960."""
    plan = plan_for(host_with(24), model=SMALL_LLM, pins={"VLLM_MAX_MODEL_LEN": "40960"})
    space = flat_settings(plan)["VLLM_CPU_KVCACHE_SPACE"]
    assert (space.value, space.reason) == ("5", "needed by one request of 40,960 tokens")
    assert memory_of(plan).max_concurrency >= 1


def test_a_cache_that_is_too_small_for_the_pinned_length_is_refused() -> None:
    pins = {"VLLM_MAX_MODEL_LEN": "40960", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with pytest.raises(NoPlanError, match=r"one request of 40,960 tokens needs 4\.4 GiB of the 1\.0 GiB KV cache"):
        plan_for(host_with(24), model=SMALL_LLM, pins=pins)


def test_ranks_share_one_host() -> None:
    """Each rank has a cache of its own, so that twice the ranks need twice the space."""
    pins = {"VLLM_CPU_KVCACHE_SPACE": "12"}
    assert memory_of(plan_for(host_with(24), pins=pins)).verdict == "fits"
    with pytest.raises(NoPlanError, match="on each rank"):
        plan_for(host_with(24), pins={**pins, "VLLM_TENSOR_PARALLEL_SIZE": "2"})


def test_a_rank_is_bound_to_one_memory_node() -> None:
    """vLLM binds it there, and a snapshot does not tell how the memory is spread: a doubt, not a refusal."""
    pins = {"VLLM_CPU_KVCACHE_SPACE": "12"}
    plan = plan_for(host_with(24, nodes=2), pins=pins)
    assert memory_of(plan).verdict == "uncertain"
    assert any("one of 2 memory nodes" in warning for warning in plan.warnings)


def test_unknown_memory_is_no_forecast() -> None:
    plan = plan_for(host_with(None))
    assert plan.replicas[0].memory is None
    assert "the host's memory is unknown: not checked whether the model fits" in plan.warnings


@pytest.mark.parametrize(
    ("gib", "smoke", "space"), [(24, True, 1), (4, False, 1), (24, False, 3), (512, False, 4), (None, False, 1)]
)
def test_the_cache_is_an_eighth_of_the_memory(gib: int | None, smoke: bool, space: int) -> None:
    assert choose_space_gib(host_with(gib), smoke=smoke) == space
