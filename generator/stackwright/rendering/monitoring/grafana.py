"""Dashboards as Grafana reads them: its JSON model of version 13, and the files that provision it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from stackwright.rendering.monitoring.panels import Dashboard, Panel

SOURCE = "prometheus"
"""The data source's uid."""

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


def render_providers(folder: str) -> str:
    """Return the file that tells Grafana where its dashboards lie."""
    provider = {
        "name": "stackwright",
        "type": "file",
        "allowUiUpdates": False,
        "options": {"path": folder},
    }
    return _yaml({"apiVersion": 1, "providers": [provider]})


def render_sources(address: str, user: str, password_file: str) -> str:
    """Return the file that tells Grafana of Prometheus; the password stays in its own file."""
    source = {
        "name": "Prometheus",
        "uid": SOURCE,
        "type": "prometheus",
        "access": "proxy",
        "url": address,
        "isDefault": True,
        "editable": False,
        "basicAuth": True,
        "basicAuthUser": user,
        # Grafana's own way to read a file (Grafana documentation, Configuration, variable expansion).
        "secureJsonData": {"basicAuthPassword": f"$__file{{{password_file}}}"},
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    return _yaml({"apiVersion": 1, "datasources": [source]})


def _yaml(document: dict[str, Any]) -> str:
    import yaml

    return "# Rendered by Stackwright. Do not edit: `configure-gpu` writes it anew.\n" + yaml.safe_dump(
        document, sort_keys=False, width=120
    )


def names(dashboards: Iterable[Dashboard]) -> tuple[str, ...]:
    """Return the files of dashboards."""
    return tuple(f"{dashboard.name}.json" for dashboard in dashboards)
