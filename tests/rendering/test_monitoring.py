"""The tables behind dashboards and rules: every question names metrics of the table, and every metric is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace
from stackwright.domain.monitoring import PAGE, Job
from stackwright.engines.protocol import EngineMetrics
from stackwright.rendering.monitoring import alerts_of, dashboards_of, named, planned_bytes
from stackwright.rendering.monitoring.grafana import render_dashboard
from stackwright.rendering.monitoring.prometheus import render_prometheus, render_rules

from tests.monitored import ALERTS, BOARDS, METRICS
from tests.planning_requests import plan_for, recorded
from tests.test_golden import GOLDEN, compare_file

DOCS = Path(__file__).resolve().parents[2]
NAME = re.compile(r"(?<![\w$\"{.])([a-zA-Z_][\w:]*)(?=[{\[\s)]|$)(?!\s*\()")
WORDS = frozenset("sum by le min max count avg rate or and vector time clamp_min on ignoring".split())


def asked(text: str) -> set[str]:
    """Return the metrics that a question names: what is no function, no label and no text."""
    bare = re.sub(r'"[^"]*"', '""', text)
    bare = re.sub(r"\bby \([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    return {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in re.findall(r"[a-zA-Z_][\w:]*(?!\w|\s*\()", bare)
        if name not in WORDS
    }


def questions() -> Iterator[str]:
    for board in BOARDS:
        for panel in board.panels:
            yield from (query.text for query in panel.queries)
    yield from (alert.when for alert in ALERTS)


def test_questions_and_the_table_name_the_same_metrics() -> None:
    assert set().union(*map(asked, questions())) == {metric.name for metric in METRICS}


def test_no_metric_stands_twice() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_an_engine_is_asked_by_its_own_names() -> None:
    metrics = EngineMetrics(path="/metrics", model_label="m", cache_hits=("new", "old"), cache_queries=("both",))
    ratio = "rate(engine:cache_hits[5m]) / rate(engine:cache_queries[5m])"
    assert named(ratio, metrics) == "(rate(new[5m]) / rate(both[5m])) or (rate(old[5m]) / rate(both[5m]))"
    assert named("rate(engine:first_token_bucket[5m])", metrics) is None
    assert named("up == 0", None) == "up == 0"
    assert named("engine:running", None) is None


def test_every_alert_has_its_section_and_no_two_the_same_name() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    headings = set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    assert {alert.heading for alert in ALERTS} <= headings
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    assert ALERTS[0].link == f"{PAGE}#an-engine-is-down"


@pytest.mark.parametrize(("host", "boards"), [("cpu-small", 4), ("2x-rtx3090-nvlink", 5), ("a100-seven-slices", 5)])
def test_a_dashboard_without_panels_is_left_out(host: str, boards: int) -> None:
    made = dashboards_of(plan_for(recorded(host)))
    assert len(made) == boards
    titles = {panel.title for board in made for panel in board.panels}
    assert ("MIG slices" in titles, "NVLink traffic" in titles) == (
        host == "a100-seven-slices",
        host == "2x-rtx3090-nvlink",
    )
    assert not any("engine:" in query.text for board in made for panel in board.panels for query in panel.queries)


def test_panels_do_not_cover_each_other() -> None:
    for board in BOARDS:
        panels = json.loads(render_dashboard(board))["panels"]
        cells = {(p["gridPos"]["x"] + x, p["gridPos"]["y"] + y) for p in panels for x in range(8) for y in range(8)}
        assert len(cells) == 64 * len(panels)
        assert max(x for x, _ in cells) < 24
        assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_plan_gives_memory_of_each_gpu() -> None:
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    assert set(planned_bytes(plan)) == {gpu.uuid for gpu in plan.host.gpus}
    assert all(20 * 2**30 < count < 24 * 2**30 for count in planned_bytes(plan).values())
    assert planned_bytes(plan_for(recorded("cpu-small"))) == {}


def test_files_are_the_golden_ones(update_golden: bool) -> None:
    plan = replace(plan_for(recorded("2x-rtx3090-nvlink")), additions=("retrieval", "multimodal"))
    rules = render_rules(alerts_of(plan), planned_bytes(plan))
    config = render_prometheus("prod", [*map(str, Job), *plan.additions], "model_name")
    boards = "".join(
        f"{board.title} / {panel.title} ({panel.unit.value}): {panel.says}\n"
        + "".join(f"    {query.text}\n" for query in panel.queries)
        for board in dashboards_of(plan)
        for panel in board.panels
    )
    for name, text in {"rules.yml": rules, "prometheus.yml": config, "panels.txt": boards}.items():
        compare_file(text, GOLDEN / "monitoring" / name, update_golden=update_golden)
    assert yaml.safe_load(rules)["groups"][0]["rules"][0]["annotations"]["runbook"].startswith(PAGE)
