"""What load tests measured as one page: every figure is on it, it loads nothing, and what was read stays text."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace
from stackwright.domain.environment import Environment
from stackwright.domain.load import (
    LoadResult,
    MeasuredRelease,
    Percentiles,
    Point,
    Round,
    Workload,
    common_points,
    compare_points,
    percentiles_of,
)
from stackwright.reading import to_plain
from stackwright.rendering.load_report import MARK, render_load_page

from tests.rendering.test_report_page import FETCHED, Page


def make_round(speed: int, *, failed: int = 0) -> Round:
    return Round(
        requests=4,
        failed=failed,
        duration_s=1.0,
        input_tokens=2048,
        output_tokens=speed,
        first_token=percentiles_of([0.1, 50 / speed]),
        between_tokens=Percentiles(p50=20.0, p95=30.0, p99=40.0),
        whole_answer=percentiles_of([1.0]),
        errors=("busy",) if failed else (),
    )


def make_result(name: str, *speeds: int) -> LoadResult:
    points = tuple(
        Point(concurrency=number, rounds=tuple(make_round(speed * number) for speed in speeds)) for number in (1, 4)
    )
    return LoadResult(
        schema=1,
        name=name,
        date="2026-11-30T10:00:00Z",
        environment=Environment.PROD,
        host="2× RTX 3090",
        plan_digest=name.ljust(64, "0"),
        release=MeasuredRelease(stackwright="0.1.0", engine="vllm 0.33.0", image="an/image:v1"),
        generator="vllm bench serve",
        model="qwen3-32b",
        workload=Workload(preset="chat", input_tokens=512, output_tokens=128),
        points=points,
    )


A, B = make_result("prod-1", 100, 110, 120), make_result("prod-2", 200, 210, 220)


def both() -> Page:
    rows = [(one, compare_points(one, other)) for one, other in common_points(A, B)]
    return Page(render_load_page([A, B], "1.2.3", rows))


def test_a_result_is_on_its_page() -> None:
    source = render_load_page([A], "1.2.3")
    page = Page(source)
    assert MARK in source[:4096]
    assert [json.loads(document) for document in page.documents] == [json.loads(json.dumps(to_plain(A)))]
    for words in ("prod-1", "2× RTX 3090", "chat: about 512 tokens in, 128 out", "vllm 0.33.0 (an/image:v1)", "1.2.3"):
        assert words in page.text
    # The middle of three rounds at 4 at once, and their range; a round's own figures.
    assert "4 at once: 440 (400–480)" in page.text
    assert "4 at once 3 4 0 1.0 2,048 480 480 100 104 104" in page.text
    assert "Differences" not in page.text
    # 1 is as unlikely as an error would be: no chart of what never was.
    assert "errors less is better" not in page.text


def test_two_results_show_what_differs() -> None:
    page = both()
    assert "plan: prod-1000000 in A, prod-2000000 in B" in page.text
    assert "1 at once tokens/s 110 100–120 210 200–220 +90.9% better" in page.text
    assert "1 at once, A: 110 (100–120)" in page.text
    assert page.text.index("1 at once, B: 210") < page.text.index("4 at once, A: 440")
    assert len(page.documents) == 2


@pytest.mark.parametrize("page", [Page(render_load_page([A], "1")), both()])
def test_it_loads_nothing_and_its_links_lead_somewhere(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in page.tags:
        assert not FETCHED & set(attributes)
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in identifiers


def test_bars_end_within_the_chart() -> None:
    widths: list[float] = []
    for tag, attributes in both().tags:
        if attributes.get("class") == "bar":
            assert sum(widths) <= 100.01
            widths = []
        elif tag == "i":
            widths.append(float((attributes["style"] or "").removeprefix("width:").removesuffix("%")))
    assert widths


def test_what_was_read_stays_text_and_what_ended_early_says_so() -> None:
    evil = "</pre><script>alert(1)</script>"
    failed = (Point(concurrency=1, rounds=(replace(make_round(5, failed=1), errors=(evil,)),)),)
    source = render_load_page([replace(A, points=failed, model=evil, interrupted=True)], "1")
    assert "<script" not in source
    text = Page(source).text
    assert "prod-1 was interrupted" in text
    assert text.count(evil) == 2
    assert "errors less is better" in text
