"""Every override that is planned for a recorded host, as Docker Compose itself reads it. The client alone: no daemon."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dotenv import dotenv_values

from generator.domain.environment import Environment
from generator.domain.plan import Plan
from generator.rendering import environment_file, render_plan
from generator.runtime import Stack
from generator.runtime.compose import ComposeRuntime
from generator.settings import slot_key
from generator.validation.compose_config import check_merged
from tests.integration.project import CHECKOUT
from tests.planning.several import CASES as SEVERAL
from tests.planning.several import plan_of
from tests.planning_requests import plan_for, recorded

GOLDEN = CHECKOUT / "tests" / "golden"
# What is refused has no override there.
PLANNED = sorted(
    (name, environment)
    for name, environment in (file.parent.name.split("--") for file in GOLDEN.glob("*--*/override.yaml"))
    if name != "several-models"
)


def write_stack(plan: Plan, root: Path) -> Stack:
    """Lay out a project folder with the base files of the checkout and what is rendered for the plan."""
    shutil.copytree(CHECKOUT / "compose", root / "compose", ignore=shutil.ignore_patterns("generated"))
    for file in render_plan(plan):
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    values = dotenv_values(root / environment_file(plan.environment.value), interpolate=False)
    env = {key: value for key, value in values.items() if value is not None}
    return Stack(root=root, state=root / "state", plan=plan, env=env)


@pytest.mark.parametrize(("name", "environment"), PLANNED)
@pytest.mark.usefixtures("docker_host")
def test_compose_reads_what_was_planned(name: str, environment: str, tmp_path: Path) -> None:
    check_merged_stack(plan_for(recorded(name), Environment(environment)), tmp_path)


@pytest.mark.parametrize("case", sorted(SEVERAL))
@pytest.mark.usefixtures("docker_host")
def test_compose_reads_what_was_planned_for_several_models(case: str, tmp_path: Path) -> None:
    host, models = SEVERAL[case]
    check_merged_stack(plan_of(host, *models), tmp_path)


def check_merged_stack(plan: Plan, folder: Path) -> None:
    """Check that the merged file has each replica with its GPUs and arguments, and publishes the gateway alone."""
    stack = write_stack(plan, folder)
    merged = ComposeRuntime(stack).merged()
    assert check_merged(stack, merged) == ()
    engines = {service for service in merged["services"] if service.startswith("engine")}
    assert engines == {replica.name for replica in plan.replicas}
    for replica in plan.replicas:
        key = slot_key("VLLM_IMAGE", plan.gateway.slot_of(replica))
        image = plan.settings[key].value if key in plan.settings else plan.engine.image
        assert merged["services"][replica.name]["image"] == image


@pytest.mark.usefixtures("docker_host")
def test_a_lost_gpu_is_found(tmp_path: Path) -> None:
    """The comparison notices what Compose would be told wrongly."""
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    stack = write_stack(plan, tmp_path)
    override = stack.generated / "override.yaml"
    text = override.read_text(encoding="utf-8")
    lost = str(plan.replicas[0].gpu_uuids[1])
    override.write_text("".join(line for line in text.splitlines(keepends=True) if lost not in line), encoding="utf-8")
    found = check_merged(stack, ComposeRuntime(stack).merged())
    assert [finding.check for finding in found] == ["compose-gpus"]
