"""Render: plan in, file texts out. The same plan gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.plan import Plan, Setting
from stackwright.reading import to_plain
from stackwright.rendering.compose import render_override
from stackwright.rendering.environment import render_environment
from stackwright.rendering.gateway import render_gateway
from stackwright.rendering.numbered import flat_settings
from stackwright.rendering.plan_document import plan_document
from stackwright.services.monitoring import ADDITION as _MONITORING

# Rendered files hold no secret, but they tell the host's layout: only their owner reads them.
FILE_MODE = 0o600


class RenderedFile(Struct, frozen=True, kw_only=True):
    """One file to write: its path below the project folder, text and permission bits."""

    path: PurePosixPath
    text: str
    mode: int = FILE_MODE


def render_plan(plan: Plan) -> tuple[RenderedFile, ...]:
    """Render the files of one environment: environment, override, what services read, and the plan itself."""
    generated = PurePosixPath("compose/generated") / plan.environment.value
    mounted, settings = {"gateway.yaml": render_gateway(plan)}, flat_settings(plan)
    if _MONITORING.name in plan.additions:
        from stackwright.rendering.monitoring import monitoring_files

        mounted |= monitoring_files(plan)
    return (
        RenderedFile(path=environment_file(plan.environment.value), text=render_environment(plan, settings)),
        RenderedFile(path=generated / "override.yaml", text=render_override(plan, mounted)),
        *(RenderedFile(path=generated / name, text=text) for name, text in mounted.items()),
        RenderedFile(path=generated / "plan.json", text=format_plan(_without_what_passes(plan), settings)),
    )


def environment_file(name: str) -> PurePosixPath:
    """Return the path of the generated environment file; the person's own is this with `.local` behind it."""
    return PurePosixPath("envs") / f".env.{name}"


def format_plan(plan: Plan, settings: Mapping[str, Setting]) -> str:
    """Write a plan as JSON, with its settings as they are written."""
    return json.dumps(to_plain(plan_document(plan, settings)), indent=2, ensure_ascii=False) + "\n"


def _without_what_passes(plan: Plan) -> Plan:
    """Leave out what changes by the minute, so that the same host and wishes give the same file."""
    gpus = tuple(replace(gpu, memory_used_bytes=None) for gpu in plan.host.gpus)
    return replace(plan, host=replace(plan.host, gpus=gpus))
