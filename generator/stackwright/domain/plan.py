"""The plan: every decision for one environment on one host, each value with its reason and source."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.cloud import CloudModel
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.llm import LlmSource
from stackwright.domain.role import Role

PLAN_SCHEMA = 1


class Mode(StrEnum):
    """What the stack runs on."""

    CPU = "cpu"
    SINGLE = "single"
    MULTI = "multi"


class PlannedEngine(Struct, frozen=True, kw_only=True):
    """The serving program: `image` is what Compose runs; `cuda` is the image's toolkit, None on CPU."""

    name: str
    version: str
    image: str
    cuda: str | None


class Memory(Struct, frozen=True, kw_only=True):
    """A forecast per GPU of the fullest rank, in bytes (design: `fit`). Filled by the memory planner.

    It is that of a first start, which compiles. `later_kv_cache_bytes`: the cache of one that finds everything
    compiled; None where that has no more.
    """

    total_bytes: int
    budget_bytes: int
    weights_bytes: int
    activation_bytes: int
    cuda_graph_bytes: int
    overhead_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: float
    kv_cache_tokens: int
    max_concurrency: float
    uncertainty_bytes: int
    later_kv_cache_bytes: int | None = None
    verdict: str

    @property
    def taken_bytes(self) -> int:
        """What the engine holds while it runs."""
        return self.weights_bytes + self.activation_bytes + self.overhead_bytes + self.kv_cache_bytes

    @property
    def without_debts(self) -> Memory:
        """The same with an empty cache where there is less than nothing for one."""
        later = self.later_kv_cache_bytes
        return replace(
            self,
            kv_cache_bytes=max(0, self.kv_cache_bytes),
            later_kv_cache_bytes=None if later is None else max(0, later),
        )


class Replica(Struct, frozen=True, kw_only=True):
    """One served copy of a model at one URL.

    `name` is its Compose service, one for all models of an exclusive group. `gpu_uuids` is empty on CPU, else
    tensor_parallel × pipeline_parallel long.
    `args` is the engine's whole argument list; `env` its environment as (name, value) pairs.
    `memory` is None where no forecast has been made.
    """

    name: str
    model: str
    gpu_uuids: tuple[str, ...]
    tensor_parallel: int
    pipeline_parallel: int
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    memory: Memory | None

    @property
    def ranks(self) -> int:
        """How many GPUs, or parts of a processor, it runs on."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def url_variable(self) -> str:
        """The variable under which gateway.yaml looks for this replica's address: `engine-2` → `ENGINE_2_URL`."""
        return self.name.upper().replace("-", "_") + "_URL"


class Fallback(Struct, frozen=True, kw_only=True):
    """The models that are asked where `model` fails, in this order.

    `longer`: those with a longer context, longest first.
    """

    model: str
    to: tuple[str, ...]
    longer: tuple[str, ...]


class Gateway(Struct, frozen=True, kw_only=True):
    """The LiteLLM front: where it listens, how it chooses a replica, and what stands in for a model that fails."""

    version: str
    image: str
    bind: str
    port: int
    routing_strategy: str
    fallbacks: tuple[Fallback, ...] = ()
    cloud: tuple[CloudModel, ...] = ()

    @property
    def cloud_secrets(self) -> tuple[str, ...]:
        """The files that hold the keys of `cloud`, each once."""
        return tuple(dict.fromkeys(model.secret for model in self.cloud))


class Workers(Struct, frozen=True, kw_only=True):
    """Worker processes per service; None where the plan has no such service."""

    litellm: int
    multimodal: int | None
    retrieval: int | None


class Origin(StrEnum):
    """Who decided on a value.

    `engine`: it is the engine's own default, and nothing tells the engine. `tuned`: `stackwright tune` measured it.
    """

    COMPUTED = "computed"
    ENGINE = "engine"
    CATALOG = "catalog"
    WISHED = "wished"
    PINNED = "pinned"
    LOCAL = "local"
    REMEMBERED = "remembered"
    TUNED = "tuned"


class Setting(Struct, frozen=True, kw_only=True):
    """One emitted value with its reason.

    `source` tells where the reason comes from: a document, a program and its release, or the place where a person wrote
    the value (`--set`, `envs/prod.yaml: settings.GATEWAY_PORT`); `origin` which kind of these it is.
    """

    value: str
    reason: str
    source: str
    origin: Origin = Origin.COMPUTED


class Adapter(Struct, frozen=True, kw_only=True):
    """A LoRA adapter that clients ask for by `name`; `location` is a folder or a hub id.

    `base`: the model that it was made for, None where it does not say.
    """

    name: str
    location: str
    rank: int
    base: str | None = None


class Attached(Struct, frozen=True, kw_only=True):
    """What an engine is given beside a model: adapters, and folders of the host, read-only but for those with `:rw`."""

    adapters: tuple[Adapter, ...] = ()
    volumes: tuple[str, ...] = ()


class ServedModel(Struct, frozen=True, kw_only=True):
    """A model as clients know it, and everything that is decided for it alone.

    `name` is what clients ask for, `aliases` are further names; `location` what the engine is given. Models with the
    same `exclusive` group take turns in one engine; the `pinned` one is loaded whenever the others are idle. `settings`
    are its own by their plain keys; what all models share stands in the plan's. A model that takes turns has its
    engine's image and shared memory only where it is the first of its group. `weight_bytes` is the size of its weights
    as they are stored, None where no source gives it. `sees`: it takes pictures beside text, also one that embeds.
    """

    name: str
    role: Role
    aliases: tuple[str, ...]
    source: LlmSource
    location: str
    engine: PlannedEngine
    exclusive: str | None
    pinned: bool
    replicas: tuple[Replica, ...]
    settings: dict[str, Setting]
    weight_bytes: int | None = None
    attached: Attached = Attached()
    sees: bool = False

    @property
    def forecast(self) -> Memory | None:
        """The memory of one replica; None where no forecast has been made."""
        return self.replicas[0].memory if self.replicas else None


class Plan(Struct, frozen=True, kw_only=True):
    """Everything that is emitted for one environment.

    `models` come in the order of their numbers in the environment file, chat models first. `settings` are those that
    all models share, in the order of `stackwright.settings.all_settings()`. `additions` are the names of what runs
    beside the models and the gateway.
    """

    schema: int
    environment: Environment
    mode: Mode
    host: Host
    models: tuple[ServedModel, ...]
    gateway: Gateway
    workers: Workers
    settings: dict[str, Setting]
    warnings: tuple[str, ...]
    additions: tuple[str, ...] = ()

    @property
    def engine(self) -> PlannedEngine:
        """The first model's engine."""
        return self.models[0].engine

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas of all models, in order."""
        return tuple(replica for model in self.models for replica in model.replicas)

    def model(self, name: str) -> ServedModel:
        """Return a model by its name. Raises KeyError where the plan has none of it."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def number_of(self, replica: Replica) -> int:
        """Return the position of a replica's model, from 0. Raises KeyError where the plan has none of its name."""
        return self.models.index(self.model(replica.model))

    @property
    def engines(self) -> tuple[Replica, ...]:
        """One replica for each engine service: of models that take turns, the one that is loaded first."""
        return tuple({replica.name: replica for replica in reversed(self.replicas)}.values())[::-1]

    def turns(self, replica: Replica) -> tuple[Replica, ...]:
        """Return what a replica's service loads in turn, in order: the replica alone, but in an exclusive group."""
        return tuple(other for other in self.replicas if other.name == replica.name)

    def gpus_of(self, replica: Replica) -> tuple[str, ...]:
        """Return the UUIDs of the GPUs that a replica's service has."""
        return tuple(dict.fromkeys(uuid for other in self.turns(replica) for uuid in other.gpu_uuids))

    def before(self, replica: Replica) -> tuple[Replica, ...]:
        """Return the earlier engines on a replica's GPUs.

        One that starts while another measures spoils what it measures.
        """
        earlier = self.replicas[: self.replicas.index(replica)]
        return tuple(
            other for other in earlier if other.name != replica.name and set(other.gpu_uuids) & set(replica.gpu_uuids)
        )

    def core_range(self, replica: Replica) -> str | None:
        """Return which parts of the cores a replica's ranks have, `2-2/3` for the second of three; None on a GPU.

        Left to themselves all engines bind their threads to the same cores (0.32.0 utils/ompmultiprocessing.py).
        """
        ranks = {
            engine.name: max(turn.ranks for turn in self.turns(engine))
            for engine in self.engines
            if not engine.gpu_uuids
        }
        total = sum(ranks.values())
        if replica.name not in ranks:
            return None
        names = list(ranks)
        before = sum(ranks[name] for name in names[: names.index(replica.name)])
        return f"{before + 1}-{before + ranks[replica.name]}/{total}"
