"""Render: plan in, file texts out. Reads only the packaged templates; the same plan gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.plan import Plan, Setting
from stackwright.reading import to_plain
from stackwright.rendering.compose import render_override
from stackwright.rendering.environment import environment_context
from stackwright.rendering.gateway import gateway_context
from stackwright.rendering.numbered import flat_settings
from stackwright.rendering.plan_document import plan_document
from stackwright.rendering.quoting import quote_comment, quote_env, quote_yaml
from stackwright.units import GIB

if TYPE_CHECKING:
    from jinja2 import Environment as Jinja

# Rendered files hold no secret, but they tell the host's layout: only their owner reads them.
FILE_MODE = 0o600
ENVIRONMENT, GATEWAY = "environment.j2", "gateway.yaml.j2"


class RenderedFile(Struct, frozen=True, kw_only=True):
    """One file to write: its path below the project folder, text and permission bits."""

    path: PurePosixPath
    text: str
    mode: int = FILE_MODE


def render_plan(plan: Plan) -> tuple[RenderedFile, ...]:
    """Render the files of one environment: environment, override, gateway and the plan itself."""
    jinja = load_templates()
    name = plan.environment.value
    generated = PurePosixPath("compose/generated") / name
    gateway = jinja.get_template(GATEWAY).render(gateway_context(plan))
    settings = flat_settings(plan)
    override = render_override(plan, {"gateway.yaml": gateway})
    return (
        RenderedFile(
            path=environment_file(name),
            text=jinja.get_template(ENVIRONMENT).render(environment_context(plan, settings)),
        ),
        RenderedFile(path=generated / "override.yaml", text=override),
        RenderedFile(path=generated / "gateway.yaml", text=gateway),
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


@cache
def load_templates() -> Jinja:
    """Compile the templates once, which takes longer than to render them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader("stackwright.rendering"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Pages alone; in the files of a stack every scalar goes through one of the filters below.
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    jinja.filters.update(quote=quote_yaml, env=quote_env, comment=quote_comment)
    jinja.filters["gib"] = lambda count: f"{count / GIB:.1f}"
    for template in (ENVIRONMENT, GATEWAY):
        jinja.get_template(template)
    return jinja
