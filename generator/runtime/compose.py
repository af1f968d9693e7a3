"""The compose runtime: the rendered files under Docker Compose v2, through python-on-whales.

Touches the container engine that the `docker` client reaches; reads the rendered files and writes none.

What Compose and the engine do was read from Compose 2.26.1 with Engine 20.10 and from the Compose specification of
2026-06: `up --detach` returns only once every `depends_on: service_healthy` holds, so it runs beside the watcher.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from generator.domain.service import ServicePhase, ServiceState
from generator.errors import RuntimeRefusedError
from generator.runtime import Say, Stack

if TYPE_CHECKING:
    from python_on_whales import Container, DockerClient
    from python_on_whales.components.container.models import ContainerState

IMAGE_VARIABLES = {"gateway": "LITELLM_IMAGE", "redis": "REDIS_IMAGE"}
ENGINE_IMAGE_VARIABLE = "VLLM_IMAGE"
NO_ENGINE_HINT = "start Docker, or run without it: --runtime processes"

# Compose takes a moment to leave at SIGTERM; after this it is killed.
ENDS_WITHIN_S = 10

# What the engine says, and what to do about it. Looked for in the order given.
HINTS = (
    ("port is already allocated", "stop what uses the port, or choose another with --set GATEWAY_PORT=..."),
    ("address already in use", "stop what uses the port, or choose another with --set GATEWAY_PORT=..."),
    ("could not select device driver", "install the NVIDIA Container Toolkit and restart Docker"),
    ("permission denied while trying to connect", "join the docker group, or run without it: --runtime processes"),
    ("Cannot connect to the Docker daemon", NO_ENGINE_HINT),
    ("error during connect", NO_ENGINE_HINT),
    ("is not a docker command", "install Docker Compose v2, or run without it: --runtime processes"),
    ("unknown shorthand flag: 'f'", "install Docker Compose v2, or run without it: --runtime processes"),
)


class ComposeRuntime:
    """Brings a stack up and down with `docker compose`."""

    name = "compose"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._up: subprocess.Popen[bytes] | None = None
        self._up_errors: IO[bytes] | None = None
        self._ran_before: frozenset[tuple[str, datetime | None]] = frozenset()
        self._docker: DockerClient | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing: Compose runs everything that the plan has."""
        return ()

    def merged(self) -> dict[str, Any]:
        """Return what Compose makes of base file, override and environment files; no daemon is needed for it.

        The JSON form, because the typed one of python-on-whales 0.81 drops GPU reservations.

        Raises:
            RuntimeRefusedError: Compose does not accept the files, or is not there.
        """
        with _refusals():
            return self._client().compose.config(return_json=True)

    def prepare(self, say: Say) -> None:
        """Check that the files are accepted, and pull every image that the engine does not have.

        Raises:
            RuntimeRefusedError: no engine answers, Compose refuses the files, or an image cannot be had.
        """
        wanted = {service["image"]: name for name, service in self.merged()["services"].items()}
        with _refusals():
            missing = {image: name for image, name in wanted.items() if not self._client().image.exists(image)}
        for image, service in missing.items():
            self._pull(image, service, say)

    def up(self) -> None:
        """Ask Compose for every service, in a process of its own that waits for the health of dependencies."""
        if self._up is not None and self._up.poll() is None:
            return
        with _refusals():
            self._ran_before = frozenset(_run_of(container) for container in self._containers())
            arguments = ["up", "--detach", "--no-build", "--quiet-pull", "--remove-orphans"]
            command = [str(word) for word in self._client().client_config.docker_compose_cmd] + arguments
        self._end_up()
        self._up_errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process that writes it
        self._up = _begin(command, stdout=subprocess.DEVNULL, stderr=self._up_errors)
        atexit.register(self._end_up)

    def services(self) -> tuple[ServiceState, ...]:
        """Report every service of the plan, dependencies first.

        Raises:
            RuntimeRefusedError: the engine does not answer, or Compose gave up for a reason of its own. That a
                dependency exited or turned unhealthy is not one: the states tell it.
        """
        starting = self._up is not None and self._up.poll() is None
        gave_up = self._gave_up()
        with _refusals():
            found = dict(self._states(starting=starting or gave_up))
        absent = ServicePhase.WAITING if starting else ServicePhase.ABSENT
        states = [found.get(name, ServiceState(name=name, phase=absent)) for name in _names(self._stack)]
        # Until Compose has come to the gateway, a healthy one is the old one, about to be replaced.
        if starting and states[-1].phase is ServicePhase.HEALTHY:
            states[-1] = ServiceState(name=states[-1].name, phase=ServicePhase.WAITING)
        # Compose gives up on a dependency at its first fall, even where the restart policy then sets it up again.
        if gave_up and {state.phase for state in states[:-1]} == {ServicePhase.HEALTHY}:
            self.up()
        return tuple(states)

    def logs(self, service: str, lines: int) -> str:
        """Return the last `lines` lines of one service's log, oldest first; empty where it has no container."""
        with _refusals():
            containers = self._containers(f"com.docker.compose.service={service}")
            return str(containers[0].logs(tail=lines)) if containers else ""

    def down(self) -> None:
        """Stop and remove the containers and networks of this stack, replicas that the plan has lost included."""
        self._end_up()
        with _refusals():
            self._client().compose.down(remove_orphans=True, quiet=True)

    def _client(self) -> DockerClient:
        """Make the client for this stack's files, without asking the engine anything."""
        if self._docker is None:
            from python_on_whales import DockerClient

            if shutil.which("docker") is None:
                raise RuntimeRefusedError("no `docker` command on this machine", hint=NO_ENGINE_HINT)
            self._docker = DockerClient(
                compose_files=list(_compose_files(self._stack)),
                compose_env_files=list(_env_files(self._stack)),
                compose_project_name=self._stack.name,
            )
        return self._docker

    def _pull(self, image: str, service: str, say: Say) -> None:
        """Pull one image, telling how many of its layers are there."""
        say(service, f"pulling {image}")
        command = [str(word) for word in self._client().client_config.docker_cmd] + ["pull", image]
        layers: set[str] = set()
        done: set[str] = set()
        last = ""
        # One stream for both outputs: the engine's reason is then its last line.
        with _begin(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as pull:
            try:
                for line in pull.stdout or ():
                    last = line.decode(errors="replace").strip() or last
                    layer, _, event = last.partition(": ")
                    if event == "Pulling fs layer":
                        layers.add(layer)
                    if event in ("Pull complete", "Already exists") and layer not in done:
                        done.add(layer)
                        say(service, f"pulling {image}: {len(done)} of {len(layers | done)} layers")
            except BaseException:
                _end(pull)
                raise
        if pull.returncode != 0:
            raise _pull_refused(image, service, last)

    def _states(self, *, starting: bool) -> Iterator[tuple[str, ServiceState]]:
        """Read each container of the stack once. What Compose has yet to start again waits, however it ended."""
        from python_on_whales.exceptions import NoSuchContainer

        for container in self._containers():
            try:
                state, restarts, labels = container.state, container.restart_count, container.config.labels or {}
            except NoSuchContainer:  # removed between the list and the look
                continue
            name = labels["com.docker.compose.service"]
            found = _service_state(name, state, restarts or 0)
            if starting and found.phase is ServicePhase.EXITED and _run_of(container) in self._ran_before:
                found = ServiceState(name=name, phase=ServicePhase.WAITING)
            yield name, found

    def _containers(self, *labels: str) -> list[Container]:
        filters = [f"com.docker.compose.project={self._stack.name}", "com.docker.compose.oneoff=False", *labels]
        return self._client().container.list(all=True, filters=[("label", label) for label in filters])

    def _gave_up(self) -> bool:
        """Say whether the last `up` ended early over a dependency; raise where it ended with any other refusal."""
        if self._up is None or self._up.poll() in (None, 0) or self._up_errors is None:
            return False
        self._up_errors.seek(0)
        text = self._up_errors.read().decode(errors="replace")
        if "dependency failed to start" not in text:
            raise _refused(text)
        return True

    def _end_up(self) -> None:
        """End a running `up`, so that it starts nothing more."""
        atexit.unregister(self._end_up)
        if self._up is not None:
            _end(self._up)
        if self._up_errors is not None:
            self._up_errors.close()
        self._up = self._up_errors = None


def command_by_hand(stack: Stack) -> str:
    """Return the shell line, relative to the project folder, that brings the stack up without Stackwright."""
    words = ["docker", "compose"]
    for path in _env_files(stack):
        words += ["--env-file", str(path.relative_to(stack.root))]
    for path in _compose_files(stack):
        words += ["-f", str(path.relative_to(stack.root))]
    return shlex.join([*words, "up", "-d"])


def _begin(command: list[str], *, stdout: int, stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a client in a process group of its own, so that `_end` reaches the plugin that it starts in turn."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0)


def _end(client: subprocess.Popen[bytes]) -> None:
    """End a client and its plugin: Docker's client of 20.10 dies of a signal without passing it on."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # One signal, then only looking: a second one would cut the client's own cleaning up short.
        left = _signal_group(client, number)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = _signal_group(client, 0)


def _signal_group(client: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal, or none for 0, and say whether anything of the group is left to get it."""
    client.poll()  # takes the client's exit status, without which its group would live on
    try:
        os.killpg(client.pid, number)
    except ProcessLookupError:
        return False
    return True


def _env_files(stack: Stack) -> Iterator[Path]:
    """Yield the files that Compose interpolates from; the later wins."""
    generated = stack.root / "envs" / f".env.{stack.plan.environment.value}"
    local = generated.with_name(f"{generated.name}.local")
    yield generated
    if local.exists():
        yield local


def _compose_files(stack: Stack) -> Iterator[Path]:
    yield stack.root / "compose" / "compose.yaml"
    yield stack.generated / "override.yaml"


def _names(stack: Stack) -> tuple[str, ...]:
    """Return the services of the plan; the gateway is last, as it waits for the others."""
    return (*(replica.name for replica in stack.plan.replicas), "redis", "gateway")


def _service_state(name: str, state: ContainerState, restarts: int) -> ServiceState:
    """Turn what the engine says about one container into a phase."""
    detail = None
    exit_code = None
    match state.status:
        case "created":
            phase = ServicePhase.WAITING
        case "running":
            phase = _health_phase(state.health.status if state.health is not None else None)
        case "restarting":
            phase, detail = ServicePhase.STARTING, f"restarting after exit code {state.exit_code}"
        case "paused":
            phase, detail = ServicePhase.UNHEALTHY, "paused"
        case "exited" | "dead":
            phase, exit_code = ServicePhase.EXITED, state.exit_code
            detail = "out of memory" if state.oom_killed else (state.error or None)
        case _:  # being removed
            phase = ServicePhase.ABSENT
    return ServiceState(name=name, phase=phase, exit_code=exit_code, restarts=restarts, detail=detail)


def _run_of(container: Container) -> tuple[str, datetime | None]:
    """Name one run of a container: it keeps its id when it is started again."""
    return container.id, container.state.started_at


def _health_phase(health: str | None) -> ServicePhase:
    """Return the phase of a running container; one without a health check counts as healthy."""
    return {"starting": ServicePhase.STARTING, "unhealthy": ServicePhase.UNHEALTHY}.get(
        health or "", ServicePhase.HEALTHY
    )


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what python-on-whales raises into a refusal with the engine's own words."""
    from python_on_whales import DockerException

    try:
        yield
    except DockerException as failure:
        raise _refused(failure.stderr or str(failure)) from None


def _refused(text: str) -> RuntimeRefusedError:
    reason = _reason(text)
    hint = next((hint for words, hint in HINTS if words in text), None)
    return RuntimeRefusedError(f"Docker refused: {reason}", hint=hint)


def _pull_refused(image: str, service: str, last: str) -> RuntimeRefusedError:
    variable = IMAGE_VARIABLES.get(service, ENGINE_IMAGE_VARIABLE)
    return RuntimeRefusedError(
        f"{service}: image {image} cannot be pulled: {_reason(last)}",
        hint=f"name one that this machine can reach: --set {variable}=...; or build one: compose/images/",
    )


def _reason(text: str) -> str:
    """Return the line that says why: the last one, without the client's own prefixes and final period."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else "no reason given"
    for prefix in ("Error response from daemon: ", "Error: ", "ERROR: ", "docker: "):
        line = line.removeprefix(prefix)
    return line.rstrip(".")
