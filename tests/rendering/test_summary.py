"""A plan in a few lines: on every recorded host, wide and narrow, in Unicode and in ASCII."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Memory, Plan
from stackwright.errors import NoPlanError
from stackwright.rendering.sheet import ASCII, UNICODE, Glyphs, Tone
from stackwright.rendering.summary import Canvas, NextStep, memory_parts, summarize_plan, text_of
from stackwright.units import GIB

from tests.planning.several import CASES, plan_of
from tests.planning_requests import HOST_NAMES, plan_for, recorded, with_replicas

NEXT = NextStep(url="http://127.0.0.1:4002", command="./scripts/start-environment prod")


def every_plan() -> dict[str, Plan]:
    plans = {case: plan_of(host, *models) for case, (host, models) in CASES.items()}
    for name in HOST_NAMES:
        for environment in Environment:
            try:
                plans[f"{name}--{environment}"] = plan_for(recorded(name), environment)
            except NoPlanError:
                continue
    return plans


PLANS = every_plan()


def picture(plan: Plan, width: int = 100, glyphs: Glyphs = UNICODE, next_step: NextStep = NEXT) -> list[str]:
    return [text_of(line) for line in summarize_plan(plan, Canvas(width=width, glyphs=glyphs), next_step)]


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("name", PLANS)
def test_no_line_is_wider_than_the_terminal(name: str, width: int, glyphs: Glyphs) -> None:
    """But for one item that is, such as a model's name: it is not broken."""
    for line in picture(PLANS[name], width, glyphs):
        assert len(line) <= width or len(re.split(rf" {re.escape(glyphs.dot)} |   ", line.strip())) == 1
        assert glyphs is UNICODE or line.isascii()


@pytest.mark.parametrize("name", PLANS)
def test_the_figures_are_those_of_the_plan(name: str) -> None:
    """Each model with its context and its weights; the parts of a bar add up to the memory."""
    plan = PLANS[name]
    lines = picture(plan, 200)
    text = "\n".join(lines)
    assert text.startswith(plan.environment.value)
    assert str(NEXT.url) in lines[-1]
    assert str(NEXT.command) in lines[-1]
    for model in plan.models:
        assert model.name in text
        assert model.forecast is not None
        assert f"weights {model.forecast.weights_bytes / GIB:.1f}" in text
    for line in lines:
        if " GiB" in line and "weights" in line:
            parts, total = line.split("  ")[-1].removesuffix(" GiB").rsplit(" of ", 1)
            amounts = [float(part.rsplit(" ", 1)[1]) for part in parts.split(" · ")]
            assert sum(amounts) == pytest.approx(float(total), abs=0.06 * len(amounts))


def test_a_host_of_the_kind_that_many_have() -> None:
    assert picture(PLANS["2x-rtx3090-nvlink--prod"]) == [
        "prod   2× RTX 3090 ═NVLink═   Qwen/Qwen3-0.6B · vLLM 0.33.0 · tensor parallel 2",
        "       context 40,960 · 8 full-length requests at once · about 1.1 GiB to download",
        "       per GPU  █▓▓▓▓▓▓▓▓▓▒░  weights 0.6 · cache 19.3 · graphs, overhead 1.3 · free 2.4 of 23.6 GiB",
        "       http://127.0.0.1:4002   next: ./scripts/start-environment prod",
    ]


def test_a_narrow_terminal_in_ascii() -> None:
    assert picture(PLANS["2x-rtx3090-nvlink--prod"], 40, ASCII) == [
        "prod",
        "  2x RTX 3090 =NVLink=   Qwen/Qwen3-0.6B",
        "  vLLM 0.33.0 | tensor parallel 2",
        "  context 40,960",
        "  8 full-length requests at once",
        "  about 1.1 GiB to download",
        "  per GPU  #====================+..",
        "  weights 0.6 | cache 19.3",
        "  graphs, overhead 1.3",
        "  free 2.4 of 23.6 GiB",
        "  http://127.0.0.1:4002",
        "  next: ./scripts/start-environment prod",
    ]


def test_what_is_here_is_not_to_be_downloaded() -> None:
    """A part of it may be; of a size that nobody knows that is said."""
    plan = PLANS["1x-rtx3090--prod"]
    (model,) = plan.models
    for missing, said in ((0, "already downloaded"), (GIB, "about 1.0 GiB to download")):
        assert said in "\n".join(picture(plan, next_step=NextStep(missing_bytes={model.location: missing})))
    unsized = replace(plan, models=(replace(model, weight_bytes=None),))
    assert "download of unknown size" in "\n".join(picture(unsized))


def with_memory(plan: Plan, **changes: object) -> Plan:
    (replica,) = plan.replicas
    assert isinstance(replica.memory, Memory)
    return with_replicas(plan, replace(replica, memory=replace(replica.memory, **changes)))


def test_a_plan_that_may_not_fit_says_so() -> None:
    """With no less than nothing for the cache, and no number of requests."""
    plan = with_memory(
        PLANS["1x-rtx3090--prod"], verdict="uncertain", kv_cache_bytes=-2 * GIB, kv_cache_tokens=0, max_concurrency=0.0
    )
    text = "\n".join(picture(plan))
    assert "cache 0.0" in text
    assert "at once" not in text
    assert re.search(r"may not fit, plus or minus [0-9.]+ GiB", text)


def test_a_bar_has_a_column_for_each_part_and_no_more_than_its_width() -> None:
    lines = summarize_plan(PLANS["8x-h100-nvswitch--prod"], Canvas(width=100), NEXT)
    bar = {span.tone: len(span.text) for line in lines for span in line if span.tone not in (Tone.PLAIN, Tone.NAME)}
    assert {Tone.WEIGHTS, Tone.CACHE, Tone.OVERHEAD, Tone.FREE} == set(bar)
    assert min(bar.values()) >= 1
    assert max(bar, key=lambda tone: bar[tone]) is Tone.CACHE


def test_all_ranks_on_a_processor_share_one_memory() -> None:
    """The bar is of the whole host: two ranks hold twice the cache of one."""
    one, two = (
        plan_for(recorded("cpu-large"), pins={"VLLM_TENSOR_PARALLEL_SIZE": size}, model="smoke") for size in "12"
    )
    alone, both = (
        {part.name: part.bytes for part in memory_parts(plan, plan.models[0], plan.models[0].forecast)}
        for plan in (one, two)
        if plan.models[0].forecast
    )
    assert both["cache"] == 2 * alone["cache"]
    assert both["overhead"] > alone["overhead"]
    assert both["free"] < alone["free"]


def test_what_a_persons_own_file_replaces_is_a_line() -> None:
    step = NextStep(url="http://127.0.0.1:4148", overridden="envs/.env.prod.local overrides GATEWAY_PORT")
    assert "envs/.env.prod.local overrides GATEWAY_PORT" in [
        line.strip() for line in picture(PLANS["1x-rtx3090--prod"], next_step=step)
    ]
