"""What Prometheus reads: which jobs it scrapes, and its rules. Pure.

Its targets are files that compose/monitoring/start.sh writes: addresses differ from runtime to runtime. Paths are
relative to the folder in which that script lays them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stackwright.domain.monitoring import Alert, Job
from stackwright.services.monitoring import ADDITION, PASSWORD, RULES, USER

INTERVAL = "15s"
"""Between two looks at the rules; how often targets are scraped is a setting, which start.sh fills in."""

NOT_KEPT = "python_gc_.*|.+_created|http_.+"
"""What client libraries tell of themselves beside the figures that anybody asks for."""


def render_prometheus(environment: str, jobs: Iterable[str], model_label: str | None) -> str:
    """Return Prometheus' configuration. `model_label`: by which the engine's series name their model."""
    document = {
        "global": {
            "scrape_interval": INTERVAL,
            "evaluation_interval": INTERVAL,
            "external_labels": {"environment": environment},
        },
        "rule_files": [RULES],
        "scrape_configs": [_job(job, model_label) for job in jobs],
    }
    return _text(document)


def _job(job: str, model_label: str | None) -> dict[str, Any]:
    relabel: list[dict[str, Any]] = [{"source_labels": ["__name__"], "regex": NOT_KEPT, "action": "drop"}]
    if job == Job.ENGINE and model_label not in (None, "model"):
        relabel.append({"source_labels": [model_label], "regex": "(.+)", "target_label": "model"})
        relabel.append({"regex": model_label, "action": "labeldrop"})
    logins: Mapping[str, dict[str, Any]] = {
        Job.GATEWAY: {
            "authorization": {"credentials_file": f"secrets/{ADDITION.key_secret}"},
            # It asks the stack's own gateway, by a name that is not the certificate's.
            "tls_config": {"insecure_skip_verify": True},
        },
        Job.PROMETHEUS: {"basic_auth": {"username": USER, "password_file": f"secrets/{PASSWORD}"}},
    }
    return {
        "job_name": job,
        "file_sd_configs": [{"files": [f"targets/{job}_*.json"]}],
        **logins.get(job, {}),
        "metric_relabel_configs": relabel,
    }


def render_rules(alerts: Iterable[Alert], planned_bytes: Mapping[str, int]) -> str:
    """Return the rules: the alerts, and what the plan gives to engines of each GPU, by UUID."""
    groups: list[dict[str, Any]] = [
        {
            "name": "alerts",
            "rules": [
                {
                    "alert": alert.name,
                    "expr": alert.when,
                    "for": alert.lasts,
                    "labels": {"severity": alert.urgency.value},
                    "annotations": {"summary": alert.says, "runbook": alert.link},
                }
                for alert in alerts
            ],
        }
    ]
    planned = [
        {"record": "stackwright_gpu_planned_memory_bytes", "expr": f"vector({count})", "labels": {"uuid": uuid}}
        for uuid, count in planned_bytes.items()
    ]
    return _text({"groups": groups + ([{"name": "plan", "rules": planned}] if planned else [])})


def _text(document: Mapping[str, Any]) -> str:
    import yaml

    head = "# Rendered by Stackwright. Do not edit: `configure-gpu` writes it anew.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=120)
