"""What a plan's services are in either runtime, for the tests of each addition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from stackwright.domain.plan import Plan
from stackwright.rendering.compose import render_override
from stackwright.runtime.programs import Program, Provisions, stack_programs

from tests.runtime.test_programs import CALLER, ENVIRONMENTS, stack_of

_PORTS = {"engine": 20000, "redis": 20001, "postgres": 20002, "engine-2": 20003}


def containers_of(plan: Plan) -> dict[str, Any]:
    """Return the services as Compose runs them."""
    document: dict[str, Any] = yaml.safe_load(render_override(plan, {}))
    services: dict[str, Any] = document["services"]
    return services


def programs_of(plan: Plan) -> dict[str, Program]:
    """Return the services as processes."""
    own = dict.fromkeys(("webui", "multimodal", "retrieval", "postgres"), Path("/venv"))
    machine = Provisions(virtual_environments={**ENVIRONMENTS, **own}, ports=_PORTS, shared_memory_bytes=2**34)
    return {program.name: program for program in stack_programs(stack_of(plan), machine, CALLER)}
