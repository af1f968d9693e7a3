"""Plans as one page: it holds every value, loads nothing, and what a person wrote stays text."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Plan
from stackwright.errors import NoPlanError
from stackwright.reading import to_plain
from stackwright.rendering.numbered import flat_settings
from stackwright.rendering.plan_document import plan_document
from stackwright.rendering.report_page import MARK, render_page
from stackwright.rendering.summary import NextStep
from stackwright.units import GIB

from tests.planning.several import CASES, plan_of
from tests.planning_requests import HOST_NAMES, plan_for, recorded

STEP = NextStep(url="http://127.0.0.1:4002", command="./scripts/start-environment prod")
# What a browser fetches by itself.
FETCHED = {"src", "srcset", "poster", "background", "action", "formaction", "data", "manifest"}


class Page(HTMLParser):
    """A page as a reader has it: its text without the documents at its end, and its documents."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.documents: list[str] = []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        self.words.append(" ")
        if tag == "pre":
            self.documents.append("")

    def handle_data(self, data: str) -> None:
        if self._inside == "pre":
            self.documents[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("pre", "style"):
            self._inside = ""

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def plans_of(name: str) -> list[Plan]:
    plans = []
    for environment in Environment:
        try:
            plans.append(plan_for(recorded(name), environment))
        except NoPlanError:
            continue
    return plans


EVERY = {name: plans for name in HOST_NAMES if (plans := plans_of(name))} | {
    case: [plan_of(host, *models)] for case, (host, models) in CASES.items()
}


def page_of(plans: list[Plan]) -> Page:
    return Page(render_page(plans, [STEP] * len(plans), "1.2.3"))


@pytest.mark.parametrize("name", EVERY)
def test_every_value_is_on_the_page(name: str) -> None:
    page = page_of(EVERY[name])
    text = page.text
    assert [json.loads(document) for document in page.documents] == [
        json.loads(json.dumps(to_plain(plan_document(plan)))) for plan in EVERY[name]
    ]
    for plan in EVERY[name]:
        for key, setting in flat_settings(plan).items():
            for shown in (key, setting.value, setting.reason, setting.source, setting.origin.value):
                assert " ".join(shown.split()) in text
        for replica in plan.replicas:
            assert " ".join(" ".join(replica.args).split()) in text
        for gpu in plan.host.gpus:
            assert gpu.uuid is None or gpu.uuid in text
        for warning in plan.warnings:
            assert text.index(" ".join(warning.split())) < text.index("mode")


@pytest.mark.parametrize("name", EVERY)
def test_it_loads_and_runs_nothing(name: str) -> None:
    page = page_of(EVERY[name])
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not FETCHED & set(attributes)
        assert not any(key.startswith("on") for key in attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))


@pytest.mark.parametrize("name", EVERY)
def test_every_link_leads_somewhere_and_every_drawing_has_words(name: str) -> None:
    page = page_of(EVERY[name])
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in page.tags:
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in identifiers
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identifiers


@pytest.mark.parametrize("name", EVERY)
def test_parts_fill_the_bar_and_the_range_lies_in_it(name: str) -> None:
    page = page_of(EVERY[name])
    bars = 0
    widths: list[float] = []
    for tag, attributes in page.tags:
        style = attributes.get("style") or ""
        if attributes.get("class") == "bar":
            bars, widths = bars + 1, []
        elif tag == "i" and style.startswith("width:"):
            widths.append(float(style.removeprefix("width:").removesuffix("%")))
        elif tag == "i" and style.startswith("left:"):
            assert sum(widths) == pytest.approx(100, abs=0.1)
            left, width = (float(part.partition(":")[2].removesuffix("%")) for part in style.split(";"))
            assert left >= 0
            assert width >= 0
            assert left + width <= 100.01
    assert bars == sum(model.forecast is not None for plan in EVERY[name] for model in plan.models)


@pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name][0].host.gpus])
def test_boxes_do_not_overlap_and_lie_in_the_drawing(name: str) -> None:
    page = page_of(EVERY[name][:1])
    size = next(attributes for tag, attributes in page.tags if tag == "svg")
    boxes = [(int(a["x"] or 0), int(a["y"] or 0)) for tag, a in page.tags if tag == "rect"]
    assert len(boxes) == sum(not (gpu.mig and gpu.mig_slice is None) for gpu in EVERY[name][0].host.gpus)
    for position, (x, y) in enumerate(boxes):
        assert x + 168 <= int(size["width"] or 0)
        assert y + 62 <= int(size["height"] or 0)
        assert all(abs(x - a) >= 168 or abs(y - b) >= 62 for a, b in boxes[:position])


def test_differences_are_those_of_the_settings() -> None:
    plans = plans_of("2x-rtx3090-nvlink")
    text = page_of(plans).text
    table = text[text.index("Differences between environments") : text.index("Settings", text.index("Differences be"))]
    every = [flat_settings(plan) for plan in plans]
    for key in every[0]:
        values = [flat[key].value for flat in every if key in flat]
        assert (f" {key} " in table) == (len(set(values)) > 1 or len(values) < len(plans))


def test_what_a_person_wrote_stays_text() -> None:
    plan = plans_of("cpu-small")[0]
    evil = "</pre><script>alert(1)</script>\"'&amp;"
    warned = replace(plan, warnings=(evil,), models=(replace(plan.models[0], name=evil),))
    source = render_page([warned], [NextStep(url=evil, command=evil)], "1.2.3")
    assert "<script" not in source
    page = Page(source)
    assert page.text.count(evil) >= 4


def test_a_page_knows_itself_and_a_plan_without_forecast_is_drawn() -> None:
    plan = plans_of("2x-rtx3090-nvlink")[0]
    model = plan.models[0]
    bare = replace(model, replicas=tuple(replace(replica, memory=None) for replica in model.replicas))
    page = render_page([replace(plan, models=(bare,))], [NextStep()], "1.2.3")
    assert MARK in page[:4096]
    assert "Memory not forecast" in page


def test_a_bar_that_may_not_fit_says_so() -> None:
    plan = plans_of("1x-rtx3090")[0]
    model = plan.models[0]
    memory = model.forecast
    assert memory is not None
    tight = replace(memory, verdict="tight", weights_bytes=memory.total_bytes + GIB)
    short = replace(model, replicas=tuple(replace(replica, memory=tight) for replica in model.replicas))
    assert "may not fit" in page_of([replace(plan, models=(short,))]).text
