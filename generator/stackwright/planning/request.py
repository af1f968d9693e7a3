"""What a plan is made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.image_pins import ImagePins
from stackwright.domain.llm import Llm
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Group, Mode
from stackwright.domain.role import Role
from stackwright.domain.wishes import Wishes
from stackwright.engines.vllm.image import EngineNeeds
from stackwright.planning.placement import ParallelPins
from stackwright.planning.utilization import Utilization
from stackwright.settings import slot_key


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Folders on the host, absolute: downloaded models, and what the engine compiles."""

    hf_home: str
    vllm_cache: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that a plan is made from. None leaves the choice to the planner; `pins` beat every computed value.

    `llm` and `facts` name one model and what is known of it; `named` where the command line named it, so that the fallbacks
    that `wishes` has for others do not count. `image_pins` are the digests that images are pinned to.
    `origin` is where the model was asked for, as a refusal tells it.
    Where several models share the host: `slot` counts them, `gpu_share` is the wished part of all its GPUs, `utilization` the
    part of each GPU that was found for this model, `promised_bytes` what other engines take of the processor's memory. Models
    of the same `exclusive` group take turns, the `pinned` one more often; `load_limit_s` is None where none do, and `switches` is how
    many loads the last one of a group may have to wait for.
    """

    host: Host
    environment: Environment
    mode: Mode | None
    wishes: Wishes
    llm: Llm
    origin: str
    facts: ModelFacts
    pins: Mapping[str, str]
    folders: Folders
    uid: int
    gid: int
    objective: Objective | None = None
    needs: EngineNeeds = field(default_factory=EngineNeeds)
    model_reason: str | None = None
    image_pins: ImagePins = field(default_factory=ImagePins)
    named: bool = False
    role: Role = Role.CHAT
    aliases: tuple[str, ...] = ()
    slot: int = 1
    gpu_share: float | None = None
    utilization: Utilization | None = None
    promised_bytes: int = 0
    exclusive: str | None = None
    pinned: bool = False
    load_limit_s: int | None = None
    switches: int = 0

    @property
    def group(self) -> Group:
        """The model as clients know it."""
        return Group(
            model=self.llm.name,
            role=self.role,
            aliases=self.aliases,
            exclusive=self.exclusive,
            pinned=self.pinned,
        )

    def pin_place(self, key: str) -> str:
        """Return where a person finds a pin of this model: the environment's file, else the command line."""
        written = slot_key(key, self.slot)
        in_file = f"{written} in settings of envs/{self.environment.value}.yaml"
        return in_file if written in self.wishes.settings else f"`--set {written}=…`"

    @property
    def parallel_pins(self) -> ParallelPins:
        """The pins that decide on the placement."""
        devices = self.pins.get("NVIDIA_VISIBLE_DEVICES", "")
        return ParallelPins(
            tensor_parallel=self.pinned_count("VLLM_TENSOR_PARALLEL_SIZE"),
            pipeline_parallel=self.pinned_count("VLLM_PIPELINE_PARALLEL_SIZE"),
            devices=tuple(name.strip() for name in devices.split(",") if name.strip()),
        )

    def pinned_count(self, key: str) -> int | None:
        """Return a pinned whole number, None where the key is free or pinned to `auto`."""
        return int(self.pins[key]) if self.pins.get(key, "auto") != "auto" else None
