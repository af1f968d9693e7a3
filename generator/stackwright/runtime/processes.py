"""The processes runtime: the same plan without a container engine, run by supervisor.

Touches the state folder (`run/<stack>/`: supervisord's file and socket, start scripts, recorded process groups;
`logs/<stack>/`), the processes that it starts, and ports of this machine. The start scripts are Compose's own, so
no secret stands in argv or in a rendered file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from stackwright.atomic import replace_file
from stackwright.domain.recipe import Recipe
from stackwright.domain.service import (
    PROBE_RETRIES,
    CommandProbe,
    HttpProbe,
    Service,
    ServicePhase,
    ServiceState,
    SocketProbe,
    Traces,
    Word,
)
from stackwright.errors import RuntimeRefusedError
from stackwright.rendering.numbered import key_of
from stackwright.runtime import Beside, Glance, LogLine, LogRequest, Say, ServiceChange, Stack, Trial, supervisord
from stackwright.runtime.activity import group_traces, measure
from stackwright.runtime.docker import ask
from stackwright.runtime.log_files import read_log_files
from stackwright.runtime.ports import (
    choose_ports,
    command_succeeds,
    http_answers,
    http_text,
    is_free,
    socket_answers,
)
from stackwright.runtime.process_groups import (
    end_groups,
    end_orphans,
    end_programs,
    members,
    programs_with,
    read_groups,
    signal_groups,
)
from stackwright.runtime.programs import (
    LOOPBACK,
    Program,
    Provisions,
    check_shared_memory,
    command_of,
    exit_code,
    names_in_stop_order,
    render_start,
    render_supervisor,
    revision,
    revisions_in,
    stack_programs,
    stop_periods_in,
)
from stackwright.runtime.provision import ensure_all, environment_folder, is_complete
from stackwright.runtime.side_by_side import side_by_side

LOG_BYTES = 2**20
EVENT_LINES = 200
ROOT = "root"
"""The file in a run folder that names the project folder that it was made from."""

FOLLOWS_WITHIN_S = 10.0
"""After the services, each of which has its time to end and is killed then, supervisord itself takes a moment."""

STARTS_WITHIN_S = 60.0
"""Until every start script is at work: milliseconds, but 10 s were too few on two cores with a load of 60."""


class ProcessesRuntime:
    """Brings a stack up and down as processes of this user, watched over by supervisord."""

    name = "processes"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        state = stack.state.resolve()
        self._run = state / "run" / stack.name
        self._logs = state / "logs" / stack.name
        self._launched = False
        self._answered: set[str] = set()
        self._failures: dict[str, int] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What this machine lacks and how the stack does without it."""
        absent = self._absent(keep=supervisord.pid(self._run) is not None)
        missing = (service.as_process.missing for service in self._stack.services if service.name in absent)
        return tuple(sentence for sentence in missing if sentence is not None)

    def prepare(self, say: Say) -> None:
        """Install the virtual environments, unless they are there. Interrupting leaves nothing taken for whole.

        Raises:
            RuntimeRefusedError: they cannot be installed, or could not work here.
        """
        end_orphans()
        for service in self._stack.services:
            check_shared_memory(service, _shared_memory_bytes())
        self._virtual_environments(say)

    def trial(self, service: Service, words: Iterable[Word]) -> Trial | None:
        """Return the place of a service, as a process of this user; None without its virtual environment."""
        folders = self._folders()
        if service.kind not in folders or not is_complete(folders[service.kind]):
            return None
        machine = Provisions(
            virtual_environments=folders,
            ports=self._choose_ports(frozenset(), keep=True),
            shared_memory_bytes=_shared_memory_bytes(),
        )
        programs = stack_programs(self._stack, machine, os.environ)
        program = next(program for program in programs if program.name == service.name)
        python = str(folders[service.kind] / "bin" / "python")
        return Trial(
            installed=folders[service.kind].name,
            variables=program.environment,
            texts=command_of(self._stack, machine, service, words),
            run=lambda source, given, limit_s: ask(
                [python, "-c", source],
                limit_s,
                given=given,
                folder="/",
                variables={**program.inherited, **program.environment},
            ),
        )

    def beside(self, service: Service) -> Beside | None:
        """Return the place of a service; from everywhere on this machine the front is asked in one way."""
        place = self.trial(service, ())
        return None if place is None else Beside(run=place.run)

    def owner(self) -> Path | None:
        """Return the project folder whose start made the run folder."""
        text = _text(self._run / ROOT).strip()
        return Path(text) if text else None

    def _told(self) -> dict[str, str]:
        """Return the revision of each service that supervisord was told last."""
        return revisions_in(_text(self._run / "supervisord.conf"))

    def changes(self) -> tuple[ServiceChange, ...]:
        """Compare how each service would be started now with what supervisord was told last."""
        states = {state.name: state.phase for state in self.services()}
        told = self._told()
        wanted = self.revisions()
        found = []
        for name, wish in wanted.items():
            phase = states.get(name, ServicePhase.ABSENT)
            if phase in (ServicePhase.ABSENT, ServicePhase.EXITED):
                found.append((name, "it is not running" if phase is ServicePhase.ABSENT else "it has ended"))
            elif told.get(name) != wish:
                found.append((name, "its settings have changed"))
        found += [(name, "the plan no longer has it") for name in told if name not in wanted]
        return tuple(ServiceChange(name=name, reason=reason) for name, reason in found)

    def reads(self) -> Mapping[str, str]:
        """Return nothing: a program's revision has the files that it reads."""
        return {}

    def up(self, services: tuple[str, ...] = (), *, anew: bool = False) -> None:  # noqa: ARG002  # as `reads`
        """Write the files and let supervisord run them; what runs unchanged is left alone.

        Raises:
            RuntimeRefusedError: a port for the outside is taken, or supervisord does not start.
        """
        with supervisord.hold(self._run):
            running = supervisord.pid(self._run) is not None
            if not running:
                end_run(self._run)
                self._set_logs_aside("*")
            self._require_ports()
            machine = self._machine(keep=running)
            programs = stack_programs(self._stack, machine, os.environ)
            self._write(programs, machine, services)
            if running:
                self._update(services)
            else:
                supervisord.launch(self._run, self._logs)
                self._launched = True
            self._await([program.name for program in programs if not services or program.name in services])

    def services(self) -> tuple[ServiceState, ...]:
        """Report each service as supervisord and the service itself tell it.

        Raises:
            RuntimeRefusedError: supervisord was started by this object and has ended.
        """
        services = self._stack.services
        if supervisord.pid(self._run) is None:
            if self._launched:
                raise RuntimeRefusedError("supervisord has ended", hint=f"see {self._logs / 'supervisord.log'}")
            return self._unwatched("its supervisor has ended")
        try:
            with self._supervisor() as calls:
                told: dict[str, Any] = {process["name"]: process for process in calls.getAllProcessInfo()}
        except supervisord.SilentError:
            return self._unwatched("its supervisor does not answer")
        here = (service for service in services if service.as_process.program is None or service.name in told)
        return tuple(self._state(service, told.get(service.name)) for service in here)

    def glance(self, limit_s: float) -> tuple[Glance, ...]:
        """Ask supervisord, then every service at once."""
        services = {service.name: service for service in self._stack.services}
        owner = self.owner()
        if supervisord.pid(self._run) is None:
            return tuple(self._glance(state, owner) for state in self._unwatched("its supervisor has ended"))
        try:
            with self._supervisor(limit_s) as calls:
                told: dict[str, Any] = {process["name"]: process for process in calls.getAllProcessInfo()}
        except supervisord.SilentError:
            return tuple(self._glance(state, owner) for state in self._unwatched("its supervisor does not answer"))
        except RuntimeRefusedError:  # it refuses this only while it ends everything
            return tuple(self._glance(state, owner) for state in self._unwatched("its supervisor is ending"))
        here = [name for name, service in services.items() if not service.as_process.program or name in told]
        states = side_by_side({name: partial(self._state, services[name], told.get(name)) for name in here}, limit_s)
        late = f"no answer in {limit_s:g} s"
        return tuple(
            self._glance(states.get(name) or ServiceState(name=name, phase=ServicePhase.UNHEALTHY, detail=late), owner)
            for name in here
        )

    def _glance(self, state: ServiceState, owner: Path | None) -> Glance:
        groups = read_groups(self._run / f"{state.name}.groups")
        service = self._stack.service(state.name)
        host, port = (LOOPBACK, None) if service is None or service.port is None else self._address(service)
        if groups:
            state = replace(state, traces=group_traces(groups[-1]))
        return Glance(
            state=state,
            pids=members(groups[-1]) if groups else (),
            revision=self._told().get(state.name),
            address=None if port is None else (host, port),
            owner=owner,
        )

    def fetch(self, glance: Glance, path: str, limit_s: float) -> str | None:
        """Ask the service where it listens on loopback."""
        return None if glance.address is None else http_text(*glance.address, path, limit_s)

    def revisions(self) -> Mapping[str, str]:
        """Return a hash of how each service would be started now, and of the files that it would read.

        Nothing is installed for it: another virtual environment than the one that runs has another folder.
        """
        machine = self._machine(keep=supervisord.pid(self._run) is not None, folders=self._folders())
        return _revisions(stack_programs(self._stack, machine, os.environ))

    def read_logs(self, request: LogRequest) -> Iterator[LogLine]:
        """Read the log files, and what is written to them meanwhile; none where another project folder wrote them."""
        return read_log_files(self._logs, request) if self._has_own_logs() else iter(())

    def _has_own_logs(self) -> bool:
        """Return whether the logs are of this project folder: another one's stack may have the same name."""
        owner = _text(self._logs / ROOT).strip()
        return not owner or Path(owner) == self._stack.root.resolve() or not Path(owner).exists()

    def logs(self, service: str, lines: int) -> str:
        """Return the last lines of one service's log, oldest first; empty where it has none."""
        if not self._has_own_logs():
            return ""
        try:
            with (self._logs / f"{service}.log").open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - LOG_BYTES, 0))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def events(self) -> str:
        """Return what supervisord noted of this stack's services."""
        return self.logs("supervisord", EVENT_LINES)

    def inspect(self) -> str:
        """Return supervisord's file, and the ports and process groups that were recorded."""
        names = sorted(path.name for path in self._run.glob("*") if path.suffix in (".conf", ".json", ".groups"))
        return "\n".join(f"# {name}\n{_text(self._run / name)}" for name in names)

    def prove(self) -> None:
        """Do nothing: supervisord counts failed starts alone."""

    def halt(self) -> None:
        """Do nothing: `up` has done all when it returns."""

    def end(self, service: str, *, kill: bool = False) -> None:
        """Ask through supervisord, which would start it again; directly where it was asked before, or none answers."""
        if not kill and supervisord.pid(self._run) is not None:
            with contextlib.suppress(RuntimeRefusedError), self._supervisor() as calls:
                calls.stopProcess(service, False)
                return
        signal_groups(read_groups(self._run / f"{service}.groups"), signal.SIGKILL if kill else signal.SIGTERM)

    def down(self) -> None:
        """Stop every service and supervisord, whatever state they are in; the logs stay."""
        end_orphans()
        with supervisord.hold(self._run):
            self._launched = False
            end_run(self._run)

    def _virtual_environments(self, say: Say) -> dict[str, Path]:
        """Return the folders of the virtual environments that the services run in, making them on first use."""
        return ensure_all(self._stack.state, self._recipes(), say)

    def _recipes(self) -> dict[str, Recipe]:
        """Return how the virtual environment of each kind of service is made."""
        made = ((service.kind, service.as_process.recipe) for service in self._stack.services)
        return {kind: recipe for kind, recipe in made if recipe is not None}

    def _folders(self) -> dict[str, Path]:
        """Return where the virtual environments of each kind of service lie, or would, once they are installed."""
        return {kind: environment_folder(self._stack.state, recipe) for kind, recipe in self._recipes().items()}

    def _machine(self, *, keep: bool, folders: dict[str, Path] | None = None) -> Provisions:
        """Return what there is to run with; without `folders`, what is missing of them is installed."""
        absent = self._absent(keep=keep)
        return Provisions(
            virtual_environments=self._virtual_environments(_say_nothing) if folders is None else folders,
            ports=self._choose_ports(absent, keep=keep),
            shared_memory_bytes=_shared_memory_bytes(),
            absent=absent,
        )

    def _absent(self, *, keep: bool) -> frozenset[str]:
        """Return the services that do not run here. A running stack gains or loses one only by being stopped."""
        optional = [service for service in self._stack.services if service.as_process.program is not None]
        if keep:
            runs = self._told()
            return frozenset(service.name for service in optional if service.name not in runs)
        return frozenset(service.name for service in optional if shutil.which(service.as_process.program or "") is None)

    def _write(self, programs: tuple[Program, ...], machine: Provisions, services: tuple[str, ...]) -> None:
        """Write the run folder: a start script per program, the ports, and supervisord's file last.

        Of a program that is not among `services`, where some are named, what it runs by stays.
        """
        for folder in (self._run, self._logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self._run, self._logs):
            replace_file(folder / ROOT, f"{self._stack.root.resolve()}\n")
        told = self._told()
        kept = {name: told[name] for name in told if services and name not in services}
        for program in programs:
            if program.name not in kept:
                replace_file(self._run / f"{program.name}.sh", render_start(program))
            (self._run / f"{program.name}.groups").touch(mode=0o600)
        replace_file(self._run / "ports.json", json.dumps(dict(machine.ports)) + "\n")
        logs = os.path.relpath(self._logs, self._run)
        revisions = {**_revisions(programs), **kept}
        wanted = self._stack.services
        open_files = _open_files(max(service.resources.open_files for service in wanted))
        text = render_supervisor(
            map(self._with_drain, wanted), revisions, logs=logs, open_files=open_files, user=os.getuid()
        )
        replace_file(self._run / "supervisord.conf", text)

    def _with_drain(self, service: Service) -> Service:
        """Give what clients ask the time of its open requests to end."""
        if service.front is None:
            return service
        stop_s = service.restart.stop_s + int(self._stack.value(service.front.drains_within_s))
        return replace(service, restart=replace(service.restart, stop_s=stop_s))

    def _await(self, names: list[str]) -> None:
        """Wait until every start script is at work; by then supervisord has written its own number too."""
        if not _settle(self._run, names, limit_s=STARTS_WITHIN_S):
            hint = f"see {self._logs / 'supervisord.log'}"
            raise RuntimeRefusedError("supervisord has not started the services", hint=hint)

    def _update(self, services: tuple[str, ...]) -> None:
        """Let supervisord read its file again.

        Restart what has changed and start what has ended, of these or of all.
        """
        with self._supervisor(_patience_s(self._run)) as calls:
            added, changed, removed = calls.reloadConfig()[0]
            if services:
                added, changed, removed = (
                    [name for name in names if name in services] for names in (added, changed, removed)
                )
            for name in (*changed, *removed):
                calls.stopProcessGroup(name)
                calls.removeProcessGroup(name)
                self._forget(name)
            for name in (*added, *changed):
                calls.addProcessGroup(name)
            for process in calls.getAllProcessInfo():
                if services and process["name"] not in services:
                    continue
                if process["statename"] in ("STOPPED", "EXITED", "FATAL") and process["name"] not in (*added, *changed):
                    self._forget(process["name"])
                    calls.startProcess(process["name"], False)

    def _forget(self, name: str) -> None:
        """End what an ended service may have left, so that its restarts are counted anew."""
        record = self._run / f"{name}.groups"
        end_groups(read_groups(record), patience_s=10.0)
        replace_file(record, "")
        self._set_logs_aside(name)

    def _set_logs_aside(self, name: str) -> None:
        """Move the log of an earlier run away: what it tells would be taken for how far this one is."""
        for log in self._logs.glob(f"{name}.log"):
            (self._logs / "previous").mkdir(exist_ok=True, mode=0o700)
            log.replace(self._logs / "previous" / log.name)

    def _unwatched(self, why: str) -> tuple[ServiceState, ...]:
        """Report the services while no supervisord tells of them: gone, or left behind by one that was killed."""
        states, absent = [], self._absent(keep=False)
        for service in self._stack.services:
            if any(members(group) for group in read_groups(self._run / f"{service.name}.groups")):
                detail = f"still runs, but {why}"
                states.append(ServiceState(name=service.name, phase=ServicePhase.UNHEALTHY, detail=detail))
            elif service.name not in absent:
                states.append(ServiceState(name=service.name, phase=ServicePhase.ABSENT))
        return tuple(states)

    def _state(self, service: Service, told: Any) -> ServiceState:
        """Join what supervisord tells about a process with what the service answers."""
        name = service.name
        if told is None or (told["statename"] == "STOPPED" and not told["start"]):
            return ServiceState(name=name, phase=ServicePhase.ABSENT)
        groups = read_groups(self._run / f"{name}.groups")
        restarts = max(len(groups) - 1, 0)
        traces = group_traces(groups[-1]) if groups else Traces()
        state = told["statename"]
        if state in ("STOPPED", "EXITED", "FATAL"):
            code = exit_code(_text(self._logs / "supervisord.log"), name)
            return ServiceState(name=name, phase=ServicePhase.EXITED, exit_code=code, restarts=restarts, traces=traces)
        if state in ("BACKOFF", "STOPPING"):
            detail, due = ("ended, restarting", 1) if state == "BACKOFF" else ("stopping", 0)
            return ServiceState(
                name=name, phase=ServicePhase.STARTING, restarts=restarts + due, detail=detail, traces=traces
            )
        phase = self._phase(service, told["pid"])
        effort = None if phase is ServicePhase.HEALTHY else measure(members(groups[-1])) if groups else None
        again = self._why_again(name) if restarts and phase is ServicePhase.STARTING else None
        return ServiceState(name=name, phase=phase, restarts=restarts, detail=again, effort=effort, traces=traces)

    def _why_again(self, name: str) -> str | None:
        """Return how a service ended before it was started again, as far as supervisord tells."""
        code = exit_code(_text(self._logs / "supervisord.log"), name)
        return None if code is None else f"restarted after exit code {code}"

    def _phase(self, service: Service, pid: int) -> ServicePhase:
        """Ask a running service; one that has answered in this life and no longer does is unhealthy."""
        name = service.name
        mark = self._run / f"{name}.answered"
        if self._answers(service):
            if name not in self._answered:
                replace_file(mark, f"{pid}\n")
                self._answered.add(name)
            self._failures[name] = 0
            return ServicePhase.HEALTHY
        if _text(mark).strip() != str(pid):
            self._answered.discard(name)
            return ServicePhase.STARTING
        self._failures[name] = self._failures.get(name, 0) + 1
        first_look = name not in self._answered
        gone = first_look or self._failures[name] >= PROBE_RETRIES
        return ServicePhase.UNHEALTHY if gone else ServicePhase.HEALTHY

    def _answers(self, service: Service) -> bool:
        """Ask a service what its container's health check would."""
        if service.health is None:
            return True
        host, port = self._address(service)
        match service.health.probe:
            case HttpProbe(path=path, status=status, certificate=certificate):
                tls = certificate is not None and bool(_content(self._stack.secrets / certificate))
                return port is not None and http_answers(host, port, path, status, tls=tls)
            case SocketProbe(sent=sent, expected=expected, secret=secret):
                text = _text(self._stack.secrets / secret).strip()
                return port is not None and socket_answers(host, port, sent.replace("{secret}", text), expected)
            case CommandProbe(command=command):
                return command_succeeds(command_of(self._stack, self._machine(keep=True), service, command))

    def _address(self, service: Service) -> tuple[str, int | None]:
        """Return where a service of this machine is asked."""
        if service.published is None:
            return LOOPBACK, self._ports().get(service.name)
        bind, port = map(self._stack.value, service.published)
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(bind, bind), int(port)

    def _ports(self) -> dict[str, int]:
        """Return the inner ports as recorded by the last start."""
        text = _content(self._run / "ports.json")
        return {str(name): int(port) for name, port in json.loads(text).items()} if text else {}

    def _choose_ports(self, absent: frozenset[str], *, keep: bool) -> dict[str, int]:
        """Choose a free port for each inner service; a running stack keeps those that it has."""
        kept = self._ports() if keep else {}
        here = (service for service in self._stack.services if service.name not in absent)
        names = [service.name for service in here if service.port is not None and service.published is None]
        return choose_ports(names, kept, seed=zlib.crc32(str(self._run).encode()))

    def _require_ports(self) -> None:
        """Refuse to start where another program listens on a port for the outside."""
        for service in self._stack.services:
            if service.published is None or self._runs(service.name):
                continue
            bind, port = map(self._stack.value, service.published)
            if not is_free(bind, int(port)):
                key = key_of(self._stack.plan, service.published[1])
                raise RuntimeRefusedError(
                    f"{key}: {bind}:{port} is in use by another program",
                    hint=f"stop that program, or choose another port with `--set {key}=...`",
                )

    def _runs(self, name: str) -> bool:
        if supervisord.pid(self._run) is None:
            return False
        with self._supervisor() as calls:
            states = {process["name"]: process["statename"] for process in calls.getAllProcessInfo()}
        return states.get(name) in ("STARTING", "RUNNING", "BACKOFF", "STOPPING")

    def _supervisor(self, limit_s: float = supervisord.ANSWERS_WITHIN_S) -> AbstractContextManager[Any]:
        hint = f"end the rest with `stop-environment {self._stack.plan.environment.value}`"
        return supervisord.connect(self._run, hint, limit_s=limit_s)


def end_run(run: Path) -> None:
    """End supervisord, then every process group that it left, and remove the run folder; nothing else is read.

    Raises:
        RuntimeRefusedError: a process does not end even when it is killed.
    """
    _settle(run, [record.stem for record in run.glob("*.groups")], limit_s=10.0)
    # By its command line: one that is just starting has not written its number yet. The signal asks for the same
    # as the call over the socket, and needs no socket.
    end_programs(str(run / "supervisord.conf"), patience_s=_patience_s(run))
    # Of one that was frozen or killed, the services are left.
    text = _text(run / "supervisord.conf")
    records = {record.stem: record for record in sorted(run.glob("*.groups"))}
    for name in [*names_in_stop_order(text), *records]:
        if name in records:
            end_groups(read_groups(records.pop(name)), patience_s=10.0)
    shutil.rmtree(run, ignore_errors=True)


def _patience_s(run: Path) -> float:
    """Return how long supervisord may take to stop everything, one service after the other."""
    text = _text(run / "supervisord.conf")
    return sum(stop_periods_in(text), FOLLOWS_WITHIN_S)


def _settle(run: Path, names: list[str], *, limit_s: float) -> bool:
    """Wait until every start script has recorded itself, while supervisord runs; say whether they all have.

    A signal sent before that is lost (supervisord's child still has supervisord's own handlers), and stopping
    would wait 20 s for nothing.
    """
    deadline = time.monotonic() + limit_s
    while not all(read_groups(run / f"{name}.groups") for name in names):
        if time.monotonic() > deadline or not programs_with(str(run / "supervisord.conf")):
            return False
        time.sleep(0.05)
    return True


def _revisions(programs: tuple[Program, ...]) -> dict[str, str]:
    """Return the revision of each program, with the contents of the files that it reads at its start."""
    return {program.name: revision(program, [_content(path) for path in _files(program)]) for program in programs}


def _files(program: Program) -> tuple[Path, ...]:
    return program.files if program.script is None else (program.script, *program.files)


def _say_nothing(service: str, words: str) -> None:
    """Take the place of a progress line where everything is installed already."""


def _text(path: Path) -> str:
    return _content(path).decode(errors="replace")


def _content(path: Path) -> bytes:
    """Read a file; nothing where it is missing."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _open_files(wanted: int) -> int:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _shared_memory_bytes() -> int:
    """Return the size of /dev/shm, of which a running engine holds a part; none where there is no such folder."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage("/dev/shm").total
    return 0
