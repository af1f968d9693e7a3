"""Dashboards as Grafana reads them: its JSON model. Pure."""

from __future__ import annotations

import json
from typing import Any

from stackwright.domain.monitoring import Panel
from stackwright.rendering.monitoring.panels import Dashboard

SOURCE = "prometheus"
"""The data source's uid, as compose/monitoring/grafana.sh has it."""

COLUMNS, WIDTH, HEIGHT = 3, 8, 8
"""Of Grafana's grid, which has 24 columns."""

SCHEMA_VERSION = 41
"""Of the JSON model (Grafana documentation, Dashboard JSON model); a newer Grafana brings it up to date itself."""


def render_dashboard(dashboard: Dashboard) -> str:
    """Return a dashboard's file."""
    document = {
        "uid": dashboard.name,
        "title": dashboard.title,
        "tags": ["stackwright"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "panels": [_panel(panel, number) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    source = {"type": "prometheus", "uid": SOURCE}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit.value, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": query.text, "legendFormat": query.legend}
            for place, query in enumerate(panel.queries)
        ],
    }
