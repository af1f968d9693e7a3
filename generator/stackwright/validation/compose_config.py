"""How Compose itself reads the rendered files, compared with the plan.

python-on-whales 0.81's typed ComposeConfig drops GPU reservations, so its JSON form is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stackwright.detect.capacity import has_infiniband
from stackwright.domain.finding import Finding, error, warning
from stackwright.domain.machine import Seen, Unseen
from stackwright.domain.plan import Plan, Replica
from stackwright.project.credentials import HUB_TOKEN
from stackwright.rendering.compose import CDI_GPU, compose_command
from stackwright.runtime import Stack
from stackwright.services import brought_secrets, made_secrets
from stackwright.units import GIB, MIB
from stackwright.validation.check import IN_CONTAINERS, Check, Machine, Observation, Subject
from stackwright.validation.files import text_of
from stackwright.validation.secrets import SHORTEST

# The open files that compose.yaml asks for: one for each connection of a busy gateway.
OPEN_FILES = 16384
_UNITS = {"k": 1024, "m": MIB, "g": GIB}


def size_bytes(text: str) -> int | None:
    """Read a size as Compose writes it: `16gb`, `512m`, or a bare number of bytes; None for anything else."""
    read = re.fullmatch(r"([0-9]{1,15})(?:([kmg])b?)?", text.strip().lower())
    return int(read[1]) * _UNITS.get(read[2] or "", 1) if read else None


def check_merged(stack: Stack, merged: dict[str, Any], secrets: Mapping[str, str]) -> tuple[Finding, ...]:
    """Compare the merged file, as `docker compose config --format json` prints it, with the plan.

    `secrets`: the text of each secret that is long enough to be told from a word.
    """
    again = f"render the override again: `configure-gpu {stack.plan.environment.value}`"
    services = merged.get("services", {})
    found: list[Finding] = []
    for replica in stack.plan.engines:
        service = services.get(replica.name)
        if service is None:
            missing = f"no service {replica.name}"
            found.append(error("compose-service", found=missing, expected="every replica of the plan", fix=again))
        else:
            found += _check_replica(stack, replica, service, again)
    found += _check_published(stack, services, again)
    return (*found, *_check_privileges(services), *_check_secrets(services, secrets))


def _check_replica(stack: Stack, replica: Replica, service: dict[str, Any], again: str) -> Iterator[Finding]:
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices") or []
    reserved = sorted(uuid.removeprefix(CDI_GPU) for device in devices for uuid in device.get("device_ids", []))
    planned = stack.plan.gpus_of(replica)
    if reserved != sorted(planned):
        found = f"{replica.name} reserves {reserved or 'no GPU'}"
        yield error("compose-gpus", found=found, expected=str(list(planned)), fix=again)
    elif any("gpu" not in (device.get("capabilities") or ()) for device in devices):
        found = f"{replica.name} reserves devices without the capability `gpu`"
        yield error("compose-gpus", found=found, expected="capabilities: [gpu]", fix=again)
    described = stack.service(replica.name)
    if described and tuple(service.get("command") or ()) != compose_command(described, stack.plan, stack.value):
        found = f"{replica.name} has other arguments"
        yield error("compose-command", found=found, expected="those of the plan", fix=again)
    yield from _check_shared_memory(stack, replica, service, again)


def _check_shared_memory(stack: Stack, replica: Replica, service: dict[str, Any], again: str) -> Iterator[Finding]:
    key = stack.engine.keys.shared_memory
    size = stack.values(replica)[key]
    given, wanted = size_bytes(str(service.get("shm_size") or "")), size_bytes(size)
    if wanted is None or (given is not None and given >= wanted) or service.get("ipc") == "host":
        return
    shown = service.get("shm_size") or "Docker's default of 64 MB"
    expected = f"{key}={size}"
    yield error("compose-shared-memory", found=f"{replica.name} has {shown}", expected=expected, fix=again)


def _check_published(stack: Stack, services: dict[str, Any], again: str) -> Iterator[Finding]:
    published = {other.name: other.published for other in stack.services if other.published}
    only = f"only {' and '.join(f'the {name}' for name in published)} {'does' if len(published) == 1 else 'do'}"
    for name, service in services.items():
        ports = service.get("ports") or []
        if ports and name not in published:
            yield error("compose-ports", found=f"{name} publishes a port", expected=only, fix=again)
        for port in ports if name in published else ():
            address, (bind, _) = port.get("host_ip") if isinstance(port, dict) else None, published[name]
            if address != stack.value(bind):
                found = f"the {name} is published on {address or 'every address'}"
                expected = f"{bind.key}={stack.value(bind)}"
                yield error(
                    "compose-ports", found=found, expected=expected, fix="correct `ports` in compose/compose.yaml"
                )


def check_container_limits(stack: Stack, merged: dict[str, Any], *, infiniband: bool) -> Iterator[Finding]:
    """Compare the limits that Compose gives to containers with what the services need."""
    fix = "restore the original `ulimits` in compose/compose.yaml"
    asked = {stack.front.name, *(replica.name for replica in stack.plan.engines)}
    others = {service.name for service in stack.services} - asked
    for name, service in merged.get("services", {}).items():
        ulimits = service.get("ulimits") or {}
        files = _soft_limit(ulimits.get("nofile"))
        if name not in others and (files is None or files < OPEN_FILES):
            found = f"{name} may open {files or 'the Docker default of files (1024 since version 29)'}"
            yield warning("compose-open-files", found=found, expected=f"{OPEN_FILES} open files", fix=fix)
    for replica in stack.plan.replicas if infiniband else ():
        ulimits = merged.get("services", {}).get(replica.name, {}).get("ulimits") or {}
        ranks = replica.ranks
        if replica.gpu_uuids and ranks > 1 and _soft_limit(ulimits.get("memlock")) != -1:
            yield warning(
                "compose-locked-memory",
                found=f"{replica.name} has a limit of locked memory",
                expected="no limit: NCCL registers its buffers with InfiniBand adapters",
                fix=f"add `memlock: -1` to the `ulimits` of {replica.name} in compose/compose.yaml",
            )


def _soft_limit(limit: object) -> int | None:
    """Return a limit as Compose prints it: a number, or a mapping with soft and hard."""
    soft = limit.get("soft") if isinstance(limit, dict) else limit
    return soft if isinstance(soft, int) else None


def _check_privileges(services: dict[str, Any]) -> Iterator[Finding]:
    """Find what lets a program out of its container: someone added it to the base file."""
    for name, service in services.items():
        volumes = [volume for volume in service.get("volumes") or [] if isinstance(volume, dict)]
        opened = [
            *(["`privileged`"] if service.get("privileged") else []),
            *(["`network_mode: host`"] if service.get("network_mode") == "host" else []),
            *(["`pid: host`"] if service.get("pid") == "host" else []),
            *(["Docker's socket"] if any(str(v.get("source", "")).endswith("docker.sock") for v in volumes) else []),
        ]
        if opened:
            fix = f"remove it from {name} in compose/compose.yaml"
            found = f"{name} has {' and '.join(opened)}"
            yield warning("compose-privileges", found=found, expected="a restricted container", fix=fix)


def _check_secrets(services: dict[str, Any], secrets: Mapping[str, str]) -> Iterator[Finding]:
    """Find secrets in variables and arguments, where `docker inspect` and `ps` show them to others."""
    for name, service in services.items():
        environment = service.get("environment")
        words = [str(value) for value in (environment.values() if isinstance(environment, dict) else ())]
        words += [str(word) for word in service.get("command") or ()]
        for secret, text in secrets.items():
            if any(text in word for word in words):
                yield error(
                    "compose-secret",
                    found=f"{name} has {secret} in a variable or an argument",
                    expected="secrets in files only: `docker inspect` shows variables and arguments",
                    fix=f"remove it from {name} in compose/compose.yaml; /run/secrets/{secret} holds it",
                )


def variables_of(merged: Seen[dict[str, Any]] | None, service: str) -> dict[str, Any]:
    """Return a service's variables as Compose reads them; none where it does not."""
    services = merged.get("services", {}) if isinstance(merged, dict) else {}
    variables = services.get(service, {}).get("environment")
    return variables if isinstance(variables, dict) else {}


def engine_variables(plan: Plan, merged: Seen[dict[str, Any]] | None) -> frozenset[str]:
    """Return the variables that the engines are given, by the plan and by what Compose reads."""
    planned = {name for replica in plan.replicas for name, _ in replica.env}
    return frozenset(planned | {name for replica in plan.replicas for name in variables_of(merged, replica.name)})


def read_merged(machine: Machine) -> dict[str, Any] | None:
    """Return the files as Compose reads them; None where it does not run the stack."""
    from stackwright.runtime.compose import ComposeRuntime

    return machine.runtime.merged() if isinstance(machine.runtime, ComposeRuntime) else None


def read_secret_texts(stack: Stack) -> dict[str, str]:
    """Return the text of each secret that is long enough to be told from a word."""
    named = (*made_secrets(stack.plan.additions), HUB_TOKEN, *brought_secrets(stack.plan))
    texts = {name: (text_of(stack.secrets / name) or "").strip() for name in named}
    return {name: text for name, text in texts.items() if len(text) >= SHORTEST // 2}


def check_refused(plan: Plan, words: str) -> Iterator[Finding]:
    """Yield that Compose does not accept the files, in its own words."""
    fix = (
        f"correct your changes in compose/compose.yaml; render the rest again: `configure-gpu {plan.environment.value}`"
    )
    yield error("compose-refused", found=words, expected="files that Compose accepts", fix=fix)


def _check_files(on: Subject, merged: Seen[dict[str, Any]] | None, secrets: Mapping[str, str]) -> Iterable[Finding]:
    if isinstance(merged, Unseen):
        return check_refused(on.plan, merged.why)
    return () if merged is None else check_merged(on.stack, merged, secrets)


def _check_limits(on: Subject, merged: Seen[dict[str, Any]] | None, infiniband: bool) -> Iterable[Finding]:
    return check_container_limits(on.stack, merged, infiniband=infiniband) if isinstance(merged, dict) else ()


MERGED = Observation(take=read_merged, waits=True, may_fail=True)
SECRET_TEXTS = Observation(take=lambda machine: read_secret_texts(machine.stack))
INFINIBAND = Observation(take=lambda _: has_infiniband())


MERGED_FILES = Check(
    name="merged files",
    about=(
        "base file, override and environment files as Compose reads them: GPU reservations, arguments, ports, "
        "shared memory, privileges, no secret in a variable"
    ),
    findings=tuple(
        (
            "compose-refused compose-service compose-gpus compose-command compose-ports compose-shared-memory "
            "compose-privileges compose-secret"
        ).split()
    ),
    rule=_check_files,
    observations=(MERGED, SECRET_TEXTS),
    when=IN_CONTAINERS,
)


CONTAINER_LIMITS = Check(
    name="container limits",
    about="open files of every container, and locked memory with InfiniBand",
    findings=tuple("compose-open-files compose-locked-memory".split()),
    rule=_check_limits,
    observations=(MERGED, INFINIBAND),
    when=IN_CONTAINERS,
)
