"""The compose runtime: the rendered files under Docker Compose v2, through python-on-whales.

Touches the container engine that the `docker` client reaches; reads the rendered files and writes none.

What Compose and the engine do was read from Compose 2.26.1 with Engine 20.10 and from the Compose specification of
2026-06: `up --detach` returns only once every `depends_on: service_healthy` holds, so it runs beside the watcher.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from msgspec.structs import replace

from stackwright.domain.service import UP, Service, ServicePhase, ServiceState, Word
from stackwright.errors import RuntimeRefusedError
from stackwright.rendering.numbered import key_of
from stackwright.runtime import Beside, ClientAnswer, Glance, LogLine, LogRequest, Say, ServiceChange, Stack, Trial
from stackwright.runtime.activity import container_processes, container_traces, measure
from stackwright.runtime.docker import (
    TELLS_WITHIN_S,
    ask,
    begin,
    build,
    client_words,
    compose_words,
    end,
    need_command,
    pull,
    read_events,
    read_inspect,
    recipe_of,
    refusals,
    refused,
)
from stackwright.runtime.inspected import Inspected, read_inspected
from stackwright.runtime.ports import http_text
from stackwright.runtime.process_groups import end_orphans
from stackwright.runtime.trial import (
    container_words,
    gpu_words,
    run_in_container,
    text_in_container,
    variables_in_container,
)
from stackwright.services import base_of, stop_order

if TYPE_CHECKING:
    from python_on_whales import Container, DockerClient
    from python_on_whales.components.container.models import ContainerState

_HALF_MADE = re.compile(r"[0-9a-f]{12}_")


class ComposeRuntime:
    """Brings a stack up and down with `docker compose`."""

    name = "compose"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._up: subprocess.Popen[bytes] | None = None
        self._up_errors: IO[bytes] | None = None
        self._merged: dict[str, Any] | None = None
        self._asked: tuple[str, ...] = ()
        self._ran_before: frozenset[tuple[str, datetime | None]] = frozenset()
        self._replaced: frozenset[str] = frozenset()
        self._seen: dict[str, str] = {}
        self._docker: DockerClient | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing: Compose runs everything that the plan has."""
        return ()

    def merged(self) -> dict[str, Any]:
        """Return what Compose makes of base file, override and environment files; no daemon is needed for it.

        Asked once: an environment's files do not change while a command holds it. The JSON form, because the typed one
        of python-on-whales 0.81 drops GPU reservations.

        Raises:
            RuntimeRefusedError: Compose does not accept the files, or is not there.
        """
        if self._merged is None:
            with refusals():
                self._merged = self._client().compose.config(return_json=True)
        return self._merged

    def prepare(self, say: Say) -> None:
        """Check that the files are accepted, and have every image that the engine lacks: those of ours are built.

        Raises:
            RuntimeRefusedError: no engine answers, Compose refuses the files, or an image cannot be had.
        """
        end_orphans()
        wanted = self._images()
        with refusals():
            missing = {image: name for image, name in wanted.items() if not self._client().image.exists(image)}
        keys = {service.name: key_of(self._stack.plan, service.image) for service in self._stack.services}
        for image, name in missing.items():
            recipe = recipe_of(self._stack.root, image)
            if recipe is not None:
                build(self._client(), image, name, recipe, say)
            else:
                pull(self._client(), image, name, say, keys.get(name))

    def _images(self) -> dict[str, str]:
        """Return the images of the merged file, each with a service that uses it."""
        return {service["image"]: name for name, service in self.merged()["services"].items()}

    def trial(self, service: Service, words: Iterable[Word]) -> Trial | None:
        """Return the place of a service, in a container of its own that is removed again; None without its image."""
        place = self._place(service, "asked", ["--network=none", *gpu_words(service.resources.gpu_uuids)])
        if place is None:
            return None
        installed, variables, run = place
        texts = tuple(text_in_container(self._stack, word) for word in words)
        return Trial(installed=installed, variables=variables, texts=texts, run=run)

    def beside(self, service: Service) -> Beside | None:
        """Return the place of a service, in a container that shares the front's network, so that loopback is its own.

        Raises:
            RuntimeRefusedError: the front does not run, or the engine does not answer.
        """
        front = self._stack.front
        running = (glance for glance in self.glance(TELLS_WITHIN_S) if glance.state.name == front.name)
        found = next((one for one in running if one.state.phase in UP and one.identity is not None), None)
        if found is None:
            raise RuntimeRefusedError(f"{self._stack.name}: {front.name} does not run", hint=None)
        place = self._place(service, "load", [f"--network=container:{found.identity}"])
        port = None if front.port is None else front.port.number
        return None if place is None else Beside(run=place[2], port=port)

    def _place(
        self, service: Service, purpose: str, options: Sequence[str]
    ) -> tuple[str, dict[str, str], Callable[[str, str, float], ClientAnswer]] | None:
        """Return what a service's image is, its variables, and what runs Python in it; None without the image."""
        merged, docker = self.merged()["services"][service.name], client_words(self._client())
        image, name = merged["image"], f"{self._stack.name}-{service.name}-{purpose}"
        with refusals():
            if not self._client().image.exists(image):
                return None
            installed = self._client().image.inspect(image).id
        variables = variables_in_container(merged)
        words = [*options[:1], *container_words(merged), *options[1:], "--entrypoint=python3", image, "-c"]
        return (
            str(installed),
            variables,
            lambda source, given, limit_s: run_in_container(docker, name, [*words, source], variables, given, limit_s),
        )

    def owner(self) -> Path | None:
        """Return the folder whose compose.yaml the containers under this name were made from."""
        with refusals():
            labels = [container.config.labels or {} for container in self._containers()]
        folders = [label.get("com.docker.compose.project.working_dir") for label in labels]
        return next((Path(folder).parent for folder in folders if folder), None)

    def changes(self) -> tuple[ServiceChange, ...]:
        """Compare the hash that Compose gives each service now with the one that its container was made with.

        Raises:
            RuntimeRefusedError: the engine does not answer, or Compose refuses the files.
        """
        wanted = self._hashes()
        with refusals():
            made = {_label(container, "service"): container for container in self._containers()}
            found: list[tuple[str, str | None]]
            found = [(name, _why(made.get(name), wanted[name])) for name in _names(self._stack) if name in wanted]
        found += [(name, "the plan no longer has it") for name in made if name not in wanted]
        return tuple(ServiceChange(name=name, reason=reason) for name, reason in found if reason)

    def _hashes(self) -> dict[str, str]:
        answer = ask([*compose_words(self._client()), "config", "--hash", "*"])
        if answer.code != 0:
            raise refused(answer.err)
        return dict(line.split() for line in answer.out.splitlines() if len(line.split()) == 2)

    def reads(self) -> Mapping[str, str]:
        """Return a hash of the files and secrets that are mounted into each service: Compose's own has their names."""
        merged = self.merged()
        return {name: hash_of_mounted(service, merged) for name, service in merged["services"].items()}

    def up(self, services: tuple[str, ...] = (), *, anew: bool = False) -> None:
        """Ask Compose for these services alone, or all, in a process that waits for the health of dependencies."""
        if self._up is not None and self._up.poll() is None:
            if self._asked == services:
                return
            self._up.wait()
        with refusals():
            containers = self._drop_half_made(self._containers())
            wanted = self._hashes() if containers else {}
            self._ran_before = frozenset(_run_of(container) for container in containers)
            self._replaced = frozenset(
                container.id
                for container in containers
                if _made_otherwise(container, wanted) or (anew and _label(container, "service") in services)
            )
            arguments = ["up", "--detach", "--no-build", "--quiet-pull"]
            arguments += ["--force-recreate"] if anew else []
            arguments += ["--no-deps", *services] if services else ["--remove-orphans"]
            command = [*compose_words(self._client()), *arguments]
        self._end_up()
        self._asked = services
        self._up_errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process that writes it
        self._up = begin(command, stdout=subprocess.DEVNULL, stderr=self._up_errors)
        atexit.register(self._end_up)

    def services(self) -> tuple[ServiceState, ...]:
        """Report every service of the plan, dependencies first.

        Raises:
            RuntimeRefusedError: the engine does not answer, or Compose gave up for a reason of its own. That a
                dependency exited or turned unhealthy is not one: the states tell it.
        """
        starting = self._up is not None and self._up.poll() is None
        gave_up = self._gave_up()
        with refusals():
            found = dict(self._states(starting=starting or gave_up))
        absent = ServicePhase.WAITING if starting else ServicePhase.ABSENT
        states = [found.get(name, ServiceState(name=name, phase=absent)) for name in _names(self._stack)]
        front = _names(self._stack).index(self._stack.front.name)
        # Until Compose has come to what clients ask, a healthy one is the old one, about to be replaced.
        if starting and states[front].phase is ServicePhase.HEALTHY:
            states[front] = ServiceState(name=states[front].name, phase=ServicePhase.WAITING)
        # Compose gives up on a dependency at its first fall, even where the restart policy then sets it up again.
        if gave_up and {state.phase for state in states[:front]} == {ServicePhase.HEALTHY}:
            self.up()
        return tuple(states)

    def logs(self, service: str, lines: int) -> str:
        """Return the last `lines` lines of one service's log, oldest first; empty where it has no container."""
        if service in self._seen:
            # By its id and at once: python-on-whales asks twice more what is known since the last look.
            words = [*client_words(self._client()), "logs", f"--tail={lines}", self._seen[service]]
            answer = ask(words, one_stream=True)
            if answer.code == 0:
                return answer.out
        with refusals():
            containers = self._containers(f"com.docker.compose.service={service}")
            return str(containers[0].logs(tail=lines)) if containers else ""

    def events(self) -> str:
        """Return what Docker noted about the containers of this stack in the last hour; empty where it does not say."""
        return read_events(client_words(self._client()), self._stack.name)

    def inspect(self) -> str:
        """Return what `docker inspect` tells of the containers of this stack."""
        with refusals():
            identities = [container.id for container in self._containers()]
        return read_inspect(client_words(self._client()), identities)

    def halt(self) -> None:
        """End an `up` that is under way."""
        self._end_up()

    def end(self, service: str, *, kill: bool = False) -> None:
        """Signal its container; an engine does not start again what was signalled through it (moby, daemon/kill.go)."""
        with refusals():
            containers = self._containers(f"com.docker.compose.service={service}")
        number = "SIGKILL" if kill else "SIGTERM"
        for container in containers:
            ask([*client_words(self._client()), "kill", f"--signal={number}", container.id], TELLS_WITHIN_S)

    def prove(self) -> None:
        """Lift the limit of restarts, which the engine counts over a container's whole life (moby, restartmanager.go).

        Where it refuses, the limit of a start stays: no reason to undo one that has answered.
        """
        with suppress(RuntimeRefusedError), refusals():
            ids = [container.id for container in self._containers()]
            ask([*client_words(self._client()), "update", "--restart=on-failure", *ids], TELLS_WITHIN_S)

    def down(self) -> None:
        """Stop and remove the containers and networks of this stack, replicas that the plan has lost included."""
        self._end_up()
        end_orphans()
        with refusals():
            containers = self._containers()
        for group in stop_order(self._stack.services)[:-1]:
            names = {service.name for service in group}
            end_containers([container.id for container in containers if _label(container, "service") in names])
        down_by_name(self._stack.name)

    def glance(self, limit_s: float) -> tuple[Glance, ...]:
        """Report every service with two questions to the client: python-on-whales alone takes longer to be imported.

        Raises:
            RuntimeRefusedError: the engine does not answer in time.
        """
        need_command()
        labels = [f"label=com.docker.compose.project={self._stack.name}", "label=com.docker.compose.oneoff=False"]
        filters = [word for label in labels for word in ("--filter", label)]
        listed = _asked(["docker", "ps", "--all", "--quiet", "--no-trunc", *filters], limit_s).split()
        told = _asked(["docker", "inspect", *listed], limit_s) if listed else "[]"
        found = {row.service: self._glance(row) for row in map(read_inspected, json.loads(told))}
        absent = {
            name: Glance(state=ServiceState(name=name, phase=ServicePhase.ABSENT)) for name in _names(self._stack)
        }
        return tuple({**absent, **found}.values())

    def _glance(self, row: Inspected) -> Glance:
        service = self._stack.service(row.service)
        port = service.port.number if service is not None and service.port is not None else None
        address = row.reachable_address() if port is not None else None
        state = _service_state(row.service, row, row.restarts)
        return Glance(
            state=replace(state, traces=container_traces(row.id, row.started_at)),
            image=row.image,
            pids=container_processes(row.pid, row.id),
            address=None if address is None or port is None else (address, port),
            identity=row.id,
            revision=row.labels.get("com.docker.compose.config-hash"),
            owner=None if row.folder is None else Path(row.folder).parent,
        )

    def fetch(self, glance: Glance, path: str, limit_s: float) -> str | None:
        """Ask a container on the network that it shares with this machine, or else from inside of it."""
        if glance.address is not None:
            return http_text(*glance.address, path, limit_s)
        service = self._stack.service(glance.state.name)
        if service is None or service.port is None or glance.identity is None:
            return None
        # Every image has Python: its health check is written in it.
        url = f"http://127.0.0.1:{service.port.number}{path}"
        source = f"import sys, urllib.request as u; sys.stdout.write(u.urlopen({url!r}, timeout=4).read().decode())"
        answer = ask(["docker", "exec", glance.identity, "python3", "-c", source], limit_s)
        return answer.out if answer.code == 0 else None

    def revisions(self) -> Mapping[str, str]:
        """Return the hash that Compose gives each service now.

        Raises:
            RuntimeRefusedError: Compose refuses the files, or does not answer.
        """
        words = ["docker", "compose", "--project-name", self._stack.name]
        words += [word for path in _env_files(self._stack) for word in ("--env-file", str(path))]
        words += [word for path in _compose_files(self._stack) for word in ("--file", str(path))]
        told = _asked([*words, "config", "--hash", "*"], TELLS_WITHIN_S)
        return dict(line.split() for line in told.splitlines() if len(line.split()) == 2)

    def read_logs(self, request: LogRequest) -> Iterator[LogLine]:
        """Let Compose tell them, which also finds the containers that come later."""
        need_command()
        # Compose clears the line before each one of a log, also where no terminal reads it (2.26.1, seen).
        clearing = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
        words = ["docker", "compose", "--project-name", self._stack.name, "logs", "--no-color"]
        words += [] if request.tail is None else [f"--tail={request.tail}"]
        words += [] if request.since_s is None else [f"--since={request.since_s}s"]
        words += ["--follow"] if request.follow else []
        words += ["--timestamps"] if request.times else []
        command = [*words, *request.services]
        with begin(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, folder="/") as client:
            try:
                for line in client.stdout or ():
                    prefix, _, text = line.decode(errors="replace").rstrip("\n").partition("| ")
                    at, _, rest = text.partition(" ") if request.times else (None, "", text)
                    yield LogLine(re.sub(r"-[0-9]+\s*$", "", clearing.sub("", prefix)), rest, at)
                refusal = (client.stderr.read() if client.stderr else b"").decode(errors="replace")
                if client.wait() != 0:
                    raise refused(refusal)
            finally:
                end(client)

    def _client(self) -> DockerClient:
        """Make the client for this stack's files, without asking the engine anything."""
        if self._docker is None:
            from python_on_whales import DockerClient

            need_command()
            self._docker = DockerClient(
                compose_files=list(_compose_files(self._stack)),
                compose_env_files=list(_env_files(self._stack)),
                compose_project_name=self._stack.name,
            )
        return self._docker

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
            self._seen[name] = container.id
            found = replace(found, traces=container_traces(container.id, state.started_at))
            if found.phase in (ServicePhase.STARTING, ServicePhase.UNHEALTHY):
                found = replace(found, effort=measure(container_processes(state.pid or 0, container.id)))
            ended = found.phase is ServicePhase.EXITED and _run_of(container) in self._ran_before
            if starting and (ended or container.id in self._replaced):
                found = ServiceState(name=name, phase=ServicePhase.WAITING)
            yield name, found

    def _containers(self, *labels: str) -> list[Container]:
        filters = [f"com.docker.compose.project={self._stack.name}", "com.docker.compose.oneoff=False", *labels]
        return self._client().container.list(all=True, filters=[("label", label) for label in filters])

    def _drop_half_made(self, containers: list[Container]) -> list[Container]:
        """Remove what an `up` that was ended between making a container anew and naming it has left; return the rest.

        Until then its name is the old one's id before the name (Compose 2.26.1), and a second attempt finds it taken.
        """
        half_made = [
            container
            for container in containers
            if _HALF_MADE.match(container.name) and container.state.status == "created"
        ]
        for container in half_made:
            container.remove(force=True)
        return [container for container in containers if container not in half_made]

    def _gave_up(self) -> bool:
        """Return whether the last `up` ended early over a dependency; raise where it ended with any other refusal."""
        if self._up is None or self._up.poll() in (None, 0) or self._up_errors is None:
            return False
        self._up_errors.seek(0)
        text = self._up_errors.read().decode(errors="replace")
        if "dependency failed to start" not in text:
            raise self._refused(text)
        return True

    def _refused(self, text: str) -> RuntimeRefusedError:
        """Return the refusal; of a port that another program has, with the setting of the service that wants it."""
        refusal = refused(text)
        for _, setting in filter(None, (service.published for service in self._stack.services)):
            if re.search(rf":{self._stack.value(setting)}\b.*already", refusal.message):
                return RuntimeRefusedError(
                    refusal.message, hint=f"{refusal.hint}, or choose another with --set {setting.key}=..."
                )
        return refusal

    def _end_up(self) -> None:
        """End a running `up`, so that it starts nothing more."""
        atexit.unregister(self._end_up)
        if self._up is not None:
            end(self._up)
        if self._up_errors is not None:
            self._up_errors.close()
        self._up = self._up_errors = None


def end_containers(containers: Sequence[str]) -> None:
    """Stop some containers side by side, each in the time that it was made with. Raises RuntimeRefusedError."""
    answer = ask(["docker", "stop", *containers]) if containers else None
    if answer is not None and answer.code != 0 and "No such container" not in answer.err:
        raise refused(answer.err)


def down_by_name(project: str) -> None:
    """Stop and remove what Compose has made under a name, found by its labels: no file is needed.

    In a folder without a Compose file, which it would read instead.

    Raises:
        RuntimeRefusedError: the engine refuses.
    """
    need_command()
    answer = ask(["docker", "compose", "--project-name", project, "down", "--remove-orphans"], folder="/")
    if answer.code != 0:
        raise refused(answer.err)


def hash_of_mounted(service: Mapping[str, Any], merged: Mapping[str, Any]) -> str:
    """Return a hash of what the regular files hold that a service of the merged file mounts; folders are left out."""
    mounted = [Path(volume["source"]) for volume in service.get("volumes") or () if volume["type"] == "bind"]
    mounted += [Path(merged["secrets"][secret["source"]]["file"]) for secret in service.get("secrets") or ()]
    digest = hashlib.sha256()
    for path in sorted(mounted):
        with suppress(OSError):  # missing: Compose says so itself
            if path.is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def command_by_hand(stack: Stack) -> str:
    """Return the shell line, relative to the project folder, that brings the stack up without Stackwright."""
    words = ["docker", "compose"]
    for path in _env_files(stack):
        words += ["--env-file", str(path.relative_to(stack.root))]
    for path in _compose_files(stack):
        words += ["-f", str(path.relative_to(stack.root))]
    return shlex.join([*words, "up", "-d"])


def _env_files(stack: Stack) -> Iterator[Path]:
    """Yield the files that Compose interpolates from; the later wins."""
    local = stack.local or stack.paths.local
    yield stack.paths.rendered
    if local.exists():
        yield local


def _compose_files(stack: Stack) -> Iterator[Path]:
    yield stack.root / "compose" / base_of(stack.plan)
    yield stack.generated / "override.yaml"


def _names(stack: Stack) -> tuple[str, ...]:
    """Return the names of the plan's services, what others wait for first."""
    return tuple(service.name for service in stack.services)


def _asked(words: list[str], limit_s: float) -> str:
    """Return what the client says. Raises RuntimeRefusedError where it refuses, or takes too long."""
    answer = ask(words, limit_s)
    if answer.code != 0:
        raise refused(answer.err)
    return answer.out


def _service_state(name: str, state: ContainerState | Inspected, restarts: int) -> ServiceState:
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


def _label(container: Container, name: str) -> str:
    return (container.config.labels or {}).get(f"com.docker.compose.{name}", "")


def _made_otherwise(container: Container, wanted: Mapping[str, str]) -> bool:
    """Return whether a container was made with other settings than its service has by these hashes."""
    made = _label(container, "config-hash")
    return made != wanted.get(_label(container, "service"), made)


def _why(container: Container | None, wanted: str) -> str | None:
    """Return why Compose would start a service, or make its container anew; None where it would not."""
    if container is None:
        return "it is not running"
    if _made_otherwise(container, {_label(container, "service"): wanted}):
        return "its settings have changed"
    return None if container.state.status in ("running", "restarting") else "it has ended"


def _run_of(container: Container) -> tuple[str, datetime | None]:
    """Name one run of a container: it keeps its id when it is started again."""
    return container.id, container.state.started_at


def _health_phase(health: str | None) -> ServicePhase:
    """Return the phase of a running container; one without a health check counts as healthy."""
    return {"starting": ServicePhase.STARTING, "unhealthy": ServicePhase.UNHEALTHY}.get(
        health or "", ServicePhase.HEALTHY
    )
