"""Rules over the container engine: new enough for the files, and able to hand the plan's GPUs to a container. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.host import GpuAccess, Host
from stackwright.domain.machine import ContainerAnswer, Seen, Unseen
from stackwright.domain.plan import Plan
from stackwright.domain.topology import sole_slice
from stackwright.units import version_parts
from stackwright.validation.gpus import used_gpus

# Each with why: `docker run --pull`, which the GPU check needs, and the oldest engine that a whole stack was brought up
# with (docs/proven.md) are both 20.10.
OLDEST_ENGINE = (20, 10)
# Two `--env-file` are merged from 2.17 on (docker/compose pull request 10284); 2.16 takes the last one alone (issue 10436).
OLDEST_COMPOSE = (2, 17)


def check_versions(plan: Plan, host: Host) -> Iterator[Finding]:
    """Compare the versions of engine and Compose with the oldest that the files work with."""
    containers, name = host.containers, plan.environment.value
    other = f"or `start-environment {name} --runtime processes`"
    if containers.engine != "docker":
        yield not_checked("the container engine's version", f"{containers.engine} is not Docker", name)
    elif (found := release(containers.version)) is None:
        yield not_checked("Docker's version", f"it calls itself {containers.version}", name)
    elif found < OLDEST_ENGINE:
        expected = "20.10 or newer, the oldest that stacks were brought up with"
        fix = f"update Docker Engine (docs.docker.com/engine/install), {other}"
        yield error("docker-version", found=f"Docker Engine {containers.version}", expected=expected, fix=fix)
    if (found := release(containers.compose)) is None:
        yield not_checked("Compose's version", f"it calls itself {containers.compose}", name)
    elif found < OLDEST_COMPOSE:
        expected = "2.17 or newer: older ones read only the last of two env files"
        fix = f"update the Compose plugin (docs.docker.com/compose/install), {other}"
        yield error("compose-version", found=f"Compose {containers.compose}", expected=expected, fix=fix)


def release(version: str | None) -> tuple[int, int] | None:
    """Return major and minor of `28.2.2`, `v2.26.1-4`; None where there are none."""
    found = re.match(r"v?([0-9]{1,6})\.([0-9]{1,6})", version or "")
    return (int(found[1]), int(found[2])) if found else None


def check_user(plan: Plan, env: Mapping[str, str]) -> Iterator[Finding]:
    """Find containers that run as root: they have no capabilities, but what they may write is root's own."""
    if env["STACKWRIGHT_UID"] == "0":
        yield warning(
            "container-root",
            found="the containers run as root (STACKWRIGHT_UID=0), since root configured the stack",
            expected="an ordinary user, whose files are all that a service that was taken over could reach",
            fix=f"`configure-gpu --env {plan.environment.value}` as an ordinary user who may use Docker, in a folder of theirs",
        )


def check_gpu_access(plan: Plan, host: Host, seen: Seen[ContainerAnswer] | None) -> Iterator[Finding]:
    """Find GPUs that do not get into containers: by what the engine offers, and by what a container saw.

    `seen` is None where no container was started: the image is not here yet, or the stack runs.
    """
    if not used_gpus(plan):
        return
    toolkit = (
        "install the NVIDIA Container Toolkit, `sudo nvidia-ctk runtime configure --runtime=docker`, restart Docker"
    )
    if seen is None and host.containers.gpu_access in (None, GpuAccess.NONE):
        # Only a warning: an engine may find its hook where this user does not look. A container would tell for certain.
        found = f"{host.containers.engine} has neither a CDI specification for nvidia.com/gpu nor NVIDIA's runtime hook"
        yield warning("gpu-access", found=found, expected="a way for GPUs into containers", fix=toolkit)
        return
    fix = toolkit
    if host.containers.gpu_access is GpuAccess.CDI:
        fix = "`sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`, restart Docker"
    if isinstance(seen, Unseen):
        yield not_checked("GPUs in a container", seen.why, plan.environment.value)
    elif seen is not None:
        yield from _judge(plan, seen, fix)


def _judge(plan: Plan, seen: ContainerAnswer, fix: str) -> Iterator[Finding]:
    expected = "a container that sees every GPU of the plan"
    if seen.refusal is not None:
        yield error("gpu-container", found=f"no container with GPUs starts: {seen.refusal}", expected=expected, fix=fix)
    elif seen.named:
        missing = [uuid for uuid in used_gpus(plan) if uuid not in seen.uuids]
        if missing:
            found = f"a container does not see {', '.join(missing)}"
            yield error("gpu-container", found=found, expected=expected, fix=fix)
    elif not seen.has_devices:
        found = "a container with GPUs asked for has neither nvidia-smi nor a GPU's device file"
        yield error("gpu-container", found=found, expected=expected, fix=fix)


def check_processes(plan: Plan) -> tuple[Finding, ...]:
    """Find what the plan needs of containers, where the engine is to run without them.

    The image brings CUDA's compatibility libraries, which let an older driver run a newer major release of CUDA; the
    packages that are installed in its place have none (docs/decisions/0010-image-planner.md). And a container shows an
    engine its MIG slice as the only GPU; among others vLLM cannot name one (0.32.0 platforms/cuda.py).
    """
    found = []
    driver = plan.host.driver
    needed, runs = plan.engine.cuda, driver.cuda if driver else None
    if needed and runs and version_parts(needed)[0] > version_parts(runs)[0]:
        name = (driver.version if driver else None) or "of unknown version"
        expected = f"CUDA {needed}: only {plan.engine.image} has the compatibility libraries that bridge this"
        fix = "update the NVIDIA driver, or use `--runtime compose`"
        found.append(error("image-only", found=f"driver {name} runs CUDA {runs}", expected=expected, fix=fix))
    used = {uuid for replica in plan.replicas for uuid in replica.gpu_uuids}
    slices = [gpu for gpu in plan.host.gpus if gpu.mig_slice is not None and gpu.uuid in used]
    if slices and sole_slice(plan.host) is None:
        found.append(
            error(
                "slice-among-others",
                found=f"MIG slice {slices[0].uuid} on a machine with other GPUs or slices",
                expected="one GPU with one slice: vLLM takes a slice's number for a GPU's",
                fix="use `--runtime compose`, which shows each engine its slice alone",
            )
        )
    by_place = {bool(replica.gpu_uuids) for replica in plan.replicas}
    if len(by_place) > 1:
        found.append(
            error(
                "engines-of-two-kinds",
                found="one model on GPUs and another on the processor",
                expected="one kind of engine: each comes as packages of its own, and only one is installed",
                fix="use `--runtime compose`, whose images differ by model",
            )
        )
    return (*found, *_check_pictures(plan))


def _check_pictures(plan: Plan) -> Iterator[Finding]:
    """Name each model on the processor that takes pictures.

    The packages leave torchvision out, whose build on PyPI is one for CUDA (runtime/requirements/engine-cpu.override).
    """
    on_processor = {replica.model for replica in plan.replicas if not replica.gpu_uuids}
    for model in plan.models:
        if model.name in on_processor and "VLLM_ALLOWED_MEDIA_DOMAINS" in model.settings:
            yield warning(
                "no-torchvision",
                found=f"{model.name[:80]} takes pictures, and the packages of the CPU engine come without torchvision",
                expected="a model for which vLLM does not need it, such as one of Idefics3's or SmolVLM's architecture",
                fix="use `--runtime compose`, whose image has it",
            )
