"""Puts the questions of a stack's dashboards and rules to its running Prometheus."""

from __future__ import annotations

import base64
import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from tests.integration.project import Project
from tests.rendering.test_monitoring import asked

OVER = "15s"
"""What Grafana would put in the place of its `$__rate_interval`; a scrape a second fills it with fifteen values."""


class Prometheus(Struct, frozen=True, kw_only=True):
    """A running Prometheus, asked at its published port with the password."""

    port: int
    password: str

    @classmethod
    def of(cls, project: Project) -> Prometheus:
        """Return that of a project's development environment."""
        plan = json.loads((generated(project) / "plan.json").read_text())
        port = int(plan["settings"]["PROMETHEUS_PORT"]["value"])
        return cls(port=port, password=project.secrets["prometheus_password"])

    def get(self, path: str, login: str | None = None) -> tuple[int, Any]:
        """Return status and document of a path; `login` is another one than the right one, or none where empty."""
        said = f"stackwright:{self.password}" if login is None else login
        headers = {"Authorization": f"Basic {base64.b64encode(said.encode()).decode()}"} if said else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, None

    def ask(self, question: str) -> dict[str, float]:
        """Return the values that a question has, by their labels; those that are no number are none."""
        status, told = self.get(f"/api/v1/query?{urllib.parse.urlencode({'query': question})}")
        assert status == 200, question
        rows = {json.dumps(row["metric"], sort_keys=True): float(row["value"][1]) for row in told["data"]["result"]}
        return {labels: value for labels, value in rows.items() if not math.isnan(value)}

    def unanswered(self, questions: Iterable[str]) -> list[str]:
        """Return the questions that have no value."""
        return [question for question in questions if not self.ask(question.replace("$__rate_interval", OVER))]


def generated(project: Project) -> Path:
    """Return the folder of what is rendered for the development environment."""
    return project.folder / "compose" / "generated" / "dev"


def questions_of(folder: Path) -> dict[str, str]:
    """Return every question of every panel of the rendered dashboards, with the panel's title."""
    boards = [json.loads(path.read_text()) for path in sorted(folder.glob("stackwright-*.json"))]
    assert boards
    return {
        target["expr"]: f"{board['title']} / {panel['title']}"
        for board in boards
        for panel in board["panels"]
        for target in panel["targets"]
    }


def metrics_of_rules(folder: Path) -> set[str]:
    """Return questions whether what each rendered rule names is there: an alert itself answers nothing, all being well.

    Where a rule asks under newer and older names, one of them is enough.
    """
    groups = yaml.safe_load((folder / "prometheus-rules.yml").read_text())["groups"]
    return {
        " or ".join(f"({_all_there(asked(part))})" for part in rule["expr"].split(") or ("))
        for group in groups
        for rule in group["rules"]
    }


def _all_there(metrics: set[str]) -> str:
    # A histogram's own name has no series.
    return " and ".join(f'count({{__name__=~"{re.escape(name)}(_count)?"}})' for name in sorted(metrics)) or "vector(0)"
