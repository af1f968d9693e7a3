"""The model that each recorded host serves when nobody names one: judged, not only recorded."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Origin, Plan
from stackwright.errors import NoPlanError
from stackwright.planning.default_llm import with_default_llm
from stackwright.planning.planner import make_plan
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import HOST_NAMES, recorded, request

CATALOG = load_catalog()
GPU_HOSTS = tuple(name for name in HOST_NAMES if recorded(name).gpus)

# Host → model, replicas, GPUs that share one. Mixtures of experts where the GPUs hold a recent one, since they read a
# part of themselves per token; FP8 where it fits; no model that must reach across PCIe.
JUDGED = {
    "1x-h200": ("Qwen/Qwen3.5-122B-A10B-FP8", 1, 1),
    "1x-rtx3060-12gb": ("Qwen/Qwen3-8B-AWQ", 1, 1),
    "1x-rtx3090": ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", 1, 1),
    "1x-rtx5090": ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", 1, 1),
    "2x-a6000-nvlink": ("Qwen/Qwen3.5-122B-A10B-GPTQ-Int4", 1, 2),
    "2x-rtx3090-driver550": ("Qwen/Qwen3.6-35B-A3B-FP8", 1, 2),
    "2x-rtx3090-nvlink": ("Qwen/Qwen3.6-35B-A3B-FP8", 1, 2),
    "2x-rtx3090-pcie": ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", 2, 1),
    "2x-rtx4090": ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", 2, 1),
    "4x-a100-two-nvlink-pairs": ("Qwen/Qwen3.5-122B-A10B-FP8", 2, 2),
    "8x-b200-nvswitch": ("moonshotai/Kimi-K2.5", 1, 8),
    "8x-h100-driver535": ("Qwen/Qwen3.5-397B-A17B-FP8", 1, 8),
    "8x-h100-nvswitch": ("Qwen/Qwen3.5-397B-A17B-FP8", 1, 8),
    "a100-mig": ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", 1, 1),
    "a100-seven-slices": ("Qwen/Qwen2.5-3B-Instruct-AWQ", 7, 1),
    "gb10": ("Qwen/Qwen3.5-122B-A10B-GPTQ-Int4", 1, 1),
    "gpu-lost": ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", 1, 1),
    "l40s-busy": ("Qwen/Qwen3-14B-AWQ", 1, 1),
    "mixed-3090-3060": ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", 1, 1),
    "pod-1x-l40s": ("Qwen/Qwen3.6-35B-A3B-FP8", 1, 1),
    "wsl2-rtx5080": ("Qwen/Qwen3-8B-AWQ", 1, 1),
}
# Their driver runs no image without known holes: the driver comes first, whatever the model.
REFUSED = ("4x-t4-driver470", "old-driver")


def default_plan(host: Host, objective: Objective | None = None) -> Plan:
    """Plan with the model that is chosen without a hub token."""
    return make_plan(with_default_llm(replace(request(host), objective=objective), CATALOG, has_token=False), CATALOG)


def test_every_host_with_a_gpu_is_judged() -> None:
    """A new host needs a row here."""
    assert {*JUDGED, *REFUSED} == set(GPU_HOSTS)


@pytest.mark.parametrize("name", JUDGED)
def test_the_judged_model_is_served_as_judged(name: str) -> None:
    """The choice holds in the whole plan, whose reason names the next best ones."""
    plan = default_plan(recorded(name))
    replica = plan.replicas[0]
    assert (replica.model, len(plan.replicas), len(replica.gpu_uuids)) == JUDGED[name]
    setting = flat_settings(plan)["VLLM_MODEL"]
    assert setting.origin is Origin.CATALOG
    assert setting.source.startswith("generator/stackwright/catalog/llms.yaml; ")
    reason = setting.reason
    assert reason.startswith("chosen for this host: ")
    assert "without an objective, as for throughput, " in reason
    assert re.search(r"next best: \S+/\S+ \(.+\)$", reason)


@pytest.mark.parametrize("name", [name for name in JUDGED if name not in ("gb10", "wsl2-rtx5080")])
def test_the_default_leaves_room_in_the_smallest_share_of_the_environments(name: str) -> None:
    """For requests of a useful length in `dev`, too, whatever model and checkpoint that takes."""
    asked = request(recorded(name), Environment.DEV)
    chosen = with_default_llm(asked, CATALOG, has_token=False, least_share=0.80)
    assert int(flat_settings(make_plan(chosen, CATALOG))["VLLM_MAX_MODEL_LEN"].value) >= 8192


@pytest.mark.parametrize("name", REFUSED)
def test_an_old_driver_is_named_before_any_model(name: str) -> None:
    """What stands in the way is not the model."""
    with pytest.raises(NoPlanError, match=r"driver (≥|[0-9.]+ runs)"):
        default_plan(recorded(name))


@pytest.mark.parametrize("objective", [None, *Objective])
@pytest.mark.parametrize("name", JUDGED)
def test_what_is_chosen_has_a_plan_inside_an_island(name: str, objective: Objective | None) -> None:
    """For every objective; nobody asked for a model so large that it must cross PCIe."""
    plan = default_plan(recorded(name), objective)
    assert plan.replicas[0].pipeline_parallel == 1
    nvlinked = Counter(link.kind for link in plan.host.links if link.kind in ("nvlink", "nvswitch"))
    assert plan.replicas[0].tensor_parallel == 1 or nvlinked
    memory = plan.replicas[0].memory
    assert memory is not None
    assert memory.verdict == ("uncertain" if name in ("gb10", "wsl2-rtx5080") else "fits")


def test_latency_reads_less_per_token() -> None:
    """Decoding waits for weights: three billion parameters a token come sooner than ten."""
    assert default_plan(recorded("1x-h200"), Objective.LATENCY).replicas[0].model.startswith("Qwen/Qwen3-Next-80B-A3B")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        # 223,232 tokens fit, of Qwen/Qwen3.6-27B-FP8 173,824; both are named for 262,144.
        ("2x-rtx3090-nvlink", "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8"),
        # Both serve in full: then the larger one.
        ("1x-h200", "Qwen/Qwen3.5-122B-A10B-FP8"),
    ],
)
def test_context_counts_what_fits(name: str, model: str) -> None:
    """Not what the publisher names; and the plan serves the length that the choice promised."""
    plan = default_plan(recorded(name), Objective.CONTEXT)
    assert plan.replicas[0].model == model
    assert (
        f"requests of {int(flat_settings(plan)['VLLM_MAX_MODEL_LEN'].value):,} tokens fit"
        in flat_settings(plan)["VLLM_MODEL"].reason
    )
    assert "for context, " in flat_settings(plan)["VLLM_MODEL"].reason


def test_a_pinned_length_is_counted_with() -> None:
    """A model is of no use if the length that was asked for does not fit beside it."""
    asked = request(recorded("1x-rtx3060-12gb"), pins={"VLLM_MAX_MODEL_LEN": "30000"})
    chosen = with_default_llm(asked, CATALOG, has_token=False)
    assert chosen.models[0].llm.name != JUDGED["1x-rtx3060-12gb"][0]
    assert flat_settings(make_plan(chosen, CATALOG))["VLLM_MAX_MODEL_LEN"].value == "30000"


def test_a_named_model_is_explained_by_where_it_was_named() -> None:
    """Whoever reads `--explain` must know where to change it."""
    asked = request(recorded("1x-h200"), model="Qwen/Qwen3-8B")
    wished = replace(asked, wishes=replace(asked.wishes, model="Qwen/Qwen3-8B"))
    for each, place in (
        (replace(asked, named=True), ("--model", Origin.PINNED)),
        (wished, ("envs/prod.yaml", Origin.WISHED)),
        (asked, ("default", Origin.COMPUTED)),
    ):
        setting = flat_settings(make_plan(each, CATALOG))["VLLM_MODEL"]
        assert (setting.source, setting.origin) == place


def test_without_a_gpu_the_request_stays() -> None:
    """The processor serves what was asked for, here the smoke model."""
    asked = request(recorded("cpu-large"))
    assert with_default_llm(asked, CATALOG, has_token=False) == asked


@pytest.mark.parametrize(
    ("host", "key", "value"),
    [
        ("8x-h100-nvswitch", "VLLM_TENSOR_PARALLEL_SIZE", "3"),
        ("cpu-small", "VLLM_TENSOR_PARALLEL_SIZE", "64"),
        ("cpu-small", "LITELLM_NUM_WORKERS", "256"),
    ],
)
def test_a_pin_that_is_in_the_way_is_named(host: str, key: str, value: str) -> None:
    """Whatever the model, a smaller one would not help."""
    with pytest.raises(NoPlanError) as caught:
        make_plan(request(recorded(host), pins={key: value}), CATALOG)
    assert str(caught.value.hint).startswith(f"lower or remove `--set {key}=…`")


def test_a_pin_that_no_catalog_model_can_follow_is_named() -> None:
    asked = request(recorded("8x-h100-nvswitch"), pins={"VLLM_TENSOR_PARALLEL_SIZE": "3"})
    with pytest.raises(NoPlanError, match="VLLM_TENSOR_PARALLEL_SIZE=3 divides") as caught:
        with_default_llm(asked, CATALOG, has_token=False)
    assert str(caught.value.hint).startswith("remove `--set VLLM_TENSOR_PARALLEL_SIZE=…`")


def test_a_pin_across_pcie_is_followed() -> None:
    """The person fixed the ranks: the model may be as large as they hold."""
    asked = request(recorded("2x-rtx4090"), pins={"VLLM_TENSOR_PARALLEL_SIZE": "2"})
    chosen = with_default_llm(asked, CATALOG, has_token=False)
    assert chosen.models[0].llm.name == "Qwen/Qwen3.6-35B-A3B-FP8"
    assert make_plan(chosen, CATALOG).replicas[0].tensor_parallel == 2


def test_a_gpu_that_holds_nothing_is_refused_with_the_way_on() -> None:
    """Two gigabytes serve no catalog model."""
    host = recorded("1x-rtx3060-12gb")
    tiny = replace(host, gpus=(replace(host.gpus[0], memory_bytes=2**30, memory_used_bytes=0),))
    with pytest.raises(NoPlanError, match=r"no catalog model fits on 1× NVIDIA GeForce RTX 3060") as refusal:
        default_plan(tiny)
    assert "--model" in (refusal.value.hint or "")
