"""How many GPUs share a replica: the estimate, and the order that it gives."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.objective import Objective
from stackwright.planning.pace import Pace, arrange, estimate_pace
from stackwright.planning.placement import Heads, placements
from stackwright.planning.request import PlanRequest, model_request

from tests.planning_requests import gpu, recorded, request

CATALOG = load_catalog()
H100 = "8x-h100-nvswitch"


def sizes(whole: PlanRequest) -> list[int]:
    """Return the ranks of each way to place the model, in order."""
    asked = model_request(whole, 0)
    options = placements(asked.host, asked.mode, asked.parallel_pins, Heads(), asked.objective, asked.devices)
    return [each.tensor_parallel for each in arrange(options, asked, CATALOG)]


@pytest.mark.parametrize(
    ("model", "read_gb"),
    [
        # Parameters × 2 bytes, less the input embedding where it is not the output matrix too.
        ("Qwen/Qwen3-0.6B", 1.19),
        ("Qwen/Qwen3-8B", 15.1),
        # 3.3 billion are active, 0.3 of them the output matrix in two bytes, 0.3 the input embedding.
        ("Qwen/Qwen3-30B-A3B-FP8", 3.3),
    ],
)
def test_what_a_token_reads(model: str, read_gb: float) -> None:
    """Active weights alone."""
    asked = model_request(request(recorded(H100), model=model), 0)
    options = placements(asked.host, None, asked.parallel_pins, Heads())
    pace = estimate_pace(asked, options[0], CATALOG)
    assert pace is not None
    assert pace.read_bytes / 1e9 == pytest.approx(read_gb, rel=0.05)
    assert pace.bandwidth == pytest.approx(3.35e12, rel=0.01)


def test_ranks_divide_reading_and_add_waiting() -> None:
    """Ten milliseconds of reading; fifty layers wait a hundred times ten microseconds."""
    pace = Pace(read_bytes=10**10, bandwidth=1e12, layers=50)
    assert [pace.token_s(ranks) for ranks in (1, 2, 4)] == pytest.approx([0.010, 0.006, 0.0035])
    assert [pace.share_of_work(ranks) for ranks in (1, 2, 4)] == pytest.approx([1, 10 / 12, 10 / 14])


@pytest.mark.parametrize(
    ("model", "objective", "expected"),
    [
        pytest.param("Qwen/Qwen3-8B", None, [4, 8, 2, 1], id="the largest that pays, then what holds more"),
        pytest.param("Qwen/Qwen3-8B", Objective.CONTEXT, [4, 8, 2, 1], id="context breaks ties the same way"),
        pytest.param("Qwen/Qwen3-8B", Objective.LATENCY, [8, 4, 2, 1], id="the quickest first"),
        pytest.param("Qwen/Qwen3-0.6B", None, [1, 2, 4, 8], id="nothing pays"),
        pytest.param("Qwen/Qwen3-8B", Objective.THROUGHPUT, [1, 2, 4, 8], id="the smallest first"),
    ],
)
def test_the_order_inside_an_island(model: str, objective: Objective | None, expected: list[int]) -> None:
    """What the objective prefers comes first; larger groups follow, since they hold more."""
    assert sizes(replace(request(recorded(H100), model=model), objective=objective)) == expected


def test_nearly_equal_times_take_the_fewest_gpus() -> None:
    """Eight ranks of a mixture that reads 3 GB gain less than a twentieth on one GPU."""
    asked = replace(request(recorded(H100), model="Qwen/Qwen3-30B-A3B-FP8"), objective=Objective.LATENCY)
    assert sizes(asked)[0] == 1


def test_an_unknown_gpu_keeps_the_island() -> None:
    """Without a bandwidth nothing can be estimated; nothing is invented."""
    host = recorded("2x-rtx3090-nvlink")
    unknown = tuple(replace(each, name="NVIDIA Something New") for each in host.gpus)
    assert sizes(request(replace(host, gpus=unknown), model="Qwen/Qwen3-0.6B")) == [2, 1]


def test_what_reaches_across_pcie_stays_behind() -> None:
    """Whatever it would gain."""
    host = replace(
        recorded("2x-rtx4090"), gpus=tuple(gpu(index, name="NVIDIA GeForce RTX 4090") for index in range(2)), links=()
    )
    for objective in (None, *Objective):
        assert sizes(replace(request(host, model="Qwen/Qwen3-8B"), objective=objective))[0] == 1
