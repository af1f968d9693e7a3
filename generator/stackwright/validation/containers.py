"""The container engine: new enough for the files, and able to hand the plan's GPUs to a container.

A look starts the `docker` client, and through it one short-lived container that is removed again. Nothing is pulled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from stackwright.detect.capacity import read_disk
from stackwright.detect.containers import release
from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.host import GpuAccess, Host, newer_driver
from stackwright.domain.machine import ContainerAnswer, Disk, Seen, Unseen
from stackwright.domain.plan import Plan
from stackwright.domain.topology import sole_slice
from stackwright.engines import engine_named
from stackwright.runtime import Stack
from stackwright.runtime.docker import ask, reason_of
from stackwright.runtime.trial import gpu_words
from stackwright.units import version_parts
from stackwright.validation.check import (
    GPUS_IN_CONTAINERS,
    IN_CONTAINERS,
    WITHOUT_CONTAINERS,
    Check,
    Machine,
    Observation,
    Subject,
)
from stackwright.validation.gpus import used_gpus

# Each with why: `docker run --pull`, which the GPU check needs, and the oldest engine that a whole stack was brought up
# with (docs/proven.md) are both 20.10.
OLDEST_ENGINE = (20, 10)
# Two `--env-file` are merged from 2.17 on (docker/compose pull request 10284); 2.16 takes the last one alone (issue
# 10436).
OLDEST_COMPOSE = (2, 17)
ASKED_S = 10.0
# A container with GPUs waits for the driver to wake them: about two seconds for each without persistence mode.
STARTED_S = 60.0
# The driver's own tool comes into the container with the driver; without it, the device files tell. /dev/dxg is WSL's.
LOOK = "nvidia-smi -L 2>/dev/null; ls -d /dev/nvidiactl /dev/dxg 2>/dev/null; true"
UUID = re.compile(r"\(UUID: ([A-Za-z0-9/-]{1,100})\)")


def check_versions(plan: Plan, host: Host) -> Iterator[Finding]:
    """Compare the versions of engine and Compose with the oldest that the files work with."""
    containers, name = host.containers, plan.environment.value
    other = f"or `start-environment {name} --runtime processes`"
    if containers.engine != "docker":
        yield not_checked("the container engine's version", f"{containers.engine} is not Docker", name)
    elif not any(found := release(containers.version)):
        yield not_checked("Docker's version", f"unreadable version {containers.version}", name)
    elif found < OLDEST_ENGINE:
        expected = "20.10 or newer, the oldest tested version"
        fix = f"update Docker Engine (docs.docker.com/engine/install), {other}"
        yield error("docker-version", found=f"Docker Engine {containers.version}", expected=expected, fix=fix)
    if not any(found := release(containers.compose)):
        yield not_checked("Compose's version", f"unreadable version {containers.compose}", name)
    elif found < OLDEST_COMPOSE:
        expected = "2.17 or newer, which reads two env files"
        fix = f"update the Compose plugin (docs.docker.com/compose/install), {other}"
        yield error("compose-version", found=f"Compose {containers.compose}", expected=expected, fix=fix)


def check_user(plan: Plan, env: Mapping[str, str], host: Host) -> Iterator[Finding]:
    """Find containers that run as root: they have no capabilities, but what they may write is root's own.

    Root of a rootless engine is an ordinary user of this host, and its other users own nothing here.
    """
    if host.containers.rootless:
        if env["STACKWRIGHT_UID"] != "0":
            yield error(
                "container-user",
                found=f"STACKWRIGHT_UID={env['STACKWRIGHT_UID']}, who owns no file of yours: the engine is rootless",
                expected="0: root of a rootless engine is the user who runs it",
                fix=f"`configure-gpu {plan.environment.value}`, without a pin of STACKWRIGHT_UID",
            )
    elif env["STACKWRIGHT_UID"] == "0":
        yield warning(
            "container-root",
            found="containers run as root (STACKWRIGHT_UID=0), since root configured the stack",
            expected="an ordinary user, to limit what a compromised service can reach",
            fix=(
                f"`configure-gpu {plan.environment.value}` as an ordinary user with access to Docker, in a "
                "folder of their own"
            ),
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
        yield warning("gpu-access", found=found, expected="GPU access for containers", fix=toolkit)
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
        yield error(
            "gpu-container", found=f"a container with GPUs does not start: {seen.refusal}", expected=expected, fix=fix
        )
    elif seen.named:
        missing = [uuid for uuid in used_gpus(plan) if uuid not in seen.uuids]
        if missing:
            found = f"a container does not see {', '.join(missing)}"
            yield error("gpu-container", found=found, expected=expected, fix=fix)
    elif not seen.has_devices:
        found = "a container with GPUs has neither nvidia-smi nor a GPU device file"
        yield error("gpu-container", found=found, expected=expected, fix=fix)


def check_processes(plan: Plan) -> tuple[Finding, ...]:
    """Find what the plan needs of containers, where the engine is to run without them.

    The image brings CUDA's compatibility libraries, which let an older driver run a newer major release of CUDA; the
    packages that are installed in its place have none (docs/decisions/0010-image-planner.md). And a container shows an
    engine its MIG slice as the only GPU; among others it may take another's.
    """
    found = []
    title = engine_named(plan.engine.name).title
    driver = plan.host.driver
    needed, runs = plan.engine.cuda, driver.cuda if driver else None
    if needed and runs and version_parts(needed)[0] > version_parts(runs)[0]:
        name = (driver.version if driver else None) or "of unknown version"
        expected = f"CUDA {needed}: only {plan.engine.image} has the compatibility libraries for this driver"
        fix = f"{newer_driver(plan.host.os, needed)}, or use `--runtime compose`"
        found.append(error("image-only", found=f"driver {name} runs CUDA {runs}", expected=expected, fix=fix))
    used = {uuid for replica in plan.replicas for uuid in replica.gpu_uuids}
    slices = [gpu for gpu in plan.host.gpus if gpu.mig_slice is not None and gpu.uuid in used]
    if slices and sole_slice(plan.host) is None:
        found.append(
            error(
                "slice-among-others",
                found=f"MIG slice {slices[0].uuid} beside other GPUs or slices",
                expected=f"one GPU with one slice: {title} takes a slice's number for a GPU's",
                fix="use `--runtime compose`, which gives each engine only its slice",
            )
        )
    by_place = {bool(replica.gpu_uuids) for replica in plan.replicas}
    if len(by_place) > 1:
        found.append(
            error(
                "engines-of-two-kinds",
                found="one model on GPUs and another on the processor",
                expected="one kind of engine: only one engine's packages can be installed",
                fix="use `--runtime compose`, with an image for each model",
            )
        )
    return (*found, *_check_pictures(plan))


def _check_pictures(plan: Plan) -> Iterator[Finding]:
    """Name each model on the processor that takes pictures.

    The packages leave torchvision out, whose build on PyPI is one for CUDA (engine-cpu.override beside the lock).
    """
    engine = engine_named(plan.engine.name)
    on_processor = {replica.model for replica in plan.replicas if not replica.gpu_uuids}
    for model in plan.models:
        if model.name in on_processor and engine.keys.media in model.settings:
            yield warning(
                "no-torchvision",
                found=f"{model.name[:80]} takes images, and the CPU engine's packages lack torchvision",
                expected=(
                    f"a model for which {engine.title} does not need it, such as one of Idefics3's or SmolVLM's "
                    "architecture"
                ),
                fix="use `--runtime compose`, whose image has it",
            )


class ContainerEngine(Struct, frozen=True, kw_only=True):
    """What the container engine has: room for images where one is missing, and what a container with the GPUs saw."""

    images: Seen[Disk] | None
    needs_cuda_image: bool
    has_engine_image: bool
    container: Seen[ContainerAnswer] | None


def inspect_engine(machine: Machine) -> ContainerEngine | None:
    """Ask which images are missing, and what a container with GPUs sees; None where Compose does not run the stack."""
    if not machine.compose:
        return None
    stack, host = machine.stack, machine.host
    image = stack.engine.keys.image
    missing = find_missing_images(tuple(dict.fromkeys(stack.value(service.image) for service in stack.services)))
    uuids = used_gpus(stack.plan)
    lacks_engine = isinstance(missing, Unseen) or stack.env[image] in missing
    container: Seen[ContainerAnswer] | None = None
    if isinstance(missing, Unseen) and uuids:
        container = missing
    elif uuids and not lacks_engine and not machine.runs and host.containers.engine == "docker":
        container = probe_container(stack, uuids)
    images: Seen[Disk] | None = None
    if isinstance(missing, Unseen):
        images = missing
    elif missing:
        folder = find_images_folder()
        images = folder if isinstance(folder, Unseen) else read_disk(Path(folder))
    cuda = stack.plan.engine.cuda is not None and stack.env[image] == stack.plan.engine.image
    return ContainerEngine(
        images=images,
        needs_cuda_image=cuda and lacks_engine,
        has_engine_image=not lacks_engine,
        container=container,
    )


def find_missing_images(images: tuple[str, ...]) -> Seen[tuple[str, ...]]:
    """Return those of the images that the engine does not have."""
    code, _, said = ask(["docker", "image", "inspect", "--format", "{{.Id}}", *images], ASKED_S)
    if code == 0:
        return ()
    missing = tuple(image for image in images if re.search(rf"(?i)no such image:? {re.escape(image)}\s", said + "\n"))
    return missing or Unseen(why=reason_of(said))


def find_images_folder() -> Seen[str]:
    """Return the folder on this machine where the engine keeps images."""
    code, folder, said = ask(["docker", "info", "--format", "{{.DockerRootDir}}"], ASKED_S)
    if code != 0:
        return Unseen(why=reason_of(said))
    folder = folder.strip()
    there = os.environ.get("DOCKER_HOST", "unix:").startswith("unix:") and Path(folder).is_dir()
    return folder if there else Unseen(why=f"{folder[:120]} is on another or a virtual machine")


def list_containers(stack: Stack) -> Seen[tuple[str, ...]]:
    """Return the whole ids of this stack's running containers."""
    label = f"label=com.docker.compose.project={stack.name}"
    code, ids, said = ask(["docker", "ps", "--quiet", "--no-trunc", "--filter", label], ASKED_S)
    return tuple(ids.split()) if code == 0 else Unseen(why=reason_of(said))


def probe_container(stack: Stack, uuids: tuple[str, ...], limit_s: float = STARTED_S) -> Seen[ContainerAnswer]:
    """Start a container of the engine's image as the stack would, with its GPUs and its user, and ask what it sees."""
    name = f"{stack.name}-gpu-check-{os.getpid()}"
    closed = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"]
    user = f"--user={stack.env['STACKWRIGHT_UID']}:{stack.env['STACKWRIGHT_GID']}"
    command = ["docker", "run", "--rm", f"--name={name}", "--pull=never", *closed, user, *gpu_words(uuids)]
    command += ["--entrypoint=/bin/sh", stack.env[stack.engine.keys.image], "-c", LOOK]
    code, seen, said = ask(command, limit_s)
    if code is None:
        ask(["docker", "rm", "--force", name], ASKED_S)
        return Unseen(why=said)
    if code != 0:
        return ContainerAnswer(refusal=reason_of(said), uuids=(), has_devices=False, named=False)
    found = tuple(UUID.findall(seen))
    return ContainerAnswer(refusal=None, uuids=found, has_devices="/dev/" in seen, named=bool(found))


def _check_access(on: Subject, engine: Seen[ContainerEngine] | None) -> Iterator[Finding]:
    return check_gpu_access(on.plan, on.host, engine.container if isinstance(engine, ContainerEngine) else engine)


CONTAINER_ENGINE = Observation(take=inspect_engine, waits=True, may_fail=True)


VERSIONS = Check(
    name="container engine",
    about="the versions of Docker Engine (20.10 or newer) and Compose (2.17 or newer)",
    findings=tuple("docker-version compose-version".split()),
    rule=lambda on: check_versions(on.plan, on.host),
    when=IN_CONTAINERS,
)


USER = Check(
    name="user",
    about="the user id of the containers",
    findings=tuple("container-root container-user".split()),
    rule=lambda on: check_user(on.plan, on.env, on.host),
    when=IN_CONTAINERS,
)


GPU_ACCESS = Check(
    name="GPUs in containers",
    about="CDI or NVIDIA's runtime; if the engine's image is present, the GPUs that a real container sees",
    findings=tuple("gpu-access gpu-container".split()),
    rule=_check_access,
    observations=(CONTAINER_ENGINE,),
    when=GPUS_IN_CONTAINERS,
)


GPUS_WITHOUT = Check(
    name="GPUs without containers",
    about=(
        "what only containers provide: CUDA's compatibility libraries, one MIG slice of several, "
        "GPU and CPU engines side by side, torchvision for images"
    ),
    findings=tuple("image-only slice-among-others engines-of-two-kinds no-torchvision".split()),
    rule=lambda on: check_processes(on.plan),
    when=WITHOUT_CONTAINERS,
)
