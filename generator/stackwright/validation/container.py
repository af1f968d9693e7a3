"""Asks the container engine what rules and plans cannot know: which images are here, what a container with GPUs sees.

Starts the `docker` client, and through it one short-lived container that is removed again. Nothing is pulled.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from stackwright.domain.machine import ContainerAnswer, Seen, Unseen
from stackwright.runtime import Stack
from stackwright.runtime.docker import begin, end, reason_of

ASKED_S = 10.0
# A container with GPUs waits for the driver to wake them: about two seconds for each without persistence mode.
STARTED_S = 60.0
# The driver's own tool comes into the container with the driver; without it, the device files tell. /dev/dxg is WSL's.
LOOK = "nvidia-smi -L 2>/dev/null; ls -d /dev/nvidiactl /dev/dxg 2>/dev/null; true"
UUID = re.compile(r"\(UUID: ([A-Za-z0-9/-]{1,100})\)")


def find_missing_images(images: tuple[str, ...]) -> Seen[tuple[str, ...]]:
    """Return those of the images that the engine does not have."""
    code, _, said = _ask(["docker", "image", "inspect", "--format", "{{.Id}}", *images], ASKED_S)
    if code == 0:
        return ()
    missing = tuple(image for image in images if re.search(rf"(?i)no such image:? {re.escape(image)}\s", said + "\n"))
    return missing or Unseen(why=reason_of(said))


def find_images_folder() -> Seen[str]:
    """Return the folder on this machine where the engine keeps images."""
    code, folder, said = _ask(["docker", "info", "--format", "{{.DockerRootDir}}"], ASKED_S)
    if code != 0:
        return Unseen(why=reason_of(said))
    folder = folder.strip()
    there = os.environ.get("DOCKER_HOST", "unix:").startswith("unix:") and Path(folder).is_dir()
    return folder if there else Unseen(why=f"{folder[:120]} is on another machine, or in a virtual one")


def list_containers(stack: Stack) -> Seen[tuple[str, ...]]:
    """Return the whole ids of this stack's running containers."""
    label = f"label=com.docker.compose.project={stack.name}"
    code, ids, said = _ask(["docker", "ps", "--quiet", "--no-trunc", "--filter", label], ASKED_S)
    return tuple(ids.split()) if code == 0 else Unseen(why=reason_of(said))


def look_from_inside(stack: Stack, uuids: tuple[str, ...], limit_s: float = STARTED_S) -> Seen[ContainerAnswer]:
    """Start a container of the engine's image as the stack would, with its GPUs and its user, and ask what it sees."""
    name = f"{stack.name}-gpu-check-{os.getpid()}"
    closed = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"]
    user = f"--user={stack.env['STACKWRIGHT_UID']}:{stack.env['STACKWRIGHT_GID']}"
    devices = f'--gpus="device={",".join(uuids)}"'
    command = ["docker", "run", "--rm", f"--name={name}", "--pull=never", *closed, user, devices]
    command += ["--entrypoint=/bin/sh", stack.env[stack.engine.keys.image], "-c", LOOK]
    code, seen, said = _ask(command, limit_s)
    if code is None:
        _ask(["docker", "rm", "--force", name], ASKED_S)
        return Unseen(why=said)
    if code != 0:
        return ContainerAnswer(refusal=reason_of(said), uuids=(), has_devices=False, named=False)
    found = tuple(UUID.findall(seen))
    return ContainerAnswer(refusal=None, uuids=found, has_devices="/dev/" in seen, named=bool(found))


def _ask(command: list[str], limit_s: float) -> tuple[int | None, str, str]:
    """Run the client; return its exit code, None where it took too long, and what it said on either output."""
    try:
        client = begin(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as failure:
        return 127, "", f"the docker client cannot be run: {failure.strerror}"
    try:
        out, err = client.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        end(client)
        client.communicate()
        return None, "", f"no answer in {limit_s:g} seconds"
    except BaseException:
        end(client)
        raise
    return client.returncode, out.decode(errors="replace"), err.decode(errors="replace")
