"""The environment file: every value that Compose, or a process, reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from stackwright.domain.plan import Plan, Setting
from stackwright.rendering.numbered import spec_of_written
from stackwright.rendering.quoting import quote_comment, quote_env


def render_environment(plan: Plan, settings: Mapping[str, Setting]) -> str:
    """Return the text of an environment file: sections of keys, each with what it means."""
    name = plan.environment.value
    lines = [
        f"# Rendered by Stackwright for {name} ({quote_comment(summarize(plan))}).",
        f"# Do not edit: `configure-gpu` rewrites it. Put your own values into envs/.env.{name}.local, which wins.",
        f"# Reasons: `stackwright plan {name} --explain`",
    ]
    known = ((key, setting, spec_of_written(key)) for key, setting in settings.items())
    rows = [(spec, f"{key}={quote_env(setting.value)}") for key, setting, spec in known if spec is not None]
    for section, members in groupby(rows, key=lambda row: row[0].section):
        lines += ["", f"# --- {section} ---"]
        lines += (line for spec, text in members for line in (f"# {quote_comment(spec.meaning)}", text))
    return "\n".join(lines) + "\n"


def summarize(plan: Plan) -> str:
    """Return in a few words what a plan serves on what."""
    names = sorted({gpu.name or "GPU" for gpu in plan.host.gpus if gpu.uuid in _used(plan)})
    device = f"{len(_used(plan))}× {' and '.join(names)}" if names else (plan.host.cpu.model or "processor")
    return f"{plan.mode} mode, {', '.join(model.name for model in plan.models)} on {device}"


def _used(plan: Plan) -> set[str]:
    return {uuid for replica in plan.replicas for uuid in replica.gpu_uuids}
