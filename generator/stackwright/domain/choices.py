"""What a person chose for an environment on one host, kept for the commands that come after. Pure."""

from __future__ import annotations

from msgspec import Struct, field

from stackwright.domain.host import Host
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode


class HostIdentity(Struct, frozen=True, kw_only=True):
    """By what a host is known again: its GPUs' UUIDs, its processor's model and number of threads."""

    gpus: tuple[str, ...] = ()
    cpu: str | None = None
    threads: int | None = None

    def is_same(self, other: HostIdentity) -> bool:
        """Return whether this is the same host: a GPU in common, or, where one has none, the same processor."""
        if self.gpus and other.gpus:
            return bool(set(self.gpus) & set(other.gpus))
        return (self.cpu, self.threads) == (other.cpu, other.threads)


def identify(host: Host) -> HostIdentity:
    """Return by what a host is known again."""
    uuids = tuple(sorted(gpu.uuid for gpu in host.gpus if gpu.uuid is not None))
    return HostIdentity(gpus=uuids, cpu=host.cpu.model, threads=host.cpu.threads)


class DefaultModel(Struct, frozen=True, kw_only=True):
    """The model that was served where nobody named one, and what it was chosen for."""

    name: str
    mode: Mode | None = None
    objective: Objective | None = None
    engine: str | None = None


def wish_words(name: str, *, wanted: bool) -> tuple[str, str]:
    """Return the words of a command that wish for an addition, or for none of it."""
    return ("--with" if wanted else "--without", name)


class TunedSetting(Struct, frozen=True, kw_only=True):
    """A value that `stackwright tune` measured to be better, with that as `reason`; `measured` is the day.

    It holds for a model, as the engine is given it, and a release of an engine. `beside`: what the environment's file
    said of the same setting then.
    """

    value: str
    reason: str
    measured: str
    model: str
    engine: str
    beside: str | None = None


class Choices(Struct, frozen=True, kw_only=True):
    """What a person chose for an environment on the command line. None or empty where they left it to the planner.

    `engine` is a name, `release` a version of it. `services`: additions that are wished for (True), or are not. `pins`
    are settings by their written keys, `arguments` flags of the engine. `beside` has, for each of those and for
    `model`, what the environment's file said then, None where nothing: a file that says something else now was changed
    later, and is the newer word. `tuned` are no choices of a person, whose pins
    beat them.
    """

    host: HostIdentity = field(default_factory=HostIdentity)
    mode: Mode | None = None
    models: tuple[str, ...] = ()
    objective: Objective | None = None
    engine: str | None = None
    release: str | None = None
    allow_vulnerable: bool = False
    pins: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    services: dict[str, bool] = field(default_factory=dict)
    beside: dict[str, str | None] = field(default_factory=dict)
    default_model: DefaultModel | None = None
    tuned: dict[str, TunedSetting] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """The choices as the words of a command."""
        engine = None if self.engine is None else f"{self.engine}=={self.release}" if self.release else self.engine
        flags = [("--objective", self.objective), ("--engine", engine)]
        return (
            *([self.mode.value] if self.mode else []),
            *(word for name in self.models for word in ("--model", name)),
            *(word for flag, value in flags if value for word in (flag, str(value))),
            *(["--allow-vulnerable"] if self.allow_vulnerable else []),
            *(word for key, value in self.pins.items() for word in ("--set", f"{key}={value}")),
            *(f"--arg={flag}" for flag in self.arguments),
            *(word for name, wanted in self.services.items() for word in wish_words(name, wanted=wanted)),
        )
