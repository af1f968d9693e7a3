"""What a plan's Prometheus and Grafana read, made of the tables of metrics, panels and alerts. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from stackwright.domain.monitoring import Alert, Monitored, Need, Panel
from stackwright.domain.plan import Plan
from stackwright.domain.topology import NVLINK_KINDS
from stackwright.engines import engine_named
from stackwright.engines.protocol import EngineMetrics
from stackwright.rendering.monitoring.alerts import ALERTS
from stackwright.rendering.monitoring.grafana import render_dashboard
from stackwright.rendering.monitoring.metrics import ENGINE
from stackwright.rendering.monitoring.panels import DASHBOARDS, Dashboard
from stackwright.rendering.monitoring.prometheus import render_prometheus, render_rules
from stackwright.services import monitored_of, services_of
from stackwright.services.additions import Addition
from stackwright.services.monitoring import CONFIGURATION, RULES, board_file, has_dcgm


def monitoring_files(plan: Plan) -> dict[str, str]:
    """Return the files that Prometheus and Grafana read, by name."""
    metrics = engine_named(plan.engine.name).metrics
    jobs = _scraped(plan)
    label = None if metrics is None else metrics.model_label
    return {
        CONFIGURATION: render_prometheus(plan.environment.value, jobs, label),
        RULES: render_rules(alerts_of(plan), planned_bytes(plan)),
        **{f"{board.name}.json": render_dashboard(board) for board in dashboards_of(plan)},
    }


def _scraped(plan: Plan) -> list[str]:
    """Return the jobs that the plan's Prometheus has targets of."""
    services = services_of(plan)
    return list(dict.fromkeys(str(service.scraped.job) for service in services if service.scraped is not None))


_MEANING = re.compile(rf"\b{ENGINE}(\w+?)(_bucket|_sum|_count)?\b")


def needs_of(plan: Plan) -> frozenset[Need]:
    """Return what a plan has of what panels and alerts may need."""
    used = {uuid for replica in plan.replicas for uuid in replica.gpu_uuids}
    indices = {gpu.index for gpu in plan.host.gpus if gpu.uuid in used}
    found = {
        Need.TURNS: any(len(plan.turns(replica)) > 1 for replica in plan.engines),
        Need.GPUS: bool(used),
        Need.NVLINK: any(link.kind in NVLINK_KINDS and {link.a, link.b} & indices for link in plan.host.links),
        Need.DCGM: has_dcgm(plan),
        Need.WHOLE_GPUS: any(gpu.mig_slice is None and gpu.uuid in used for gpu in plan.host.gpus),
        Need.SLICES: any(gpu.mig_slice is not None and gpu.uuid in used for gpu in plan.host.gpus),
    }
    return frozenset(need for need, has in found.items() if has)


def board_of(addition: Addition, monitored: Monitored) -> Dashboard:
    """Return the dashboard of an addition."""
    name = board_file(addition.name).removesuffix(".json")
    return Dashboard(name=name, title=monitored.title, panels=monitored.panels)


def dashboards_of(plan: Plan) -> tuple[Dashboard, ...]:
    """Return the dashboards of a plan that have panels, each question under the names that its engine has."""
    needs, metrics = needs_of(plan), engine_named(plan.engine.name).metrics
    boards = (*DASHBOARDS, *(board_of(*each) for each in monitored_of(plan.additions).items()))
    made = (replace(board, panels=tuple(_panels(board, needs, metrics))) for board in boards)
    return tuple(board for board in made if board.panels)


def _panels(board: Dashboard, needs: frozenset[Need], metrics: EngineMetrics | None) -> Iterator[Panel]:
    for panel in board.panels:
        texts = [(query, named(query.text, metrics)) for query in panel.queries]
        queries = tuple(replace(query, text=text) for query, text in texts if text is not None)
        if queries and (panel.needs is None or panel.needs in needs):
            yield replace(panel, queries=queries)


def alerts_of(plan: Plan) -> tuple[Alert, ...]:
    """Return the alerts of a plan, each question under the names that its engine has."""
    needs, metrics = needs_of(plan), engine_named(plan.engine.name).metrics
    alerts = (*ALERTS, *(alert for own in monitored_of(plan.additions).values() for alert in own.alerts))
    texts = [(alert, named(alert.when, metrics)) for alert in alerts if alert.needs is None or alert.needs in needs]
    return tuple(replace(alert, when=text) for alert, text in texts if text is not None)


def named(text: str, metrics: EngineMetrics | None) -> str | None:
    """Return a question under an engine's own names; None where the engine does not tell what is asked for.

    A release may have either of several names, so each is asked for; one that has both answers by the newest.
    """
    meanings = {match[1] for match in _MEANING.finditer(text)}
    if not meanings:
        return text
    known = {meaning: getattr(metrics, meaning, ()) for meaning in meanings}
    if not all(known.values()):
        return None
    texts = [_under(text, known, place) for place in range(max(map(len, known.values())))]
    return texts[0] if len(texts) == 1 else " or ".join(f"({each})" for each in texts)


def _under(text: str, known: Mapping[str, tuple[str, ...]], place: int) -> str:
    """Put each meaning's name in its place: that many names behind the newest, or the oldest."""

    def name(match: re.Match[str]) -> str:
        names = known[match[1]]
        return names[min(place, len(names) - 1)] + (match[2] or "")

    return _MEANING.sub(name, text)


def planned_bytes(plan: Plan) -> dict[str, int]:
    """Return how much memory of each GPU or slice, by UUID, the plan gives to engines."""
    given: Counter[str] = Counter()
    for replica in plan.engines:
        most = max((turn.memory.budget_bytes for turn in plan.turns(replica) if turn.memory), default=0)
        given.update(dict.fromkeys(plan.gpus_of(replica), most) if most else {})
    return dict(given)
