"""What a host comes to with many models: the plan of each says the same."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.model_facts import CatalogLlm
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode
from stackwright.errors import NoPlanError
from stackwright.planning.default_llm import with_default_llm
from stackwright.planning.layout import LayoutOption, is_hopeless, smallest_memory
from stackwright.planning.llm_choice import is_roomy, order_llms
from stackwright.planning.model_plan import wanted_settings
from stackwright.planning.placement import Heads, placements
from stackwright.planning.planner import make_plan
from stackwright.planning.request import PlanRequest, WantedModel, model_request
from stackwright.planning.survey import Lack, Offer, best_of, survey, weigh
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import recorded, request, stored_checkpoints, stored_model

CATALOG = load_catalog()
RULES = request(recorded("cpu-small")).engine.format_rules(CATALOG, None)
HOSTS = ("2x-rtx3090-nvlink", "2x-rtx4090", "wsl2-rtx5080", "8x-h100-nvswitch", "cpu-small", "gb10", "a100-mig")
ROWS = {row.name: row for row in CATALOG.llms()}


def asked(host: str, model: WantedModel, **pins: str) -> PlanRequest:
    return replace(request(recorded(host), Environment.DEV, pins=pins), models=(model,))


def check_against_the_plan(whole: PlanRequest, offer: Offer) -> None:
    """The plan is made as `plan` makes it, and says what the offer says."""
    try:
        plan = make_plan(whole, CATALOG)
    except NoPlanError as refusal:
        assert offer.served is None
        assert offer.refusal is not None
        assert offer.refusal.reason == refusal.message
        return
    served, (model,), replica = offer.served, plan.models, plan.replicas[0]
    assert served is not None
    assert (served.replicas, served.gpus) == (len(plan.replicas), len(replica.gpu_uuids))
    assert (served.tensor_parallel, served.pipeline_parallel) == (replica.tensor_parallel, replica.pipeline_parallel)
    assert (served.image.version, served.image.image) == (model.engine.version, model.engine.image)
    assert served.memory == replica.memory
    context = flat_settings(plan)["VLLM_MAX_MODEL_LEN"].value
    assert context in (str(served.reach.tokens), "auto")
    assert served.reach.sure is (replica.memory is not None and replica.memory.verdict == "fits")
    if served.at_once is not None and replica.memory is not None:
        limit = flat_settings(plan).get("VLLM_MAX_NUM_SEQS")
        each = min(replica.memory.max_concurrency, int(limit.value) if limit else replica.memory.max_concurrency)
        assert served.at_once == each * len(plan.replicas)


@pytest.mark.parametrize("host", HOSTS)
def test_an_offer_is_what_the_plan_says(host: str) -> None:
    """Of every seventh model each checkpoint, the ones that do not fit among them."""
    for row in CATALOG.llms()[HOSTS.index(host) % 7 :: 7]:
        for checkpoint in row.checkpoints:
            whole = asked(host, stored_model(row, checkpoint))
            check_against_the_plan(whole, weigh(model_request(whole, 0), CATALOG, RULES))


@pytest.mark.parametrize("host", ["4x-t4-driver470", "old-driver", "nvml-mismatch"])
def test_a_host_that_serves_nothing_says_what_the_plan_says(host: str) -> None:
    row = ROWS["qwen3-8b"]
    whole = asked(host, stored_model(row, row.checkpoints[0]))
    offer = weigh(model_request(whole, 0), CATALOG, RULES)
    assert offer.served is None
    check_against_the_plan(whole, offer)


def test_pins_count_as_in_the_plan() -> None:
    row = ROWS["qwen3-32b"]
    whole = asked("2x-rtx3090-nvlink", stored_model(row, row.checkpoints[-1]), VLLM_MAX_MODEL_LEN="4096")
    offer = weigh(model_request(whole, 0), CATALOG, RULES)
    assert offer.reach.tokens == 4096
    check_against_the_plan(whole, offer)
    lost = asked("2x-rtx3090-nvlink", stored_model(row, row.checkpoints[-1]), VLLM_TENSOR_PARALLEL_SIZE="8")
    check_against_the_plan(lost, weigh(model_request(lost, 0), CATALOG, RULES))


@pytest.mark.parametrize("host", ["2x-rtx3090-nvlink", "1x-rtx3060-12gb", "wsl2-rtx5080", "l40s-busy"])
@pytest.mark.parametrize("name", ["qwen3-32b", "qwen3-14b", "qwen3.5-35b-a3b", "llama-3.3-70b"])
def test_the_best_checkpoint_loses_least_of_those_with_the_best_reach(host: str, name: str) -> None:
    """Found by weighing all; room for several requests is as good as more."""
    row, whole = ROWS[name], request(recorded(host), Environment.DEV)
    capability = whole.host.gpus[0].compute_capability
    models = stored_checkpoints(row)(capability or "")
    every = [weigh(model_request(replace(whole, models=(model,)), 0), CATALOG, RULES) for model in models]
    able = [offer for offer in every if offer.kernel is not None and offer.served is not None]
    roomy = [offer for offer in able if offer.reach.sure and is_roomy(row, offer.reach.tokens)]
    best = best_of(whole, row, CATALOG, RULES, stored_model)
    if able:
        expected = roomy[0] if roomy else max(able, key=lambda offer: offer.reach)
        assert best.facts.location == expected.facts.location
    else:
        assert best.served is None


@pytest.mark.parametrize("host", ["2x-rtx3090-nvlink", "8x-h100-nvswitch", "wsl2-rtx5080"])
def test_what_is_served_where_nobody_names_a_model_comes_first(host: str) -> None:
    whole = request(recorded(host), Environment.DEV)
    (default,) = with_default_llm(whole, CATALOG, has_token=False).models
    listed = survey(whole, CATALOG.llms(), CATALOG, stored_model, default)
    assert [one.is_default for one in listed].count(True) == 1
    assert listed[0].is_default
    assert listed[0].offer.facts.location == default.facts.location
    assert sorted(one.row.name for one in listed) == sorted(ROWS)
    served = [one.offer.served is not None for one in listed]
    assert served == sorted(served, reverse=True)


def test_models_that_write_come_before_those_that_do_not() -> None:
    whole = request(recorded("1x-h200"), Environment.DEV)
    listed = [one for one in survey(whole, CATALOG.llms(), CATALOG, stored_model, None) if one.offer.served is not None]
    writes = [one.row.role.generates for one in listed]
    assert writes == sorted(writes, reverse=True)
    assert {True, False} == set(writes)


def test_the_order_is_that_of_the_choice() -> None:
    """Recent large mixtures first; the longest requests for context; the fewest parameters per token for latency."""
    rows = [ROWS[name] for name in ("qwen2.5-72b", "qwen3-32b", "qwen3.6-35b-a3b", "qwen3.6-27b")]
    tokens = {row.name: at for at, row in enumerate(rows)}
    by = {objective: [row.name for row in order_llms(rows, objective, tokens)] for objective in Objective}
    assert by[Objective.THROUGHPUT][0] == "qwen3.6-35b-a3b"
    assert by[Objective.LATENCY][:2] == ["qwen3.6-35b-a3b", "qwen3.6-27b"]
    assert by[Objective.CONTEXT][:2] == ["qwen3.6-27b", "qwen3.6-35b-a3b"]
    assert order_llms([], Objective.THROUGHPUT, {}) == []


def test_what_lacks_is_named() -> None:
    row: CatalogLlm = ROWS["qwen2.5-72b"]
    model = stored_model(row, row.checkpoints[0])

    def lack(host: str, mode: Mode | None = None) -> Lack | None:
        whole = replace(asked(host, model), mode=mode)
        refusal = weigh(model_request(whole, 0), CATALOG, RULES).refusal
        return None if refusal is None else refusal.lack

    assert lack("1x-rtx3090") is Lack.MEMORY
    assert lack("cpu-small") is Lack.MEMORY
    assert lack("4x-t4-driver470") is Lack.DRIVER
    assert lack("old-driver") is Lack.IMAGE
    assert lack("1x-rtx3090", Mode.MULTI) is Lack.SUPPORT


@pytest.mark.parametrize("host", ["1x-rtx3060-12gb", "2x-rtx3090-nvlink", "8x-h100-nvswitch"])
def test_what_is_refused_without_a_forecast_would_be_refused_by_one(host: str) -> None:
    seen = 0
    for row in CATALOG.llms():
        for checkpoint in row.checkpoints:
            whole = asked(host, stored_model(row, checkpoint))
            one, engine = model_request(whole, 0), whole.engine
            options = placements(one.host, None, one.parallel_pins, Heads.of(one.facts.config), None)
            for placement in options:
                gpu = smallest_memory(placement.gpus, one.host, CATALOG)
                settings = wanted_settings(one, placement, CATALOG, "0.33.0")
                if is_hopeless(LayoutOption(placement=placement, settings=settings, gpu=gpu), one.facts):
                    assert gpu is not None
                    short = replace(settings, max_model_len=256, max_num_seqs=1, max_num_batched_tokens=2048)
                    answer = engine.forecast(one.facts.config.shape, short, gpu, one.facts.weights)
                    assert answer.verdict == "does-not-fit"
                    seen += 1
    assert seen


@pytest.mark.parametrize("host", ["1x-rtx3060-12gb", "2x-rtx3090-nvlink", "wsl2-rtx5080", "gb10"])
def test_nothing_is_served_from_a_cache_of_nothing(host: str) -> None:
    """Where nobody can be sure, too: the middle of what may be has room for one request at least."""
    seen = 0
    for row in CATALOG.llms()[::2]:
        for checkpoint in row.checkpoints:
            model = stored_model(row, checkpoint)
            served = weigh(model_request(asked(host, model), 0), CATALOG, RULES).served
            if served is None or served.memory is None or model.facts.config.shape.is_encoder:
                continue
            assert served.memory.kv_cache_bytes > 0, checkpoint.hub_id
            assert served.memory.kv_cache_tokens > 0, checkpoint.hub_id
            assert not re.search(r"-\d+(\.\d+)? (B|KiB|MiB|GiB)", " ".join(served.warnings)), served.warnings
            seen += not served.reach.sure
    assert seen or host not in ("wsl2-rtx5080", "gb10")
