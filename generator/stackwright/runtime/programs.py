"""The programs of the `processes` runtime and the files that start them, as text. Pure.

Every program is started by a rendered shell script, and supervisord's file names only that script: a shell quotes
any value exactly, while supervisord expands `%` and cuts values at ` ;` and ` #` (supervisor 4.3.0, options.py).
All paths in supervisord's file are relative to the run folder, where it is started, for the same reason.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.host import Host
from stackwright.domain.service import (
    LOG_FILE_MEGABYTES,
    LOG_FILES,
    EnvironmentFolderRef,
    Executable,
    FileRef,
    HostOf,
    HttpProbe,
    ListenAddress,
    MountedFile,
    Part,
    PortOf,
    RestartPolicy,
    ScratchRef,
    Service,
    SettingRef,
    SharedMemory,
    VisibleGpus,
    VolumeRef,
    Word,
)
from stackwright.domain.topology import sole_slice
from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import Stack
from stackwright.services import stop_order
from stackwright.services.additions import DATA_HOME
from stackwright.services.words import asked_services, word_text
from stackwright.units import format_bytes

LOOPBACK = "127.0.0.1"

PASSED_ON = (
    *("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER", "CC", "CXX", "CUDA_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
)
"""What every service takes over from the caller's environment, beside the variables of its own that are the caller's.

The first row is what a program of this machine needs; a container has its own, and Docker gives it the proxies.
"""

PROVEN_S = 600
"""A service that ends sooner than this counts as a failed start; one that ends later is started afresh."""

START_HEAD = """\
#!/bin/sh
# Rendered by Stackwright; started by supervisord in this folder.
# A service killed the hard way leaves its workers behind: end what earlier starts left, then record this one.
# A number whose process started at another time belongs to someone else by now.
started() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }
while read -r group time; do
    now=$(started "$group")
    if [ -z "$now" ] || [ "$now" = "$time" ]; then kill -s KILL -- "-$group" 2>/dev/null && sleep 1; fi
done < SERVICE.groups
echo "$$ $(started $$)" >> SERVICE.groups
"""


class Program(Struct, frozen=True, kw_only=True):
    """One service as a program: `script` of compose/, where it has one, with its arguments and its own environment.

    `files` are those whose content it reads once, at its start: a change of one means a restart. `inherited` is what
    comes from the caller's environment; a start from another shell must not restart what runs.
    """

    service: Service
    script: Path | None
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    inherited: Mapping[str, str]
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name


class Provisions(Struct, frozen=True, kw_only=True):
    """What the programs have here: virtual environments by kind of service, inner ports by service, room in /dev/shm.

    `absent` are the services whose program this machine lacks.
    """

    virtual_environments: Mapping[str, Path]
    ports: Mapping[str, int]
    shared_memory_bytes: int
    absent: frozenset[str] = frozenset()


def stack_programs(stack: Stack, machine: Provisions, inherited: Mapping[str, str]) -> tuple[Program, ...]:
    """Return the programs of a stack, without those that the machine lacks.

    Args:
        inherited: the caller's environment, of which only PASSED_ON and what a service leaves to it is used.
    """
    services = {service.name: service for service in stack.services if service.name not in machine.absent}
    return tuple(_Naming(stack, machine, services, service).program(inherited) for service in services.values())


def command_of(stack: Stack, machine: Provisions, service: Service, words: Iterable[Word]) -> tuple[str, ...]:
    """Return a command of a service, such as its health check's, as a process runs it."""
    services = {service.name: service for service in stack.services if service.name not in machine.absent}
    naming = _Naming(stack, machine, services, service)
    return tuple(map(naming.word, words))


def check_shared_memory(service: Service, shared_memory_bytes: int) -> SharedMemory | None:
    """Return what a service does without shared memory of which there is too little; None where there is enough.

    Raises:
        RuntimeRefusedError: it cannot do without.
    """
    wanted = service.resources.shared_memory
    if wanted is None or shared_memory_bytes >= wanted.least_bytes:
        return None
    if wanted.otherwise is None:
        raise RuntimeRefusedError(
            f"/dev/shm has {format_bytes(shared_memory_bytes)}, but the workers of {service.name} "
            f"need {format_bytes(wanted.least_bytes)}",
            hint="start this container with `docker run --shm-size=8g`, or a memory volume on /dev/shm",
        )
    return wanted


class _Naming:
    """Names what the words of one service refer to, as a process of this machine finds it."""

    def __init__(self, stack: Stack, machine: Provisions, services: Mapping[str, Service], service: Service) -> None:
        self._stack, self._machine, self._services, self._service = stack, machine, services, service

    def program(self, inherited: Mapping[str, str]) -> Program:
        """Return the service as a program."""
        service = self._service
        script = None if service.script is None else self._path(FileRef(name=service.script))
        read = (path for file in service.files for path in self._read(file) if path != script)
        callers = (*PASSED_ON, *(name for name, word in service.environment.items() if word is None))
        passed = {name: inherited[name] for name in callers if name in inherited}
        return Program(
            service=service,
            script=script,
            arguments=tuple(map(self.word, (*service.command, *service.as_process.arguments))),
            environment=self._environment(),
            inherited=passed,
            files=(*read, *(self._stack.secrets / name for name in service.secrets)),
        )

    def _environment(self) -> dict[str, str]:
        service = self._service
        cramped = check_shared_memory(service, self._machine.shared_memory_bytes)
        words = {
            **service.environment,
            **service.as_process.environment,
            **((cramped.otherwise or {}) if cramped else {}),
        }
        before = " ".join(self._addresses_before())
        return {
            "SECRETS_DIRECTORY": str(self._stack.secrets),
            "STACKWRIGHT_STACK": self._stack.name,
            # What a service that does not run here could be told of is left out.
            **{
                name: self.word(word)
                for name, word in words.items()
                if word is not None and set(asked_services(word)) <= {*self._services}
            },
            **({"START_AFTER": before} if before else {}),
        }

    def _addresses_before(self) -> Iterator[str]:
        """Yield the addresses that have to answer before the service starts: supervisord starts all at once."""
        for dependency in self._service.after:
            other = self._services.get(dependency.service)
            probe = None if other is None or other.health is None else other.health.probe
            if dependency.healthy and isinstance(probe, HttpProbe):
                yield f"http://{LOOPBACK}:{self._port(dependency.service)}{probe.path}"

    def word(self, word: Word) -> str:
        """Return a word's text."""
        return word_text(word, self._name)

    def _name(self, part: Part) -> str:
        stack, service = self._stack, self._service
        match part:
            case str():
                return part
            case SettingRef():
                return stack.value(part)
            case VisibleGpus():
                return _visible(stack.plan.host, part.gpu_uuids) if part.gpu_uuids else stack.value(part.setting)
            case HostOf():
                return LOOPBACK
            case PortOf():
                return self._port(part.service)
            case ListenAddress():
                return LOOPBACK if service.published is None else stack.value(service.published[0])
            case FileRef() | EnvironmentFolderRef() | VolumeRef():
                return str(self._path(part))
            case ScratchRef():
                return part.name
            case Executable():
                folder = self._machine.virtual_environments[service.kind]
                return str(folder / "bin" / part.name)

    def _port(self, name: str) -> str:
        published = self._services[name].published
        return str(self._machine.ports[name]) if published is None else self._stack.value(published[1])

    def _path(self, part: FileRef | EnvironmentFolderRef | VolumeRef) -> Path:
        """Return where a mounted file or folder lies, by its name in the container."""
        name = part.name
        if isinstance(part, VolumeRef):
            return Path(self._stack.value(SettingRef(key=DATA_HOME)), name)
        if isinstance(part, EnvironmentFolderRef):
            folders = {folder.name: folder.source for folder in self._service.environment_folders}
            return self._stack.paths.folder(folders[name])
        for file in self._service.files:
            if file.name == name:
                return self._source(file)
            if not file.name:
                return self._source(file) / name
        raise KeyError(name)

    def _source(self, file: MountedFile) -> Path:
        return (self._stack.generated if file.generated else self._stack.root / "compose") / file.source

    def _read(self, file: MountedFile) -> Iterator[Path]:
        source = self._source(file)
        yield from (source / held for held in file.holds) if not file.name else (source,)


def _visible(host: Host, gpu_uuids: tuple[str, ...]) -> str:
    """Name GPUs to CUDA and the engine. No container renumbers them here; a UUID means the same everywhere.

    But an engine may take a MIG slice's number below its GPU for a GPU's own (0.32.0 platforms/cuda.py,
    device_control_id_to_physical_device_id). The GPU's number names its only slice to both: CUDA sees the first.
    Where there are more, validation refuses (`rules.check_processes`).
    """
    slice_alone = sole_slice(host)
    if slice_alone is not None and slice_alone.mig_slice is not None and slice_alone.uuid in gpu_uuids:
        return str(slice_alone.mig_slice.gpu)
    return ",".join(gpu_uuids)


def render_start(program: Program) -> str:
    """Return the shell script that becomes one program, its environment set and every word quoted."""
    exports = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted({**program.inherited, **program.environment}.items())
    ]
    script = () if program.script is None else ("/bin/sh", str(program.script))
    run = shlex.join(["exec", *script, *program.arguments])
    return "\n".join([START_HEAD.replace("SERVICE", program.name) + exports[0], *exports[1:], run]) + "\n"


def revision(program: Program, contents: Iterable[bytes]) -> str:
    """Return a short hash of how a program is started and of what it reads: another one means a restart."""
    digest = hashlib.sha256(render_start(replace(program, inherited={})).encode())
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]


def revisions_in(text: str) -> dict[str, str]:
    """Return the revision of each service in a file of `render_supervisor`; nothing of any other text."""
    return dict(
        re.findall(r'^\[program:(.+)\]\n(?:[^[].*\n)*?environment=STACKWRIGHT_REVISION="(\w+)"$', text, re.MULTILINE)
    )


def names_in_stop_order(text: str) -> list[str]:
    """Return the services in a file of `render_supervisor` in the order in which supervisord would stop them."""
    found = re.findall(r"^\[program:(.+)\]\npriority=(\d+)$", text, re.MULTILINE)
    return [name for name, _ in sorted(found, key=lambda pair: -int(pair[1]))]


def stop_periods_in(text: str) -> list[int]:
    """Return how many seconds each service in a file of `render_supervisor` may take to end."""
    return [int(seconds) for seconds in re.findall(r"^stopwaitsecs=(\d+)$", text, re.MULTILINE)]


def render_supervisor(
    services: Iterable[Service], revisions: Mapping[str, str], *, logs: str, open_files: int, user: int
) -> str:
    """Return supervisord's file for the services in `revisions` (name → revision); one that the plan has lost runs on.

    Args:
        logs: the folder of the logs, relative to the run folder.
        open_files: how many files a service may hold open; at most the hard limit.
        user: the user id, which supervisord wants to be told when it is root's.
    """
    head = [
        "[unix_http_server]",
        # supervisor makes the path of its socket absolute, and a socket's path may have 107 bytes only.
        "file=/proc/self/cwd/supervisor.sock",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisord]",
        "pidfile=supervisord.pid",
        f"logfile={logs}/supervisord.log",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        f"minfds={open_files}",
        *(["user=0"] if user == 0 else []),
    ]
    known = {service.name: service for service in services}
    # supervisord starts by rising priority and stops by falling, one program after the other.
    ranks = {service.name: rank for rank, group in enumerate(stop_order(tuple(known.values()))) for service in group}
    sections = (
        _section(name, text, logs, known.get(name), priority=FIRST_TO_STOP - ranks.get(name, 0))
        for name, text in revisions.items()
    )
    return "\n".join([*head, *sections]) + "\n"


FIRST_TO_STOP = 900


def _section(name: str, text: str, logs: str, service: Service | None, *, priority: int) -> str:
    restart = RestartPolicy() if service is None else service.restart
    lines = [
        f"[program:{name}]",
        f"priority={priority}",
        f"command=/bin/sh {name}.sh",
        # Not read by anyone: supervisord restarts a program whose section has changed.
        f'environment=STACKWRIGHT_REVISION="{text}"',
        "autostart=true",
        "autorestart=unexpected",
        f"startsecs={PROVEN_S}",
        f"startretries={restart.starts}",
        "stopsignal=TERM",
        f"stopwaitsecs={restart.stop_s}",
        "stopasgroup=true",
        "killasgroup=true",
        "redirect_stderr=true",
        f"stdout_logfile={logs}/{name}.log",
        f"stdout_logfile_maxbytes={LOG_FILE_MEGABYTES}MB",
        f"stdout_logfile_backups={LOG_FILES - 1}",
    ]
    return "\n".join(lines)


def exit_code(log: str, name: str) -> int | None:
    """Read from supervisord's log how a service ended last: its exit status, or 128 and the signal's number.

    Over its socket supervisord tells 0 for a service that it has given up (supervisor 4.3.0, process.py, `finish`).
    """
    ends = re.findall(rf"exited: {re.escape(name)} \((?:exit status (\d+)|terminated by (SIG[A-Z0-9]+))", log)
    if not ends:
        return None
    status, killer = ends[-1]
    return int(status) if status else 128 + signal.Signals[killer].value
