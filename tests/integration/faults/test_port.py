"""Another program has the gateway's port, or takes it after the checks: the processes runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stackwright.runtime.process_groups import programs_with

from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import MakeFault
from tests.integration.faults.places import squatter
from tests.integration.project import Project, wait_until

START = ("start-environment", "dev", "--runtime=processes")


def test_port_is_taken(make_quick_project: Callable[..., Project], fault: MakeFault) -> None:
    project = make_quick_project()
    project.configure("cpu")
    case = fault("another program has the port", project, "processes")
    with squatter(project.port):
        ended = run(project, *START)
    case.ends(ended, code=5, says=("GATEWAY_PORT", str(project.port)), engine=False)


def test_port_is_taken_after_the_checks(make_quick_project: Callable[..., Project], fault: MakeFault) -> None:
    project = make_quick_project()
    project.configure("cpu")
    case = fault("another program takes the port after the checks", project, "processes")
    with Command(project, *START) as start:
        supervisor = Path(project.variables["STACKWRIGHT_STATE"]) / "run" / project.name / "supervisord.conf"
        wait_until(lambda: programs_with(str(supervisor)) or None)
        with squatter(project.port):
            start.mark()
            ended = start.end()
    case.ends(ended, code=7, says=(str(project.port), "GATEWAY_PORT"), engine=False)
