"""Fetch images. Touches the container engine."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Say
from stackwright.runtime.docker import begin, end, reason_of, refusals

if TYPE_CHECKING:
    from python_on_whales import DockerClient

IMAGE_VARIABLES = {"gateway": "LITELLM_IMAGE", "redis": "REDIS_IMAGE"}
ENGINE_IMAGE_VARIABLE = "VLLM_IMAGE"


def open_client() -> DockerClient:
    """Return a client of the engine that the `docker` command reaches; nothing is asked yet."""
    from python_on_whales import DockerClient

    return DockerClient()


def is_here(docker: DockerClient, image: str) -> bool:
    """Say whether the engine has an image. Raises RuntimeRefusedError where none answers."""
    with refusals():
        return bool(docker.image.exists(image))


def pull(docker: DockerClient, image: str, service: str, say: Say) -> str | None:
    """Pull one image, telling how many of its layers are there; return the digest that the engine says it has.

    Raises:
        RuntimeRefusedError: it cannot be had.
    """
    say(service, f"pulling {image}")
    command = [str(word) for word in docker.client_config.docker_cmd] + ["pull", image]
    layers: set[str] = set()
    done: set[str] = set()
    last, digest = "", None
    # One stream for both outputs: the engine's reason is then its last line.
    with begin(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        try:
            for line in client.stdout or ():
                last = line.decode(errors="replace").strip() or last
                layer, _, event = last.partition(": ")
                digest = event if layer == "Digest" else digest
                if event == "Pulling fs layer":
                    layers.add(layer)
                if event in ("Pull complete", "Already exists") and layer not in done:
                    done.add(layer)
                    say(service, f"pulling {image}: {len(done)} of {len(layers | done)} layers")
        except BaseException:
            end(client)
            raise
    if client.returncode != 0:
        raise _pull_refused(image, service, last)
    return digest


def _pull_refused(image: str, service: str, last: str) -> RuntimeRefusedError:
    variable = IMAGE_VARIABLES.get(service, ENGINE_IMAGE_VARIABLE)
    return RuntimeRefusedError(
        f"{service}: image {image} cannot be pulled: {reason_of(last)}",
        hint=f"name one that this machine can reach: --set {variable}=...; or build one: compose/images/",
    )
