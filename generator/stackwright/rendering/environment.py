"""What the environment template shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from stackwright.domain.plan import Plan, Setting
from stackwright.rendering.numbered import spec_of_written


def environment_context(plan: Plan, settings: Mapping[str, Setting]) -> dict[str, object]:
    """Return the template's values: sections of rows with key, value, meaning and reason."""
    rows = [
        {
            "section": spec.section,
            "key": key,
            "value": setting.value,
            "meaning": spec.meaning,
            "reason": setting.reason,
        }
        for key, setting in settings.items()
        if (spec := spec_of_written(key)) is not None
    ]
    return {
        "environment": plan.environment.value,
        "summary": summarize(plan),
        "local_file": f"envs/.env.{plan.environment.value}.local",
        "sections": [(section, list(members)) for section, members in groupby(rows, key=lambda row: row["section"])],
    }


def summarize(plan: Plan) -> str:
    """Return in a few words what a plan serves on what."""
    names = sorted({gpu.name or "GPU" for gpu in plan.host.gpus if gpu.uuid in _used(plan)})
    device = f"{len(_used(plan))}× {' and '.join(names)}" if names else (plan.host.cpu.model or "processor")
    return f"{plan.mode} mode, {', '.join(model.name for model in plan.models)} on {device}"


def _used(plan: Plan) -> set[str]:
    return {uuid for replica in plan.replicas for uuid in replica.gpu_uuids}
