"""What runs: one service as it is described, for every runtime, and as its runtime reports it.

A service's command and environment are made of words. A word is text, or refers to something that each runtime names in
its own way: a setting, another service's address, a mounted file. Compose writes `${KEY:?}` where a process gets the
value.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct, field

from stackwright.domain.recipe import Recipe

LOG_FILE_MEGABYTES, LOG_FILES = 20, 5
"""How much of a service's log is kept: the last of so many files of that size."""

PROBE_TIMEOUT_S, PROBE_RETRIES = 4, 6
"""How long a health check waits for an answer, and how many must fail in a row: one slow answer is no failure."""


class SettingRef(Struct, frozen=True, kw_only=True):
    """The value in force of a setting; of a model's own, where `model` names one."""

    key: str
    model: str | None = None


class HostOf(Struct, frozen=True, kw_only=True):
    """The host name of another service, or the address that it listens on."""

    service: str


class PortOf(Struct, frozen=True, kw_only=True):
    """The port that a service listens on."""

    service: str


class ListenAddress(Struct, frozen=True, kw_only=True):
    """The address that the service itself has to listen on."""


class FileRef(Struct, frozen=True, kw_only=True):
    """The path of one of the service's mounted files, by its name inside the container."""

    name: str


class ScratchRef(Struct, frozen=True, kw_only=True):
    """A path of the service's own that is lost when it ends."""

    name: str


class EnvironmentFolderRef(Struct, frozen=True, kw_only=True):
    """The path of one of the service's environment folders, by its name."""

    name: str


class VolumeRef(Struct, frozen=True, kw_only=True):
    """The path of one of the service's volumes, by its name."""

    name: str


class Executable(Struct, frozen=True, kw_only=True):
    """A program of the service's virtual environment; in a container it is on the PATH."""

    name: str


class VisibleGpus(Struct, frozen=True, kw_only=True):
    """The names by which CUDA sees these GPUs: numbers in a container, UUIDs without one."""

    gpu_uuids: tuple[str, ...]
    setting: SettingRef


Part: TypeAlias = (
    "str | SettingRef | HostOf | PortOf | ListenAddress | FileRef | ScratchRef | EnvironmentFolderRef | VolumeRef"
    " | Executable | VisibleGpus"
)


class Joined(Struct, frozen=True, kw_only=True):
    """Parts that make one word."""

    parts: tuple[Part, ...]


class Document(Struct, frozen=True, kw_only=True):
    """A JSON document on one line, whose leaves are words."""

    fields: Mapping[str, Node]


Word: TypeAlias = "Part | Joined | Document"
Node: TypeAlias = "Word | tuple[Node, ...] | Mapping[str, Node] | int | bool"


class MountedFile(Struct, frozen=True, kw_only=True):
    """A file of compose/, mounted read-only as /etc/stackwright/`name`; one that is rendered lies in `generated`.

    `holds` names what the service reads of it where `source` is a folder, which is then mounted whole as
    /etc/stackwright.
    """

    source: str
    name: str = ""
    generated: bool = False
    holds: tuple[str, ...] = ()


class HostFolder(Struct, frozen=True, kw_only=True):
    """A folder or file of the host, at the same path in a container: one value is then true in every runtime."""

    path: Word
    read_only: bool = False


class EnvironmentFolder(Struct, frozen=True, kw_only=True):
    """A folder of the environment below envs/, mounted as /run/stackwright/`name`; read-only unless `written`.

    A folder and not its files: a mounted file stays what it was when another one is renamed over it. In `source`,
    `{environment}` stands for the environment's short name.
    """

    name: str
    source: str
    written: bool = False


class HttpProbe(Struct, frozen=True, kw_only=True):
    """Healthy is what answers `path` with `status`; over TLS where the secret `certificate` holds something.

    `command` asks the same inside a container whose image has no Python; without it, Python asks.
    """

    path: str
    status: int = 200
    certificate: str | None = None
    command: tuple[Word, ...] = ()


class SocketProbe(Struct, frozen=True, kw_only=True):
    """Healthy is what answers `sent`, in which `{secret}` is a secret's text, with `expected`.

    `command` asks the same inside a container, by the shell.
    """

    sent: str
    expected: str
    secret: str
    command: str


class CommandProbe(Struct, frozen=True, kw_only=True):
    """Healthy is what lets a command end with 0."""

    command: tuple[Word, ...]


class Health(Struct, frozen=True, kw_only=True):
    """How a service is asked whether it is well. Failures do not count for `start_period`, in Compose's words."""

    probe: HttpProbe | SocketProbe | CommandProbe
    start_period: str | None = None


class Port(Struct, frozen=True, kw_only=True):
    """Where a service listens in its container.

    `published` are the settings of the address and port for the outside.
    """

    number: int
    published: tuple[SettingRef, SettingRef] | None = None


class Login(Struct, frozen=True, kw_only=True):
    """Who asks a service: a user with the password in the secret `secret`, or, without a user, its bearer key."""

    secret: str
    user: str | None = None


class Smoke(Struct, frozen=True, kw_only=True):
    """One HTTP question at the published port, whose answer shows that the service does its work.

    `method` POST sends `body` as JSON. The answer has to be 200 and to hold the text `holds`. `what` names the
    question, behind `asked`.
    """

    what: str
    path: str
    method: str = "GET"
    body: Mapping[str, object] = field(default_factory=dict)
    login: Login | None = None
    holds: str = ""
    limit_s: int = 120


class Page(Struct, frozen=True, kw_only=True):
    """What a person finds at the published port, and how they get in."""

    title: str
    path: str = "/"
    login: Login | None = None


class Dependency(Struct, frozen=True, kw_only=True):
    """A service that has to be started before, and where `healthy` has to answer."""

    service: str
    healthy: bool = False


class SharedMemory(Struct, frozen=True, kw_only=True):
    """Room in /dev/shm: what a container gets, and the least that a process can do with.

    Where there is less, `otherwise` is laid over the environment; None: it cannot start.
    """

    size: SettingRef
    least_bytes: int
    otherwise: Mapping[str, Word] | None


class WorkerProcesses(Struct, frozen=True, kw_only=True):
    """The processes that a service starts of itself: their number, and what each takes of the machine's memory."""

    count: SettingRef
    bytes_each: int


class Resources(Struct, frozen=True, kw_only=True):
    """What a service may use, and needs.

    Docker Engine 29 lowered the default soft limit to 1024 open files. Not more than is needed: a daemon that is itself
    confined (rootless, in a container) cannot go beyond its own hard limit, and refuses to start the service.
    """

    open_files: int = 16384
    shared_memory: SharedMemory | None = None
    gpu_uuids: tuple[str, ...] = ()
    workers: WorkerProcesses | None = None


class Security(Struct, frozen=True, kw_only=True):
    """What a container may do beyond nothing: it is no root, cannot become one, and writes only where it is told.

    `root`: it has to be root, which only what a person wished for by name may be. `label`: the SELinux option that it
    runs with, where the kernel asks for one.
    """

    root: bool = False
    read_only: bool = True
    capabilities: tuple[str, ...] = ()
    label: SettingRef | None = None


class InContainer(Struct, frozen=True, kw_only=True):
    """What a service is given in a container alone: its environment there, its tmpfs mounts, kernel settings."""

    environment: Mapping[str, Word] = field(default_factory=dict)
    tmpfs: tuple[str, ...] = ("/tmp",)
    sysctls: Mapping[str, str] = field(default_factory=dict)


class AsProcess(Struct, frozen=True, kw_only=True):
    """What a service is given as a process alone.

    `recipe`: of the virtual environment that it runs in. A service whose `program` is not on PATH does not run, and
    `missing` says how the stack does without it.
    """

    arguments: tuple[Word, ...] = ()
    environment: Mapping[str, Word] = field(default_factory=dict)
    recipe: Recipe | None = None
    program: str | None = None
    missing: str | None = None


class Front(Struct, frozen=True, kw_only=True):
    """What there is to know of the service that clients ask.

    `key` is the secret that they show, `tls` those of its certificate and the certificate's key. `address` are the
    settings of its address and port, and `wishes` the section of envs/<env>.yaml that asks for them. The other settings
    say whether it may go without TLS, how long an answer may take, and how long open requests get when it is to end:
    asked once by SIGTERM, it takes no more and lets them end; asked again, it ends them.
    """

    key: str
    tls: tuple[str, str]
    address: tuple[SettingRef, SettingRef]
    wishes: str
    plain_http: SettingRef
    answers_within_s: SettingRef
    drains_within_s: SettingRef


class ProgramRelease(Struct, frozen=True, kw_only=True):
    """What runs, as catalog/advisories.yaml names it, and the version that is planned."""

    program: str
    version: str | None


class RestartPolicy(Struct, frozen=True, kw_only=True):
    """`starts` are those after the first that failed, and `stop_s` is how long the service may take to end.

    What clients ask gets the time for its open requests besides.
    """

    starts: int = 2
    stop_s: int = 20


class Scraped(Struct, frozen=True, kw_only=True):
    """Where Prometheus finds the figures of a service, on its own port, and the job that they come under."""

    job: str
    path: str = "/metrics"


class Service(Struct, frozen=True, kw_only=True):
    """One thing that runs. One field for each thing that some runtime has to know, hence more than twelve.

    `kind` is the name that all replicas share: of the known failures that befall it, and of the base file's service
    that it extends. `front` is set of the one that clients ask. `script` is the mounted file that a shell starts it by;
    None: `command` names a program itself. A variable of `environment` without a word is the caller's, if there is one.
    `reaches_out` is whether its network leaves this machine, `downloads` whether it asks servers out there.
    `networks` are container networks of the host's that it joins beside the stack's own. `volumes` are named folders
    whose content outlives every stop. `smoke`: what a start asks it, once it is healthy.
    """

    name: str
    kind: str
    image: SettingRef
    script: str | None
    front: Front | None = None
    release: ProgramRelease | None = None
    command: tuple[Word, ...] = ()
    environment: Mapping[str, Word | None] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    files: tuple[MountedFile, ...] = ()
    folders: tuple[HostFolder, ...] = ()
    environment_folders: tuple[EnvironmentFolder, ...] = ()
    volumes: tuple[str, ...] = ()
    port: Port | None = None
    scraped: Scraped | None = None
    reaches_out: bool = False
    networks: tuple[SettingRef, ...] = ()
    downloads: bool = False
    health: Health | None = None
    smoke: Smoke | None = None
    page: Page | None = None
    after: tuple[Dependency, ...] = ()
    resources: Resources = Resources()
    restart: RestartPolicy = RestartPolicy()
    security: Security = Security()
    in_container: InContainer = InContainer()
    as_process: AsProcess = AsProcess()

    @property
    def published(self) -> tuple[SettingRef, SettingRef] | None:
        """The settings of the address and port for the outside; None where it has none."""
        return None if self.port is None else self.port.published


class ServicePhase(StrEnum):
    """Where a service stands between nothing and answering."""

    ABSENT = "absent"
    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    EXITED = "exited"


UP = frozenset({ServicePhase.WAITING, ServicePhase.STARTING, ServicePhase.HEALTHY, ServicePhase.UNHEALTHY})
"""The phases of a service that is there and has not ended."""


class Effort(Struct, frozen=True, kw_only=True):
    """What the processes of a service have done since they began: seconds of processor time, bytes read from disks.

    `read_bytes` is None where the system does not tell.
    """

    cpu_s: float
    read_bytes: int | None = None


class Traces(Struct, frozen=True, kw_only=True):
    """What the kernel's messages about a service can be told by: its container's id, or the number of its first
    process.

    `began_s` is when it began last, on the clock of the kernel's messages; None where that is not known.
    """

    container: str | None = None
    process: int | None = None
    began_s: float | None = None


class ServiceState(Struct, frozen=True, kw_only=True):
    """One service. `exit_code` is set only for `exited`.

    `restarts` counts the runtime's own restarts, the one that it is about to make included. `effort` is told of a
    service that runs and does not answer yet, where the runtime can see its processes.
    """

    name: str
    phase: ServicePhase
    exit_code: int | None = None
    restarts: int = 0
    detail: str | None = None
    effort: Effort | None = None
    traces: Traces = Traces()


class Step(StrEnum):
    """What a service does before it answers, in the words that a person reads."""

    ABSENT = "absent"
    WAITING = "waiting"
    STARTING = "starting"
    DOWNLOADING = "downloading weights"
    LOADING = "loading weights"
    PROFILING = "profiling memory"
    COMPILING = "compiling"
    CAPTURING = "capturing graphs"
    OPENING = "opening its port"
    READY = "healthy"
    SILENT = "no longer healthy"
