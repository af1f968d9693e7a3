"""The plan: every decision for one environment on one host, each value with its reason and source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from generator.domain.cloud import CloudModel
from generator.domain.environment import Environment
from generator.domain.host import Host
from generator.domain.role import Role

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


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One served copy of a model at one URL.

    `name` is its Compose service. `gpu_uuids` is empty on CPU, else tensor_parallel × pipeline_parallel long.
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
    """One model as clients know it: all of its replicas. `aliases` are further names for it."""

    model: str
    role: Role = Role.CHAT
    aliases: tuple[str, ...] = ()


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
    settings end in it from the second on (`generator.settings.slot_key`).
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
    """Everything that is emitted for one environment. `settings` keeps the order of `generator.settings.SETTINGS`."""

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

    def before(self, replica: Replica) -> tuple[Replica, ...]:
        """Return the earlier engines on a replica's GPUs: one that starts while another measures spoils what it measures."""
        earlier = self.replicas[: self.replicas.index(replica)]
        return tuple(each for each in earlier if set(each.gpu_uuids) & set(replica.gpu_uuids))
