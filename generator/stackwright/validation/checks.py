"""The table of checks: each with what it looks at, the findings that it may make, and when it applies.

docs/reference/checks.md is made from it. Nothing here looks at the machine: `Evidence` holds what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from stackwright.domain.finding import Finding, not_checked
from stackwright.domain.machine import Unseen
from stackwright.domain.plan import Mode
from stackwright.validation import capacity, containers, environment, gpus, images, model, surroundings
from stackwright.validation.compose_config import check_container_limits, check_merged
from stackwright.validation.evidence import Evidence
from stackwright.validation.live import check_files, check_port, check_secrets
from stackwright.validation.publishing import check_publishing


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row: `about` ends the sentence "looks at …"; `findings` are the stable names of what it may find."""

    name: str
    about: str
    findings: tuple[str, ...]
    find: Callable[[Evidence], Iterable[Finding]]
    applies: Callable[[Evidence], bool]
    when: str


def always(_: Evidence) -> bool:
    """Say yes."""
    return True


def with_gpus(seen: Evidence) -> bool:
    """Say whether the plan has GPUs."""
    return seen.stack.plan.mode is not Mode.CPU


def in_containers(seen: Evidence) -> bool:
    """Say whether Compose runs the stack."""
    return seen.compose


def without_containers(seen: Evidence) -> bool:
    """Say whether the stack runs as processes."""
    return not seen.compose


def down(seen: Evidence) -> bool:
    """Say whether the stack is down."""
    return not seen.runs


def gpus_in_containers(seen: Evidence) -> bool:
    """Say whether Compose runs a plan with GPUs."""
    return with_gpus(seen) and in_containers(seen)


WHEN = {
    always: "always",
    with_gpus: "plans with GPUs",
    in_containers: "Compose",
    without_containers: "processes",
    down: "while the stack is down",
    gpus_in_containers: "plans with GPUs under Compose",
}


def row(
    name: str,
    about: str,
    findings: str,
    find: Callable[[Evidence], Iterable[Finding]],
    applies: Callable[[Evidence], bool] = always,
) -> Check:
    """Write one row, with its findings separated by blanks."""
    return Check(
        name=name, about=about, findings=tuple(findings.split()), find=find, applies=applies, when=WHEN[applies]
    )


def _check_inputs(seen: Evidence) -> Iterator[Finding]:
    plan = seen.stack.plan
    if isinstance(seen.changed, Unseen):
        return iter((not_checked("what the files were rendered from", seen.changed.why, plan.environment.value),))
    return surroundings.check_inputs(plan, seen.changed)


def _check_gpu_memory(seen: Evidence) -> Iterator[Finding]:
    if not seen.runs:
        return gpus.check_gpu_memory(seen.stack.plan, seen.env, seen.host, seen.gpus, seen.memory, None)
    if isinstance(seen.own, Unseen):
        return iter((not_checked("free GPU memory", seen.own.why, seen.stack.plan.environment.value),))
    return gpus.check_gpu_memory(seen.stack.plan, seen.env, seen.host, seen.gpus, seen.memory, seen.own)


def _check_merged(seen: Evidence) -> Iterable[Finding]:
    if isinstance(seen.merged, Unseen):
        return surroundings.check_refused(seen.stack.plan, seen.merged.why)
    return () if seen.merged is None else check_merged(seen.stack, seen.merged)


def _check_container_limits(seen: Evidence) -> Iterable[Finding]:
    if not isinstance(seen.merged, dict):
        return ()
    return check_container_limits(seen.stack, seen.merged, infiniband=seen.infiniband)


def _check_models(seen: Evidence) -> Iterator[Finding]:
    for each in seen.models:
        yield from model.check_model(seen.stack.plan, each.location, each.files)


def _check_hub(seen: Evidence) -> Iterator[Finding]:
    for each in seen.models:
        location, files = each.location, each.files
        if not (location.startswith("/") or isinstance(files, Unseen) or files.complete or files.problem):
            yield from model.check_hub(
                seen.stack.plan, location, each.hub, gated=each.gated, has_token=seen.has_token, offline=seen.offline
            )


def _check_memory(seen: Evidence) -> Iterator[Finding]:
    plan = seen.stack.plan
    yield from capacity.check_memory(plan, seen.env, seen.host, seen.memory, [each.files for each in seen.models])
    yield from capacity.check_swap(plan, seen.memory)


def _environment_of(seen: Evidence, service: str) -> dict[str, Any]:
    """Return a service's variables as Compose reads them; none where it does not."""
    merged = seen.merged if isinstance(seen.merged, dict) else {}
    found = merged.get("services", {}).get(service, {}).get("environment")
    return found if isinstance(found, dict) else {}


def _engine_variables(seen: Evidence) -> frozenset[str]:
    replicas = seen.stack.plan.replicas
    planned = {name for replica in replicas for name, _ in replica.env}
    return frozenset(planned | {name for replica in replicas for name in _environment_of(seen, replica.name)})


CHECKS: tuple[Check, ...] = (
    row(
        "environment",
        "the values in force: every key known and there, every value allowed, no placeholder left, sizes that agree",
        "env-unknown-key env-missing-key env-value env-placeholder env-derived parallel-sizes",
        lambda seen: environment.check_environment(seen.stack.plan, seen.env, seen.catalog),
    ),
    row(
        "files",
        "the rendered files and `.local`: all there, mode 0600, yours, as they were rendered (SHA-256)",
        "file-missing file-mode file-owner file-edited",
        lambda seen: check_files(seen.stack),
    ),
    row(
        "inputs",
        "what the files were rendered from: the wishes, the catalog, this program's version",
        "inputs-changed inputs-unknown",
        _check_inputs,
    ),
    row(
        "secrets",
        "the secret files: there, mode 0600, yours, no known default, no placeholder, 32 characters that do not repeat; "
        "the keys of `gateway.cloud`: there, mode 0600, one line",
        "secret-missing secret-mode secret-owner secret-weak secret-unusable",
        lambda seen: check_secrets(seen.stack),
    ),
    row(
        "GPUs",
        "the GPUs of the plan by UUID: there, in the same order, of the same size, joined by the same links; the driver",
        "driver-fault gpu-missing gpu-changed gpu-order gpu-added links-changed driver-too-old",
        lambda seen: gpus.check_host(seen.stack.plan, seen.host),
        with_gpus,
    ),
    row(
        "GPU health",
        "each GPU's answer (NVML), every NVLink lane, uncorrected memory errors and broken rows",
        "gpu-lost nvlink-lanes gpu-memory-errors",
        lambda seen: gpus.check_health(seen.stack.plan, seen.gpus),
        with_gpus,
    ),
    row(
        "GPU memory",
        "what is free on each GPU against the share that the engine takes, and who holds the rest",
        "gpu-memory",
        _check_gpu_memory,
        with_gpus,
    ),
    row(
        "container engine",
        "the versions of Docker Engine (20.10 or newer) and Compose (2.17 or newer)",
        "docker-version compose-version",
        lambda seen: containers.check_versions(seen.stack.plan, seen.host),
        in_containers,
    ),
    row(
        "user",
        "whom the containers run as",
        "container-root",
        lambda seen: containers.check_user(seen.stack.plan, seen.env),
        in_containers,
    ),
    row(
        "GPUs in containers",
        "CDI or NVIDIA's runtime; and, where the engine's image is here, what a real container with the GPUs sees",
        "gpu-access gpu-container",
        lambda seen: containers.check_gpu_access(seen.stack.plan, seen.host, seen.container),
        gpus_in_containers,
    ),
    row(
        "GPUs without containers",
        "what only the engine's image or a container gives: CUDA's compatibility libraries, one MIG slice of several, "
        "engines for GPUs and for the processor beside each other, torchvision for pictures",
        "image-only slice-among-others engines-of-two-kinds no-torchvision",
        lambda seen: containers.check_processes(seen.stack.plan),
        without_containers,
    ),
    row(
        "shell",
        "exported variables that Compose would prefer to the files",
        "shell-overrides",
        lambda seen: environment.check_shell(seen.env, seen.shell, seen.stack.plan.environment.value),
        in_containers,
    ),
    row(
        "merged files",
        "base file, override and environment files as Compose itself reads them: GPU reservations, arguments, ports, "
        "shared memory, privileges, no secret in a variable",
        "compose-refused compose-service compose-gpus compose-command compose-ports compose-shared-memory "
        "compose-privileges compose-secret",
        _check_merged,
        in_containers,
    ),
    row(
        "container limits",
        "open files of every container, and locked memory where InfiniBand is there",
        "compose-open-files compose-locked-memory",
        _check_container_limits,
        in_containers,
    ),
    row(
        "port",
        "the gateway's port and address, and who listens there",
        "port-taken port-privileged address-unknown",
        lambda seen: check_port(seen.env, seen.stack.plan.environment.value, seen.listener),
        down,
    ),
    row(
        "publishing",
        "an address beyond this machine, which needs TLS or consent (GATEWAY_PLAIN_HTTP); the certificate and its key",
        "gateway-published tls-incomplete tls-unusable",
        lambda seen: check_publishing(seen.env, seen.stack.secrets, seen.stack.plan.environment.value),
    ),
    row(
        "model",
        "the model's files: all that the index names, each as long as its header promises, readable for the stack's user",
        "model-missing model-incomplete model-unreadable",
        _check_models,
    ),
    row(
        "length",
        "the longest context that is asked for, against the longest that the model's config.json allows",
        "model-length",
        lambda seen: model.check_length(seen.stack.plan, seen.env, seen.longest_tokens, _engine_variables(seen)),
    ),
    row(
        "hub",
        "a model that is still to be downloaded: the hub in reach, the name known, the token good; HF_HUB_OFFLINE is respected",
        "model-missing model-gated model-unknown model-unreachable clock",
        _check_hub,
    ),
    row(
        "disks",
        "room for weights (less what is cached), images, packages; file systems without a free byte or file",
        "disk disk-full",
        lambda seen: capacity.check_disks(
            seen.stack.plan, seen.disks, [each.files for each in seen.models], seen.wanted
        ),
    ),
    row(
        "memory",
        "memory for the gateway's workers and, on a processor, weights and KV cache; swap in use",
        "memory memory-free swap",
        _check_memory,
        down,
    ),
    row(
        "shared memory",
        "/dev/shm where an engine has several worker processes (in a container: what Compose gives it)",
        "shared-memory",
        lambda seen: capacity.check_shared_memory(seen.stack.plan, seen.env, seen.shared_memory),
        without_containers,
    ),
    row(
        "limits",
        "open files, and locked memory where InfiniBand is there, for this user",
        "open-files locked-memory",
        lambda seen: capacity.check_limits(seen.stack.plan, seen.limits, infiniband=seen.infiniband),
        without_containers,
    ),
    row(
        "releases",
        "known holes (catalog/advisories.yaml) of the engine and the gateway, and images whose name moves",
        "image-holes image-moves",
        lambda seen: images.check_images(seen.stack.plan, seen.env, seen.catalog.advisories, pulled=seen.compose),
    ),
    row(
        "clock",
        "a clock that stands before the rendered files",
        "clock",
        lambda seen: surroundings.check_clock(seen.stack.plan, seen.now_s, seen.newest_file_s),
    ),
    row(
        "Windows",
        "the Windows Subsystem for Linux: folders on Windows' drives, pinned memory",
        "wsl-drive wsl-pinning",
        lambda seen: surroundings.check_wsl(seen.stack.plan, seen.env, seen.host, _engine_variables(seen)),
    ),
    row(
        "database",
        "the gateway's workers × connections against PostgreSQL's limit, where DATABASE_URL is set",
        "database-connections",
        lambda seen: surroundings.check_connections(seen.stack.plan, seen.env, _environment_of(seen, "gateway")),
        in_containers,
    ),
)


def find_in(seen: Evidence) -> Iterator[Finding]:
    """Yield the findings of every check that applies. A check that fails itself, on a machine unlike any, says so."""
    for check in CHECKS:
        try:
            found = tuple(check.find(seen)) if check.applies(seen) else ()
        except Exception as failure:  # noqa: BLE001 whatever it is, the other checks still have something to tell
            why = f"{type(failure).__name__}: {str(failure)[:160]}"
            found = (not_checked(check.name, why, seen.stack.plan.environment.value),)
        yield from found
