"""What Prometheus keeps: metrics, the panels that show them, the alerts that watch them. Pure data.

What a service tells of itself stands in its own module (`Monitored`); what every stack has, in rendering/monitoring/.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

PAGE = "docs/how-to/monitoring.md"
OVER = "$__rate_interval"
"""Grafana's own: at least four scrapes (Grafana documentation, Prometheus template variables)."""


class Job(StrEnum):
    """The scrape jobs of every stack; an addition with figures is a job of its own."""

    ENGINE = "engine"
    GATEWAY = "gateway"
    REDIS = "redis"
    HOST = "host"
    GPU = "gpu"
    DCGM = "dcgm"
    PROMETHEUS = "prometheus"


class Metric(Struct, frozen=True, kw_only=True):
    """One metric. `name` is that of its series but for a histogram's `_bucket`, `_sum` and `_count`.

    `job` is the scrape job that shows it: an addition's is called as the addition.
    """

    name: str
    job: str
    says: str
    source: str


def metric_rows(job: str, source: str, rows: Mapping[str, str]) -> tuple[Metric, ...]:
    """Return the metrics of a job, by name what each says."""
    return tuple(Metric(name=name, job=job, says=says, source=source) for name, says in rows.items())


class Need(StrEnum):
    """What a plan has to have for a panel or an alert to mean something."""

    TURNS = "turns"
    GPUS = "gpus"
    NVLINK = "nvlink"
    SLICES = "slices"
    WHOLE_GPUS = "whole GPUs"
    DCGM = "dcgm"


class Unit(StrEnum):
    """Grafana's names of units (packages/grafana-data, valueFormats/categories.ts)."""

    COUNT = "short"
    RATE = "reqps"
    PER_SECOND = "cps"
    SECONDS = "s"
    DAYS = "d"
    BYTES = "bytes"
    BYTES_PER_SECOND = "binBps"
    SHARE = "percentunit"
    WATTS = "watt"
    CELSIUS = "celsius"
    HERTZ = "hertz"
    YES_NO = "bool_yes_no"


class Query(Struct, frozen=True):
    """A question to Prometheus, and what Grafana calls each of its series."""

    text: str
    legend: str


def rates(metric: str, by: str, legend: str) -> Query:
    """Ask how fast a metric grows, by the labels that tell its series apart."""
    return Query(f"sum by ({by}) (rate({metric}[{OVER}]))", legend)


class Panel(Struct, frozen=True, kw_only=True):
    """One panel. `says` is what its reader learns, in a sentence."""

    title: str
    says: str
    unit: Unit
    queries: tuple[Query, ...]
    needs: Need | None = None


class Urgency(StrEnum):
    """`critical`: clients are not served. `warning`: they will not be, if nobody does anything."""

    CRITICAL = "critical"
    WARNING = "warning"


class Alert(Struct, frozen=True, kw_only=True):
    """One alert. `when` is a question to Prometheus that answers only where something is wrong, `lasts` for how long.

    `heading` is that of the section of PAGE which tells what to do.
    """

    name: str
    when: str
    lasts: str
    urgency: Urgency
    says: str
    heading: str
    needs: Need | None = None

    @property
    def link(self) -> str:
        """Where to read what to do, as mkdocs names a heading."""
        kept = "".join(letter for letter in self.heading.lower() if letter.isalnum() or letter in " -")
        return f"{PAGE}#{kept.replace(' ', '-')}"


class Monitored(Struct, frozen=True, kw_only=True):
    """What an addition tells of itself: its metrics, the title and panels of its dashboard, its alerts.

    Each alert has a test (tests/integration/monitoring/test_alerts.py).
    """

    title: str
    metrics: tuple[Metric, ...]
    panels: tuple[Panel, ...]
    alerts: tuple[Alert, ...] = ()
