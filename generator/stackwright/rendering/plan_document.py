"""The plan as the JSON document that other programs read, and back. Pure.

Beside `models`, which hold each model's own settings by their plain keys, the document has what it had when a plan was
of one model: all replicas, all settings as the environment file writes them, the models' names in `gateway`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from msgspec import structs

from stackwright.domain.plan import Plan, Setting
from stackwright.errors import ValidationError
from stackwright.reading import convert
from stackwright.rendering.numbered import flat_settings, written_key


def plan_document(plan: Plan, settings: Mapping[str, Setting] | None = None) -> dict[str, object]:
    """Return a plan in the order in which its document has it. `settings`: as they are written, where at hand."""
    gateway = dict(structs.asdict(plan.gateway))
    fallbacks, cloud = gateway.pop("fallbacks"), gateway.pop("cloud")
    strategy = gateway.pop("routing_strategy")
    names = [model.name for model in plan.models]
    groups = [
        {"model": model.name, "role": model.role, "aliases": model.aliases, "exclusive": model.exclusive}
        | {"pinned": model.pinned}
        for model in plan.models
    ]
    return {
        "schema": plan.schema,
        "environment": plan.environment,
        "mode": plan.mode,
        "host": plan.host,
        "engine": plan.engine,
        "replicas": plan.replicas,
        "gateway": gateway
        | {"models": names, "routing_strategy": strategy, "groups": groups, "fallbacks": fallbacks, "cloud": cloud},
        "workers": plan.workers,
        "settings": settings or flat_settings(plan),
        "warnings": plan.warnings,
        "models": [
            structs.asdict(model)
            | {"replicas": [replica.name for replica in model.replicas], "forecast": model.forecast}
            for model in plan.models
        ],
        "additions": plan.additions,
    }


def plan_from_document(data: dict[str, object], *, where: str) -> Plan:
    """Read a plan from its document.

    Raises:
        ValidationError: it is none, or from another release.
    """
    rest = dict(data)
    try:
        models, replicas = _list(rest.pop("models")), _list(rest.pop("replicas"))
        settings = dict(cast("Mapping[str, object]", rest.pop("settings")))
        gateway = dict(cast("Mapping[str, object]", rest.pop("gateway")))
        for name in ("models", "groups"):
            gateway.pop(name)
        rest.pop("engine")
        for number, model in enumerate(models, start=1):
            model.pop("forecast")
            model["replicas"] = [replica for replica in replicas if replica["model"] == model["name"]]
            for key in cast("Mapping[str, object]", model["settings"]):
                settings.pop(written_key(key, number), None)
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise ValidationError(f"{where}: not a plan of this release: {failure}") from None
    document = rest | {"models": models, "settings": settings, "gateway": gateway}
    return convert(document, Plan, where=where, error=ValidationError)


def _list(value: object) -> list[dict[str, object]]:
    return [dict(row) for row in cast("list[Mapping[str, object]]", value)]
