"""Every override that is planned for a recorded host, as Docker Compose itself reads it.

The client alone: no daemon.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from dotenv import dotenv_values
from msgspec.structs import replace
from stackwright.domain.cloud import CloudModel
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Plan
from stackwright.rendering import environment_file, render_plan
from stackwright.rendering.numbered import flat_settings, model_values
from stackwright.runtime import Stack
from stackwright.runtime.compose import ComposeRuntime
from stackwright.validation.compose_config import check_merged, read_secret_texts

from tests.integration.project import CHECKOUT
from tests.planning.several import CASES as SEVERAL
from tests.planning.several import plan_of
from tests.planning_requests import HOST_NAMES, plan_for, recorded

GOLDEN = CHECKOUT / "tests" / "golden"
# What is refused has no override there. Dev and staging of the hosts that have prod alone differ from it in values
# only, which tests/test_golden.py sees; how Compose reads those is shown by the hosts that have all three.
PLANNED = sorted(
    tuple(file.parent.name.split("--"))
    for file in GOLDEN.glob("*--*/override.yaml")
    if file.parent.name.partition("--")[0] in HOST_NAMES
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
    """The merged file has each replica with its GPUs and arguments, and publishes the gateway alone."""
    plan = plan_for(recorded(name), Environment(environment))
    images = read_engine_images(plan, tmp_path)
    assert set(images.values()) == {plan.engine.image}


@pytest.mark.parametrize("case", SEVERAL)
@pytest.mark.usefixtures("docker_host")
def test_compose_reads_what_was_planned_for_several_models(case: str, tmp_path: Path) -> None:
    host, models = SEVERAL[case]
    plan = plan_of(host, *models)
    images = read_engine_images(plan, tmp_path)
    in_force = model_values(values(plan), len(plan.models))
    planned = [in_force[plan.number_of(engine)]["VLLM_IMAGE"] for engine in plan.engines]
    assert list(images.values()) == planned


def read_engine_images(plan: Plan, root: Path) -> dict[str, str]:
    """Let Compose read a plan's files, expect what was planned, and return the image of each engine."""
    stack = write_stack(plan, root)
    merged = ComposeRuntime(stack).merged()
    assert check_merged(stack, merged, read_secret_texts(stack)) == ()
    engines = {name: service["image"] for name, service in merged["services"].items() if name.startswith("engine")}
    assert list(engines) == [engine.name for engine in plan.engines]
    return engines


def values(plan: Plan) -> dict[str, str]:
    """Return what the plan emits."""
    return {key: setting.value for key, setting in flat_settings(plan).items()}


@pytest.mark.usefixtures("docker_host")
def test_compose_fills_each_value_into_the_list_of_models_in_turns(tmp_path: Path) -> None:
    """One argument holds all of it; a person's own line reaches it as it reaches any other."""
    host, models = SEVERAL["1x5080-in-turns"]
    plan = plan_of(host, *models)
    stack = write_stack(plan, tmp_path)
    (tmp_path / "envs" / ".env.prod.local").write_text("VLLM_MAX_MODEL_LEN_2=1024\n", encoding="utf-8")
    stack = replace(stack, env={**stack.env, "VLLM_MAX_MODEL_LEN_2": "1024"})
    merged = ComposeRuntime(stack).merged()
    assert check_merged(stack, merged, read_secret_texts(stack)) == ()
    (told,) = merged["services"]["engine"]["command"]
    assert [model["arguments"].count("1024") for model in json.loads(told)["models"]] == [0, 1]


@pytest.mark.usefixtures("docker_host")
def test_a_lost_gpu_is_found(tmp_path: Path) -> None:
    """The comparison notices what Compose would be told wrongly."""
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    stack = write_stack(plan, tmp_path)
    override = stack.generated / "override.yaml"
    text = override.read_text(encoding="utf-8")
    lost = str(plan.replicas[0].gpu_uuids[1])
    override.write_text("".join(line for line in text.splitlines(keepends=True) if lost not in line), encoding="utf-8")
    found = check_merged(stack, ComposeRuntime(stack).merged(), read_secret_texts(stack))
    assert [finding.check for finding in found] == ["compose-gpus"]


@pytest.mark.usefixtures("docker_host")
def test_the_gateway_keeps_its_own_secrets_beside_a_clouds(tmp_path: Path) -> None:
    """Compose joins the two files' lists; the key's value is in neither."""
    plan = plan_for(recorded("cpu-small"))
    cloud = CloudModel(name="away", model="openai/big", key="mine")
    stack = write_stack(replace(plan, gateway=replace(plan.gateway, cloud=(cloud,))), tmp_path)
    stack.secrets.mkdir(parents=True)
    (stack.secrets / "cloud_mine_key").write_text("the-key-of-the-cloud")
    merged = ComposeRuntime(stack).merged()
    mounted = {secret["source"] for secret in merged["services"]["gateway"]["secrets"]}
    assert {"litellm_master_key", "engine_key", "cloud_mine_key"} <= mounted
    assert merged["services"]["gateway"]["environment"]["CLOUD_KEYS"] == "cloud_mine_key"
    assert Path(merged["secrets"]["cloud_mine_key"]["file"]).read_text() == "the-key-of-the-cloud"
    assert "the-key-of-the-cloud" not in json.dumps(merged)
