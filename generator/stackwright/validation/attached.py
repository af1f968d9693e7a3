"""What a person attaches to the stack: files and volumes of the engines, and a container network of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stackwright.domain.finding import Finding, error, not_checked
from stackwright.domain.machine import Seen, Unseen
from stackwright.domain.plan import Plan
from stackwright.runtime import Stack
from stackwright.runtime.docker import ask, reason_of
from stackwright.services.gateway import NETWORK
from stackwright.validation.check import IN_CONTAINERS, Check, Machine, Observation

ASKED_S = 10.0


def find_absent(stack: Stack) -> tuple[str, ...]:
    """Return the files and folders that the engines are to be given beside their models, and that are not there."""
    named: list[str] = []
    for model, values in zip(stack.plan.models, stack.models, strict=True):
        named += stack.engine.host_files(values.values)
        named += [volume.partition(":")[0] for volume in model.attached.volumes]
    return tuple(path for path in dict.fromkeys(named) if not Path(path).exists())


def check_attached(plan: Plan, absent: tuple[str, ...]) -> Iterator[Finding]:
    """Find what is to be mounted and is not there: an adapter, a template, a volume."""
    name = plan.environment.value
    for path in absent:
        yield error(
            "attached-missing",
            found=f"no {path[:200]}",
            expected="a file or folder that an engine is given",
            fix=f"bring it, or take it out of envs/{name}.yaml and run `configure-gpu {name}`",
        )


def find_network(machine: Machine) -> Seen[bool] | None:
    """Return whether the network is there that the gateway is to join; None where it joins none."""
    name = machine.stack.env.get(NETWORK)
    if name is None:
        return None
    answer = ask(["docker", "network", "inspect", "--format", "{{.Name}}", name], ASKED_S)
    if answer.code == 0:
        return True
    # "Error: No such network: x" of 20.10, "Error response from daemon: network x not found" of later ones.
    absent = "no such network" in answer.err.lower() or f"network {name} not found" in answer.err
    return False if absent else Unseen(why=reason_of(answer.err))


def check_network(plan: Plan, name: str, seen: Seen[bool] | None) -> Iterator[Finding]:
    """Find a network that the gateway is to join and that is not there."""
    if isinstance(seen, Unseen):
        yield not_checked(f"the container network {name}", seen.why, plan.environment.value)
    elif seen is False:
        yield error(
            "network-missing",
            found=f"{NETWORK}={name}: no such container network",
            expected="a network that is there: the stack makes none of that name",
            fix=f"`docker network create {name}`, or remove gateway.network from envs/{plan.environment.value}.yaml",
        )


ATTACHED = Check(
    name="attached",
    about="files and folders that the engines are given beside their models: adapters, chat templates, volumes",
    findings=("attached-missing",),
    rule=lambda on, absent: check_attached(on.plan, absent),
    observations=(Observation(take=lambda machine: find_absent(machine.stack)),),
)


JOINED = Check(
    name="joined network",
    about="the container network that the gateway joins",
    findings=("network-missing",),
    rule=lambda on, seen: check_network(on.plan, on.env.get(NETWORK, ""), seen),
    observations=(Observation(take=find_network),),
    when=IN_CONTAINERS,
)
