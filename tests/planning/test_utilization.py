"""The share of a GPU's memory: the least of the wish, the size's share, and what is free."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import find_gpu
from stackwright.domain.environment import Environment
from stackwright.domain.host import Gpu
from stackwright.engines.memory.unified import shares_memory
from stackwright.errors import NoPlanError
from stackwright.planning.utilization import (
    FREE_SOURCE,
    SHARED_SOURCE,
    SIZE_SOURCE,
    UnifiedMemory,
    choose_utilization,
    free_share,
    size_share,
)
from stackwright.rendering.numbered import flat_settings
from stackwright.units import GIB, MIB

from tests.planning_requests import plan_for, recorded


def gpu(mib: int | None, used_mib: int | None = 0, capability: str | None = "8.6", index: int = 0) -> Gpu:
    """Make a GPU of `mib` MiB."""
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name="NVIDIA Test",
        memory_bytes=None if mib is None else mib * MIB,
        memory_used_bytes=None if used_mib is None else used_mib * MIB,
        compute_capability=capability,
        pci_bus_id=None,
        numa_node=None,
        mig=False,
    )


@pytest.mark.parametrize(
    ("mib", "capability", "share"),
    [
        (8188, "8.9", 0.85),  # RTX 4060
        (12288, "8.6", 0.85),  # RTX 3060
        (15109, "7.5", 0.88),  # T4 on an old driver
        (16303, "12.0", 0.88),  # RTX 5080
        (20470, "8.6", 0.88),  # RTX A4500
        (23028, "8.6", 0.90),  # A10
        (24564, "8.9", 0.90),  # RTX 4090
        (32760, "8.9", 0.90),  # RTX 5000 Ada
        (32607, "12.0", 0.95),  # RTX 5090
        (40960, "8.0", 0.92),  # A100 40 GB
        (46068, "8.9", 0.92),  # L40S
        (183359, "10.0", 0.92),  # B200
        (4864, "8.0", 0.85),  # a MIG slice
        (24576, None, 0.90),
    ],
)
def test_size_gives_the_share(mib: int, capability: str | None, share: float) -> None:
    assert size_share(mib * MIB, capability) == share


def test_the_wish_wins_where_it_is_the_least() -> None:
    found = choose_utilization(0.80, "envs/dev.yaml", (gpu(24576),))
    assert (found.value, found.source) == (0.80, "envs/dev.yaml")


def test_the_size_lowers_a_higher_wish() -> None:
    found = choose_utilization(0.90, "envs/prod.yaml", (gpu(8188),))
    assert (found.value, found.source) == (0.85, SIZE_SOURCE)
    assert found.reason == "0.85 is the limit for 8.0 GiB of GPU memory, below the requested 0.90"


def test_memory_in_use_lowers_it_further() -> None:
    found = choose_utilization(0.90, "envs/prod.yaml", (gpu(24576), gpu(24576, 8192, index=1)))
    assert (found.value, found.source) == (0.64, FREE_SOURCE)
    assert found.reason == "GPU 1 has 8.0 GiB in use: an engine with the requested 0.90 would not start"


def test_what_is_taken_is_free() -> None:
    one = gpu(24576, 8192)
    assert one.memory_bytes is not None
    assert free_share(one) * one.memory_bytes + 8 * GIB + GIB // 2 <= one.memory_bytes


def test_a_full_gpu_is_no_plan() -> None:
    with pytest.raises(NoPlanError) as failure:
        choose_utilization(0.90, "envs/prod.yaml", (gpu(24576, 23552),))
    assert failure.value.message == "GPU 0 (NVIDIA Test) has 1.0 GiB of 24.0 GiB free"


def test_an_unknown_size_leaves_the_wish() -> None:
    assert choose_utilization(0.85, "envs/staging.yaml", (gpu(None, None, "12.1"),)).value == 0.85


@pytest.mark.parametrize(
    ("total_gib", "workers", "wish", "share"),
    [
        (121.7, 4, 0.90, 0.81),  # a DGX Spark: 20.4 GiB for the system, 2 for the gateway
        (121.7, 4, 0.80, 0.80),  # the wish is less
        (121.7, 32, 0.90, 0.70),  # a larger gateway
        (61.4, 4, 0.90, 0.79),  # a Jetson Orin
        (2.0, 8, 0.90, 0.10),  # never nothing: the forecast says that it does not fit
    ],
)
def test_memory_that_the_processor_shares_is_not_all_the_engines(
    total_gib: float, workers: int, wish: float, share: float
) -> None:
    shared = UnifiedMemory(total_bytes=int(total_gib * GIB), gateway_bytes=workers * GIB // 2)
    assert choose_utilization(wish, "envs/prod.yaml", (gpu(None, None, "12.1"),), shared).value == share


def test_every_environment_of_a_dgx_spark_leaves_the_host_its_part() -> None:
    """No more than was ever free on one that was idle, whatever the environment wishes."""
    shares = {
        each: flat_settings(plan_for(recorded("gb10"), each))["VLLM_GPU_MEMORY_UTILIZATION"] for each in Environment
    }
    assert {each.value: setting.value for each, setting in shares.items()} == {
        "dev": "0.80",
        "staging": "0.81",
        "prod": "0.81",
    }
    assert shares[Environment.PROD].source.startswith(SHARED_SOURCE)
    assert all(float(setting.value) * 121.7 < 101.3 for setting in shares.values())


def test_a_gpu_that_nobody_knows_shares_where_the_totals_are_one() -> None:
    host = recorded("gb10")
    own = host.memory_bytes
    assert own is not None
    unknown = replace(host.gpus[0], name="NVIDIA Test", memory_bytes=own)
    assert shares_memory(host, unknown, None)
    assert not shares_memory(host, replace(unknown, memory_bytes=own - 2 * GIB), None)
    assert not shares_memory(host, replace(unknown, memory_bytes=None), None)


def test_a_known_gpu_as_large_as_the_host_is_still_its_own() -> None:
    host = recorded("1x-rtx3090")
    same = replace(host, memory_bytes=host.gpus[0].memory_bytes)
    assert not shares_memory(same, same.gpus[0], find_gpu(same.gpus[0].name))
