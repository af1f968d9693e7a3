"""Runtimes: what brings a rendered stack up. Two, behind one Protocol: `compose` and `processes`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec import Struct

from stackwright.domain.environment import EnvironmentPaths
from stackwright.domain.plan import Plan, Replica
from stackwright.domain.service import Front, Service, ServiceState, SettingRef, Word
from stackwright.engines import engine_named
from stackwright.engines.protocol import Engine
from stackwright.rendering.numbered import ModelValues, model_values
from stackwright.services import access_to, front_of, services_of

Say = Callable[[str, str], None]
"""Tell the person about one service: `say(service, what happens now)`."""


class Stack(Struct, frozen=True, kw_only=True, dict=True):
    """One rendered environment.

    `root` is the project folder (holds compose/ and envs/); `state` the folder for virtual environments,
    logs and sockets. `env` is what is in force: the generated file, then the person's local file over it. `local` is
    another file in the place of that one: an earlier generation comes back with the values that it had.
    """

    root: Path
    state: Path
    plan: Plan
    env: Mapping[str, str]
    local: Path | None = None

    @property
    def name(self) -> str:
        """The project name, as Compose and the supervisor know it."""
        return self.env["COMPOSE_PROJECT_NAME"]

    @property
    def engine(self) -> Engine:
        """The family of the plan's engines."""
        return engine_named(self.plan.engine.name)

    @cached_property
    def services(self) -> tuple[Service, ...]:
        """Everything that the plan runs, what others wait for first."""
        return services_of(self.plan)

    @property
    def front(self) -> Service:
        """The service that clients ask."""
        return front_of(self.services)

    @property
    def access(self) -> Front:
        """What a client has to know of it."""
        return access_to(self.services)

    def service(self, name: str) -> Service | None:
        """Return a service by its name."""
        return next((service for service in self.services if service.name == name), None)

    def kind_of(self, name: str) -> str:
        """Return the kind of a service by its name; one that the plan has lost is named by its kind and a number."""
        service = self.service(name)
        return re.sub(r"-[0-9]+$", "", name) if service is None else service.kind

    def value(self, setting: SettingRef) -> str:
        """Return the value in force of a setting that a service refers to."""
        if setting.model is None:
            return self.env[setting.key]
        return self.models[self.plan.models.index(self.plan.model(setting.model))][setting.key]

    def values(self, replica: Replica) -> ModelValues:
        """Return the values in force for a replica's model."""
        return self.models[self.plan.number_of(replica)]

    @cached_property
    def models(self) -> tuple[ModelValues, ...]:
        """The values in force for each model of the plan, in order."""
        return model_values(self.env, len(self.plan.models))

    @property
    def paths(self) -> EnvironmentPaths:
        """Where this environment's files stand."""
        return EnvironmentPaths(root=self.root, state=self.state, environment=self.plan.environment)

    @property
    def secrets(self) -> Path:
        """The folder of this environment's secret files."""
        return self.paths.secrets

    @property
    def certificate(self) -> Path | None:
        """The certificate of what clients ask; None while its file is empty, and it answers without TLS."""
        file = self.secrets / self.access.tls[0]
        return file if file.exists() and file.stat().st_size > 0 else None

    @property
    def generated(self) -> Path:
        """The folder of this environment's rendered override, gateway file and plan."""
        return self.paths.generated


class ServiceChange(Struct, frozen=True, kw_only=True):
    """One service that `Runtime.up` would start or restart, and why, as the end of a sentence."""

    name: str
    reason: str


class ClientAnswer(NamedTuple):
    """What a program answered: its exit code, None where it took too long, and what it said on either output."""

    code: int | None
    out: str
    err: str


class Trial(Struct, frozen=True, kw_only=True):
    """One service's place. `run` takes a program's source, what it reads, and seconds after which it is ended.

    `installed` changes with the image or the virtual environment, `variables` are the service's own, and `texts` the
    words that were to be named as the service would have them.
    """

    installed: str
    variables: Mapping[str, str]
    texts: tuple[str, ...]
    run: Callable[[str, str, float], ClientAnswer]


class Runtime(Protocol):
    """Brings one stack up and down. Every method may raise RuntimeRefusedError."""

    name: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of this runtime on this host, in sentences; mostly nothing."""

    def prepare(self, say: Say) -> None:
        """Fetch what the stack needs to start (images, virtual environments). May take minutes; safe to interrupt."""

    def trial(self, service: Service, words: Iterable[Word]) -> Trial | None:
        """Return the place of a service for a program that asks; None where its image or environment is not here yet.

        `words` name nothing but settings and GPUs. Nothing is fetched, and what runs is left alone.
        """

    def owner(self) -> Path | None:
        """Return the project folder that what runs under this stack's name was started from.

        None where it is unknown.
        """

    def changes(self) -> tuple[ServiceChange, ...]:
        """Return what `up` would start or restart; empty where every service runs as it is rendered."""

    def reads(self) -> Mapping[str, str]:
        """Return a hash of the files that each service reads at its start, where `changes` does not look into them."""

    def up(self, services: tuple[str, ...] = (), *, anew: bool = False) -> None:
        """Ask for these services, or all, to run as rendered; return at once.

        What does so already is left alone; `anew` restarts it too.
        """

    def prove(self) -> None:
        """Note that the stack has answered: a service that ends from now on is started again, however often it was."""

    def halt(self) -> None:
        """End what `up` still has under way; what runs goes on."""

    def services(self) -> tuple[ServiceState, ...]:
        """Report every service of the plan, running or not. Raises when `up` itself has failed."""

    def logs(self, service: str, lines: int) -> str:
        """Return the last lines of one service's log, oldest first; empty where it has none."""

    def events(self) -> str:
        """Return what the runtime noted about how services began and ended, a line each; empty where it has none."""

    def inspect(self) -> str:
        """Return everything that the runtime knows of what runs, as text for a bug report; empty where nothing does."""

    def end(self, service: str, *, kill: bool = False) -> None:
        """Send one service SIGTERM, or kill it, and do not wait; it is not started again. A second call asks again."""

    def down(self) -> None:
        """Stop and remove every service, leaving only caches. Harmless where nothing runs."""


class Glance(Struct, frozen=True, kw_only=True):
    """One service as its runtime sees it at once, without waiting for the service itself.

    `image`: what it was started from; None for a process. `pids`: its processes, as this machine numbers them; none
    where they cannot be seen. `address`: where programs of this machine reach its port; None where they cannot, or it
    has none. `identity`: the runtime's own name of this run. `owner`: as `Runtime.owner`.
    """

    state: ServiceState
    image: str | None = None
    pids: tuple[int, ...] = ()
    address: tuple[str, int] | None = None
    identity: str | None = None
    revision: str | None = None
    owner: Path | None = None


class LogRequest(Struct, frozen=True, kw_only=True):
    """Which lines of logs are wanted: of these services, the last `tail`, none older than `since_s` seconds ago.

    `follow`: and those to come, until the caller ends it. `times`: each with when it was written.
    """

    services: tuple[str, ...]
    tail: int | None = None
    since_s: int | None = None
    follow: bool = False
    times: bool = False


class LogLine(NamedTuple):
    """A line of a service's log. `at`: when it was written, by ISO 8601 in UTC; None where nobody knows."""

    service: str
    text: str
    at: str | None = None


class Beside(Struct, frozen=True, kw_only=True):
    """A service's place from which the front can be asked. `run` as `Trial`'s.

    `port`: on which the front listens there, at 127.0.0.1; None where it is asked as by any client of this machine.
    """

    run: Callable[[str, str, float], ClientAnswer]
    port: int | None = None


class WatchedRuntime(Runtime, Protocol):
    """A runtime whose stack can be watched as it runs."""

    def glance(self, limit_s: float) -> tuple[Glance, ...]:
        """Report every service of the plan within about `limit_s`; one that does not answer by then is unhealthy."""

    def fetch(self, glance: Glance, path: str, limit_s: float) -> str | None:
        """Return what a service answers to an HTTP GET on its own port; None where it does not with 200 in time."""

    def revisions(self) -> Mapping[str, str]:
        """Return the revision that each service would be started with now; nothing is fetched for it."""

    def read_logs(self, request: LogRequest) -> Iterator[LogLine]:
        """Yield lines as they come."""

    def beside(self, service: Service) -> Beside | None:
        """Return a place of a service from which the running front is asked; None without image or environment.

        Raises:
            RuntimeRefusedError: the front does not run.
        """
