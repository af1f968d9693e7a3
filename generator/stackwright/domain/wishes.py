"""What an environment wishes for, before any host is looked at (envs/<env>.yaml)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from stackwright.domain.cloud import CloudModel
from stackwright.domain.plan import Origin
from stackwright.domain.role import Role

WISHES_SCHEMA = 1


class GatewayWishes(Struct, frozen=True, kw_only=True):
    """Where the gateway listens on the host, and which models stand in for one that fails, first choice first.

    `cloud` are those of `fallbacks` that no engine of ours serves: prompts leave the host where one is asked.
    `network` is a container network of the host's that the gateway joins beside its own; None: none.
    """

    bind: str
    port: int
    fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cloud: tuple[CloudModel, ...] = ()
    network: str | None = None


class ModelWish(Struct, frozen=True, kw_only=True):
    """One of several models: its name as `--model` takes it, further names for clients, and what it is asked for.

    `role` None: what its architecture is made for. `gpu_share` is its part of all of the host's GPUs, 0 to 1; None
    leaves that to the planner. Models of one `exclusive` group take turns in one engine: one of them is loaded at a
    time, and the `pinned` one comes back when nobody asks for the others.

    `served_name` is what clients call it, None for its own name. `args` are flags of the engine, as words of a command
    line or by their names. `lora`: adapters by the names that clients use, each a folder or a hub id. `chat_template`
    is a file of the host; `volumes` are folders of the host that the engine sees at the same path, read-only unless
    `:rw` ends them; `image` is the engine's container image.
    """

    name: str
    aliases: tuple[str, ...] = ()
    role: Role | None = None
    gpu_share: float | None = None
    exclusive: str | None = None
    pinned: bool = False
    served_name: str | None = None
    args: tuple[str | int | float | bool, ...] | dict[str, Any] = ()
    lora: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    volumes: tuple[str, ...] = ()
    image: str | None = None


class Pin(Struct, frozen=True, kw_only=True):
    """A setting that a person fixed.

    `key` is plain; `model` the number of the model that it is for, from 1, None for a setting that all share. `written`
    is the key as the person wrote it, `source` where. A tuned one has its measurement as `reason`.
    """

    key: str
    model: int | None
    value: str
    origin: Origin
    source: str
    written: str
    reason: str = "pinned by the user"

    @property
    def written_at(self) -> str:
        """Where a person finds it, as the object of a sentence."""
        file, _, field = self.source.partition(":")
        if self.origin is Origin.TUNED:
            return f"the tuned value of {self.written} (`--unset {self.written}`)"
        if self.origin is Origin.REMEMBERED:
            word = "arg" if self.source.startswith("--arg") else self.written
            return f"the remembered pin of {self.written} (`--unset {word}`)"
        if self.model is not None and self.source == "--arg":
            return "it from `--arg`"
        if field.strip().startswith("models["):
            return f"{field.strip()} in {file}"
        return f"`--set {self.written}=…`" if self.origin is Origin.PINNED else f"{self.written} in settings of {file}"


class Wishes(Struct, frozen=True, kw_only=True):
    """One environment's wishes. `settings` pins emitted keys, as `--set` does, which beats it.

    `gpu_memory_utilization` is a fraction of each GPU's memory; `max_model_len` is in tokens, None for the
    longest that fits; `model` is None for the default of the mode, or where `models` names several. `services`: the
    additions that are wished for, or are not.
    """

    schema: int
    model: str | None = None
    gpu_memory_utilization: float
    max_model_len: int | None = None
    gateway: GatewayWishes
    settings: dict[str, str | int | float] = field(default_factory=dict)
    models: tuple[ModelWish, ...] = ()
    services: dict[str, bool] = field(default_factory=dict)

    @property
    def pins(self) -> dict[str, str]:
        """The pinned keys as they are emitted: in YAML, 8192 is a number."""
        return {key: str(value) for key, value in self.settings.items()}

    def is_shared(self, key: str) -> bool:
        """Return whether a key, such as `gateway.port`, has its value from the file that all environments share."""
        return key in self.shared_keys

    @property
    def shared_keys(self) -> frozenset[str]:
        """The keys that have their values from there."""
        return frozenset()


class JoinedWishes(Wishes, frozen=True, kw_only=True):
    """The wishes of an environment laid over those that all share; `shared` are the keys that only those have."""

    shared: frozenset[str] = frozenset()

    @property
    def shared_keys(self) -> frozenset[str]:
        """The keys that have their values from the shared file."""
        return self.shared
