"""How many workers the gateway gets."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode
from stackwright.planning.workers import count_gateway_workers
from stackwright.rendering.numbered import flat_settings
from stackwright.units import GIB

from tests.planning.several import PAIR, QWEN_4B, QWEN_8B, first_gpus, plan_of
from tests.planning_requests import plan_for, recorded


def host_with(cores: int | None, gib: int | None) -> Host:
    """Compose a host with so many cores and so much memory."""
    host = recorded("cpu-small")
    return replace(host, cpu=replace(host.cpu, cores=cores), memory_bytes=None if gib is None else gib * GIB)


@pytest.mark.parametrize(
    ("cores", "gib", "mode", "gpus", "workers"),
    [
        (64, 512, Mode.MULTI, 8, 8),
        (64, 512, Mode.SINGLE, 1, 4),
        (64, 512, Mode.CPU, 0, 4),
        (6, 64, Mode.MULTI, 2, 4),
        (2, 24, Mode.CPU, 0, 1),
        (1, 1, Mode.CPU, 0, 1),
        (2, 64, Mode.MULTI, 8, 1),
        (64, 6, Mode.MULTI, 2, 3),
        (None, 64, Mode.MULTI, 2, 1),
        (64, None, Mode.MULTI, 2, 1),
    ],
)
def test_workers_are_bounded_by_mode_cores_and_memory(
    cores: int | None, gib: int | None, mode: Mode, gpus: int, workers: int
) -> None:
    """At most 8 multi, 4 otherwise; one at least; an unknown host gets one."""
    count, reason = count_gateway_workers(host_with(cores, gib), mode, gpus)
    assert count == workers
    assert reason


@pytest.mark.parametrize(
    ("places", "direct", "workers"),
    [
        *((1, True, 1), (640, True, 1), (641, True, 2), (99999, True, 8), (None, True, 8)),
        *((1, False, 1), (64, False, 1), (65, False, 2), (256, False, 4), (4096, False, 8), (None, False, 8)),
    ],
)
def test_more_workers_than_the_load_needs_are_useless(places: int | None, direct: bool, workers: int) -> None:
    """One for each 640 requests at work by the lane, 64 through LiteLLM; not limited, the host decides."""
    host = host_with(64, 512)
    assert count_gateway_workers(host, Mode.MULTI, 8, places, through_litellm=not direct)[0] == workers


def test_a_plan_follows_its_own_limit_and_way() -> None:
    """What the door lets in at once, in force or pinned; 0 lets all in."""
    for pinned, direct, workers in (("640", "on", "1"), ("2000", "on", "4"), ("0", "on", "8"), ("200", "off", "4")):
        pins = {"GATEWAY_MAX_CONCURRENT_REQUESTS": pinned, "GATEWAY_DIRECT": direct}
        plan = plan_for(recorded("8x-h100-nvswitch"), pins=pins)
        assert flat_settings(plan)["LITELLM_NUM_WORKERS"].value == workers


def test_several_models_leave_the_gateway_what_all_their_gpus_leave() -> None:
    """Each model's own plan keeps one core of three busy; together they leave one."""
    host = replace(PAIR, cpu=replace(PAIR.cpu, cores=3))
    off = {"GATEWAY_DIRECT": "off"}
    alone = plan_for(first_gpus(host, 1), pins=off)
    assert alone.settings["LITELLM_NUM_WORKERS"].value == "2"
    both = plan_of(host, QWEN_8B, QWEN_4B, pins=off)
    assert (both.settings["LITELLM_NUM_WORKERS"].value, both.workers.litellm) == ("1", 1)
    pinned = plan_of(host, QWEN_8B, QWEN_4B, pins={"LITELLM_NUM_WORKERS": "3"})
    assert pinned.workers.litellm == 3
