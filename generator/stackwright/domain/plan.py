"""The plan: every decision for one environment on one host, each value with its reason and source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stackwright.domain.cloud import CloudModel
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.role import Role

PLAN_SCHEMA = 1


class Mode(StrEnum):
    """What the stack runs on."""

    CPU = "cpu"
    SINGLE = "single"
    MULTI = "multi"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The serving program: `image` is what Compose runs; `cuda` is the image's toolkit, None on CPU."""

    name: str
    version: str
    image: str
    cuda: str | None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A forecast per GPU of the fullest rank, in bytes (design: `fit`). Filled by the memory planner."""

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
    verdict: str

    @property
    def taken_bytes(self) -> int:
        """What the engine holds while it runs."""
        return self.weights_bytes + self.activation_bytes + self.overhead_bytes + self.kv_cache_bytes


@dataclass(frozen=True, kw_only=True)
class Replica:
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
    def url_variable(self) -> str:
        """The variable under which gateway.yaml looks for this replica's address: `engine-2` → `ENGINE_2_URL`."""
        return self.name.upper().replace("-", "_") + "_URL"


@dataclass(frozen=True, kw_only=True)
class Group:
    """One model as clients know it: all of its replicas. `aliases` are further names for it.

    Models with the same `exclusive` take turns in one engine; the `pinned` one is loaded whenever the others are idle.
    """

    model: str
    role: Role = Role.CHAT
    aliases: tuple[str, ...] = ()
    exclusive: str | None = None
    pinned: bool = False


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """The models that are asked where `model` fails, in this order; `longer`: those with a longer context, longest first."""

    model: str
    to: tuple[str, ...]
    longer: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The LiteLLM front: where it listens, and the names that clients ask for.

    `groups` tells more of each of `models`, in the same order. The position there, from 1, is the model's slot: its
    settings end in it from the second on (`stackwright.settings.slot_key`).
    """

    version: str
    image: str
    bind: str
    port: int
    models: tuple[str, ...]
    routing_strategy: str
    groups: tuple[Group, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    cloud: tuple[CloudModel, ...] = ()

    @property
    def cloud_secrets(self) -> tuple[str, ...]:
        """The files that hold the keys of `cloud`, each once."""
        return tuple(dict.fromkeys(each.secret for each in self.cloud))

    def slot_of(self, replica: Replica) -> int:
        """Return the slot of a replica's model."""
        return self.models.index(replica.model) + 1 if replica.model in self.models else 1

    def group_of(self, replica: Replica) -> Group:
        """Return what is known of a replica's model."""
        return next((group for group in self.groups if group.model == replica.model), Group(model=replica.model))

    def role_of(self, model: str) -> Role:
        """Return what a model is asked for."""
        return next((group.role for group in self.groups if group.model == model), Role.CHAT)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Worker processes per service; None where the plan has no such service."""

    litellm: int
    multimodal: int | None
    retrieval: int | None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One emitted value with its reason and where that reason comes from."""

    value: str
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is emitted for one environment. `settings` keeps the order of `stackwright.settings.SETTINGS`."""

    schema: int
    environment: Environment
    mode: Mode
    host: Host
    engine: Engine
    replicas: tuple[Replica, ...]
    gateway: Gateway
    workers: Workers
    settings: dict[str, Setting]
    warnings: tuple[str, ...]

    @property
    def engines(self) -> tuple[Replica, ...]:
        """One replica for each engine service: of models that take turns, the one that is loaded first."""
        return tuple({replica.name: replica for replica in reversed(self.replicas)}.values())[::-1]

    def turns(self, replica: Replica) -> tuple[Replica, ...]:
        """Return what a replica's service loads in turns, in the order of slots: the replica alone, but in an exclusive group."""
        return tuple(each for each in self.replicas if each.name == replica.name)

    def gpus_of(self, replica: Replica) -> tuple[str, ...]:
        """Return the UUIDs of the GPUs that a replica's service has."""
        return tuple(dict.fromkeys(uuid for each in self.turns(replica) for uuid in each.gpu_uuids))

    def before(self, replica: Replica) -> tuple[Replica, ...]:
        """Return the earlier engines on a replica's GPUs: one that starts while another measures spoils what it measures."""
        earlier = self.replicas[: self.replicas.index(replica)]
        return tuple(
            each for each in earlier if each.name != replica.name and set(each.gpu_uuids) & set(replica.gpu_uuids)
        )

    def places_of(self, replica: Replica) -> str | None:
        """Return which parts of the cores a replica's ranks have, `2-2/3` for the second of three; None where one rank has all.

        Left to themselves all engines bind their threads to the same cores (vLLM 0.32.0 utils/ompmultiprocessing.py).
        """
        ranks = {
            each.name: max(turn.tensor_parallel * turn.pipeline_parallel for turn in self.turns(each))
            for each in self.engines
            if not each.gpu_uuids
        }
        total = sum(ranks.values())
        if replica.name not in ranks or total == 1:
            return None
        names = list(ranks)
        before = sum(ranks[name] for name in names[: names.index(replica.name)])
        return f"{before + 1}-{before + ranks[replica.name]}/{total}"
