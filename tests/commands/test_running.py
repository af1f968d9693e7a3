"""What a restart takes along, and what differs between what runs and the plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.commands.generation import changed_settings
from stackwright.commands.restart import services_to_restart
from stackwright.commands.running import Wanted, drift_of
from stackwright.domain.machine import GpuState, Unseen
from stackwright.domain.running import Drift
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.project.generations import Generations
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Glance, Stack
from stackwright.watching.look import Look

from tests.planning_requests import plan_for, recorded


def stack_on(host: str) -> Stack:
    """Return the stack that is planned for a host."""
    plan = plan_for(recorded(host))
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    return Stack(root=Path("/p"), state=Path("/s"), plan=plan, env=env)


def states_of(stack: Stack, **others: ServicePhase) -> dict[str, ServiceState]:
    """Return healthy services, but for some."""
    names = [service.name for service in stack.services]
    phases = {name: others.get(name.replace("-", "_"), ServicePhase.HEALTHY) for name in names}
    return {name: ServiceState(name=name, phase=phase) for name, phase in phases.items()}


def look_at(stack: Stack, **images: str) -> Look:
    """Return a look at which everything runs as planned, but for some images, and all GPUs are there."""
    glances = tuple(
        Glance(
            state=ServiceState(name=service.name, phase=ServicePhase.HEALTHY),
            image=images.get(service.name, stack.value(service.image)),
        )
        for service in stack.services
    )
    gpus = tuple(GpuState(index=gpu.index, uuid=gpu.uuid) for gpu in stack.plan.host.gpus)
    return Look(at_s=0.0, glances=glances, gpus=gpus)


def test_what_clients_ask_goes_with_what_it_cannot_do_without() -> None:
    stack = stack_on("cpu-small")
    every = states_of(stack)
    assert services_to_restart(stack, every, None) == ("engine", "redis", "gateway")
    assert services_to_restart(stack, every, "gateway") == ("gateway",)
    assert services_to_restart(stack, every, "redis") == ("redis", "gateway")
    assert services_to_restart(stack, every, "engine") == ("engine", "gateway")


def test_what_does_not_run_here_is_not_restarted() -> None:
    stack = stack_on("cpu-small")
    here = {name: state for name, state in states_of(stack).items() if name != "redis"}
    assert services_to_restart(stack, here, None) == ("engine", "gateway")


def test_a_gateway_with_another_replica_stays_up() -> None:
    stack = stack_on("2x-rtx4090")
    names = [replica.name for replica in stack.plan.engines]
    assert len(names) == 2
    assert services_to_restart(stack, states_of(stack), names[0]) == (names[0],)
    ill = states_of(stack, **{names[1].replace("-", "_"): ServicePhase.STARTING})
    assert services_to_restart(stack, ill, names[0]) == (names[0], "gateway")


def test_what_runs_as_planned_is_no_drift() -> None:
    stack = stack_on("2x-rtx3090-nvlink")
    assert drift_of(stack, look_at(stack), Wanted()) == ()


def test_another_image_a_further_service_and_a_lost_gpu_are_drift() -> None:
    stack = stack_on("2x-rtx3090-nvlink")
    look = look_at(stack, gateway="litellm:other")
    stray = Glance(state=ServiceState(name="engine-7", phase=ServicePhase.HEALTHY))
    assert isinstance(look.gpus, tuple)
    look = replace(look, glances=(*look.glances, stray), gpus=look.gpus[:1])
    lost = stack.plan.host.gpus[1].uuid
    assert drift_of(stack, look, Wanted()) == (
        Drift(what=f"runs litellm:other, the plan has {stack.env['LITELLM_IMAGE']}", service="gateway"),
        Drift(what="the plan does not have it", service="engine-7"),
        Drift(what=f"its GPU {lost} is gone", service="engine"),
    )


def test_other_settings_are_drift_of_what_runs_with_them() -> None:
    stack = stack_on("cpu-small")
    look = look_at(stack)
    look = replace(look, glances=tuple(replace(glance, revision="old") for glance in look.glances))
    wanted = Wanted(revisions={"engine": "old", "gateway": "new"}, changed=(Drift(what="A=1 → 2"),))
    assert drift_of(stack, look, wanted) == (
        Drift(what="its settings have changed", service="gateway"),
        Drift(what="A=1 → 2"),
    )


@pytest.mark.parametrize("gpus", [None, Unseen(why="no driver")])
def test_gpus_that_could_not_be_looked_at_are_not_gone(gpus: Unseen | None) -> None:
    stack = stack_on("2x-rtx3090-nvlink")
    assert drift_of(stack, replace(look_at(stack), gpus=gpus), Wanted()) == ()


def test_what_is_beside_a_key_that_is_no_setting_is_not_told(tmp_path: Path) -> None:
    """It may be a secret at the wrong spot, and `status` is shown around."""
    stack = replace(stack_on("cpu-small"), root=tmp_path)
    paths = stack.paths
    for folder in (paths.rendered.parent, paths.generated):
        folder.mkdir(parents=True, exist_ok=True)
    paths.rendered.write_text("\n".join(f"{key}={value}" for key, value in stack.env.items()), encoding="utf-8")
    number = Generations(paths).record().number
    now = replace(stack, env={**stack.env, "HF_TOKEN": "hf_abcdefgh12345", "GATEWAY_PORT": "4999"})
    assert changed_settings(now, number) == ("GATEWAY_PORT=4002 → 4999", "HF_TOKEN, which is no setting")
