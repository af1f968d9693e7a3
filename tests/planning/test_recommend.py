"""Which GPUs serve a model as wished: each answer is one that a plan gives, and the least that does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_prices
from stackwright.domain.hardware import GpuModel, Price
from stackwright.domain.host import Driver, LinkKind
from stackwright.domain.topology import nvlink_islands
from stackwright.errors import NoPlanError
from stackwright.planning.matrix import USUAL_GPUS, Fit, make_matrix, with_driver
from stackwright.planning.planner import make_plan
from stackwright.planning.recommend import Suited, Unsuited, Wish, least_driver, least_number, lowest_price, recommend
from stackwright.planning.sold_hosts import COUNTS, drivers_for, newest_driver, sold_host
from stackwright.planning.survey import Lack
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import recorded, request, stored_checkpoints

CATALOG = load_catalog()
ROWS = {row.name: row for row in CATALOG.llms()}
GPUS = {gpu.id: gpu for gpu in CATALOG.gpus()}
WHOLE = request(recorded("cpu-small"))


def number(gpu: str, model: str, wish: Wish | None = None) -> Suited | Unsuited:
    return least_number(WHOLE, stored_checkpoints(ROWS[model]), wish or Wish(), CATALOG, GPUS[gpu])


def serves(gpu: GpuModel, count: int, location: str, model: str, wish: Wish, driver: Driver) -> bool:
    """Return whether a plan, made as `plan` makes it, surely serves the wish."""
    wanted = next(
        each for each in stored_checkpoints(ROWS[model])(gpu.compute_capability) if each.facts.location == location
    )
    host = sold_host(gpu, count, driver)
    assert host is not None
    wishes = replace(WHOLE.wishes, max_model_len=wish.context)
    try:
        plan = make_plan(replace(WHOLE, host=host, models=(wanted,), wishes=wishes), CATALOG)
    except NoPlanError:
        return False
    memory, settings = plan.replicas[0].memory, flat_settings(plan)
    assert memory is not None
    at_once = len(plan.replicas) * min(memory.max_concurrency, int(settings["VLLM_MAX_NUM_SEQS"].value))
    long_enough = int(settings["VLLM_MAX_MODEL_LEN"].value) >= (wish.context or 8192)
    return memory.verdict == "fits" and long_enough and at_once >= wish.requests


@pytest.mark.parametrize(
    ("gpu", "model", "wish"),
    [
        ("rtx3090", "qwen3-32b", Wish()),
        ("rtx3090", "qwen3-32b", Wish(context=32768, requests=4)),
        ("h100-sxm", "deepseek-v3", Wish()),
        ("l4", "qwen3-8b", Wish(context=40960, requests=16)),
        ("rtx5080", "qwen3-14b", Wish(context=16384)),
    ],
)
def test_the_number_is_the_least_that_a_plan_serves_with(gpu: str, model: str, wish: Wish) -> None:
    """Half as many serve it in no format of the catalog."""
    found = number(gpu, model, wish)
    assert isinstance(found, Suited)
    newest = newest_driver(CATALOG)
    assert serves(found.gpu, found.count, found.offer.facts.location, model, wish, newest)
    if found.count > 1:
        names = [checkpoint.hub_id for checkpoint in ROWS[model].checkpoints]
        assert not any(serves(found.gpu, found.count // 2, name, model, wish, newest) for name in names)


@pytest.mark.parametrize(("gpu", "model"), [("rtx3090", "qwen3-8b"), ("h100-sxm", "qwen3-32b"), ("b200", "glm-4.7")])
def test_the_driver_is_the_least_from_which_on_all_do(gpu: str, model: str) -> None:
    found = number(gpu, model)
    assert isinstance(found, Suited)
    least = least_driver(WHOLE, found, Wish(), CATALOG)
    drivers = list(drivers_for(found.gpu, CATALOG))
    at = [driver.version for driver in drivers].index(least)
    does = [serves(found.gpu, found.count, found.offer.facts.location, model, Wish(), driver) for driver in drivers]
    assert all(does[: at + 1])
    assert at + 1 == len(drivers) or not does[at + 1]


@pytest.mark.parametrize(
    ("gpu", "model", "lack"),
    [
        ("rtx3060", "deepseek-v3", Lack.MEMORY),
        ("p100-pcie", "qwen3-0.6b", Lack.IMAGE),
        ("v100-sxm2-32", "qwen3-0.6b", Lack.IMAGE),
        ("t4", "gemma-3-1b", Lack.SUPPORT),
        ("jetson-thor", "qwen3-0.6b", None),
    ],
)
def test_a_gpu_that_does_not_is_told_why(gpu: str, model: str, lack: Lack | None) -> None:
    found = number(gpu, model)
    assert isinstance(found, Unsuited)
    assert found.lack is lack
    assert found.reason
    assert found.known is (lack is not None)


def test_a_wish_that_no_number_holds_is_told_what_the_most_serve() -> None:
    found = number("rtx3060", "qwen3-8b", Wish(context=40960, requests=500))
    assert isinstance(found, Unsuited)
    assert found.why == "requests too short, or too few at once"
    assert found.reason.startswith("8 serve requests of 40,960 tokens, ")


def test_allowed_holes_bring_older_gpus_back() -> None:
    needs = replace(WHOLE.needs, allow_vulnerable=True)
    whole = replace(WHOLE, needs=needs)
    found = least_number(whole, stored_checkpoints(ROWS["qwen3-0.6b"]), Wish(), CATALOG, GPUS["v100-sxm2-32"])
    assert isinstance(found, Suited)


def test_the_least_known_price_comes_first_and_unknown_ones_last() -> None:
    suited, others = recommend(WHOLE, stored_checkpoints(ROWS["qwen3-0.6b"]), Wish(), CATALOG, load_prices())
    usd = [one.usd_per_hour for one in suited]
    known = [price for price in usd if price is not None]
    assert known == sorted(known)
    assert usd[: len(known)] == known
    assert None in usd
    assert {one.gpu.id for one in suited} | {one.gpu.id for one in others} == set(GPUS)


def test_a_price_is_for_the_number_that_is_rented_together() -> None:
    gpu = GPUS["h100-sxm"]
    eight = Price(gpu=gpu.id, provider="a", usd_per_gpu_hour=1, together=8, source="s", date="2026-01-01")
    any_number = replace(eight, provider="b", usd_per_gpu_hour=2, together=None)
    assert lowest_price((eight, any_number), gpu, 8) == eight
    assert lowest_price((eight, any_number), gpu, 2) == any_number
    assert lowest_price((eight,), gpu, 2) is None
    assert lowest_price((eight,), GPUS["b200"], 8) is None


def test_every_price_is_of_a_known_gpu_and_has_its_day() -> None:
    for price in load_prices():
        assert price.gpu in GPUS
        assert 0 < price.usd_per_gpu_hour < 100
        assert price.date.startswith("2026-")
        assert price.source
        assert price.together in (None, *COUNTS)


@pytest.mark.parametrize("gpu", list(GPUS.values()), ids=lambda gpu: gpu.id)
def test_a_sold_host_has_what_the_row_says(gpu: GpuModel) -> None:
    """Meshed GPUs are one island; a bridge is not taken to be there."""
    host = sold_host(gpu, 8, newest_driver(CATALOG))
    if host is None:
        assert gpu.nvml_memory_mib is None
        return
    assert len(host.gpus) == 8
    assert {CATALOG.find_gpu(one.name) for one in host.gpus} == {gpu}
    meshed = gpu.nvlink is not None and gpu.nvlink.kind == "mesh"
    assert {link.kind for link in host.links} == {LinkKind.NVSWITCH if meshed else LinkKind.PCIE_HOST}
    assert len(nvlink_islands(host.gpus, host.links)) == (1 if meshed else 8)


def test_cells_say_how_a_model_and_a_gpu_go_together() -> None:
    gpus = [GPUS[name] for name in ("rtx3090", "t4", "gb10", "rtxpro2000-bw")]
    rows = [ROWS[name] for name in ("qwen3-8b", "qwen3-32b", "gemma-3-1b", "deepseek-v3")]
    matrix = with_driver(make_matrix(WHOLE, rows, gpus, stored_checkpoints, CATALOG), None)
    fits = {one.row.name: [cell.fit for cell in one.cells] for one in matrix}
    assert fits["qwen3-8b"] == [Fit.COMPATIBLE, Fit.COMPATIBLE, Fit.MAY_FIT, Fit.UNKNOWN]
    assert fits["qwen3-32b"] == [Fit.SEVERAL_GPUS, Fit.SEVERAL_GPUS, Fit.MAY_FIT, Fit.UNKNOWN]
    assert fits["gemma-3-1b"][1] is Fit.NOT_SUPPORTED
    assert fits["deepseek-v3"][:3] == [Fit.NOT_SUPPORTED] * 3
    assert all(cell.reason for one in matrix for cell in one.cells if cell.count is None)


def test_a_given_driver_marks_what_needs_a_newer_one() -> None:
    gpus = [GPUS["rtx3090"], GPUS["rtx5090"]]
    matrix = make_matrix(WHOLE, [ROWS["qwen3-8b"]], gpus, stored_checkpoints, CATALOG)
    ((first, second),) = (one.cells for one in with_driver(matrix, "550.54"))
    assert (first.fit, second.fit) == (Fit.COMPATIBLE, Fit.NEWER_DRIVER)
    assert second.count == 1
    assert all(cell.fit is Fit.COMPATIBLE for one in with_driver(matrix, None) for cell in one.cells)


def test_the_usual_gpus_are_of_the_catalog() -> None:
    assert set(USUAL_GPUS) <= set(GPUS)
