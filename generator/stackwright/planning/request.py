"""What a plan is made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from msgspec import Struct, field
from msgspec.structs import replace

from stackwright.domain.environment import COMMON, Environment, Folders
from stackwright.domain.forecast import EngineSettings, RememberedStart
from stackwright.domain.host import Host
from stackwright.domain.image_pins import ImagePins
from stackwright.domain.llm import Llm, LlmSource
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Attached, Mode, Origin, Setting
from stackwright.domain.role import Role
from stackwright.domain.shape import Shape
from stackwright.domain.wishes import Pin, Wishes
from stackwright.engines import default_engine
from stackwright.engines.protocol import Engine, EngineNeeds, EngineTask
from stackwright.planning.utilization import Utilization

PROJECT_NAME = "COMPOSE_PROJECT_NAME"
_CATALOG = "generator/stackwright/catalog/llms.yaml; docs/decisions/0012-models.md"


class User(Struct, frozen=True, kw_only=True):
    """The user and the group that files belong to and services run as, by number."""

    uid: int
    gid: int


class WantedModel(Struct, frozen=True, kw_only=True):
    """One model that is to be served, and what is known of it.

    `wished_in` is where it was asked for, as a refusal tells it; `reason` why it was chosen where nobody named one.
    `gpu_share` is the wished part of all the host's GPUs. Models of the same `exclusive` group take turns, the `pinned`
    one is loaded whenever the others are idle. `seen`: what its earlier starts on this host took, newest first.
    `pins` and `attached`: what is said of it alone. `draft`: the shape of the model that is pinned to draft for
    it, None without one or unread.
    """

    llm: Llm
    facts: ModelFacts
    wished_in: str
    reason: str | None = None
    role: Role = Role.CHAT
    aliases: tuple[str, ...] = ()
    gpu_share: float | None = None
    exclusive: str | None = None
    pinned: bool = False
    pins: tuple[Pin, ...] = ()
    attached: Attached = Attached()
    seen: tuple[RememberedStart, ...] = ()
    draft: Shape | None = None


class PlanRequest(Struct, frozen=True, kw_only=True):
    """Everything that the plan of one environment is made from. None leaves the choice to the planner.

    `pins` beat every computed value; `image_pins` are the digests that images are pinned to. `named`: the command line
    named the models, so that the fallbacks that `wishes` has for others do not count. `remembered`: an earlier command
    named or chose them. `additions` are the names of what is to run beside the models, and `promised_bytes` what that
    takes of the machine's memory.
    """

    host: Host
    environment: Environment
    mode: Mode | None
    wishes: Wishes
    models: tuple[WantedModel, ...]
    pins: tuple[Pin, ...]
    folders: Folders
    user: User
    objective: Objective | None = None
    engine: Engine = field(default_factory=default_engine)
    needs: EngineNeeds = field(default_factory=EngineNeeds)
    image_pins: ImagePins = field(default_factory=ImagePins)
    named: bool = False
    remembered: bool = False
    additions: tuple[str, ...] = ()
    promised_bytes: int = 0

    @property
    def file(self) -> str:
        """The file of the environment's wishes."""
        return f"envs/{self.environment.value}.yaml"

    @property
    def stack_name(self) -> str:
        """The name of the stack: the pinned one, else one by its environment."""
        named = [pin.value for pin in self.pins if (pin.key, pin.model) == (PROJECT_NAME, None)]
        return named[-1] if named else f"stackwright-{self.environment.value}"

    def file_of(self, key: str) -> str:
        """Return the file that a wish stands in, such as `gateway.port`: the environment's, or that of all."""
        return COMMON if self.wishes.is_shared(key) else self.file


class Switching(Struct, frozen=True, kw_only=True):
    """How models take turns: how long one load may take, and how many loads the last model of a group may wait for."""

    load_limit_s: int
    switches: int


class ModelRequest(Struct, frozen=True, kw_only=True, dict=True):
    """One model's part of a request: the GPUs that it may use are those of `host`.

    `fixed` are the pins that concern it, by plain key. Where several models share the host, `utilization` is the part
    of each GPU that was found for this one, and `promised_bytes` what other engines take of the processor's memory;
    `why_processor` says why it is not on a GPU as others are.
    """

    whole: PlanRequest
    model: WantedModel
    host: Host
    mode: Mode | None
    fixed: Mapping[str, Pin]
    utilization: Utilization | None = None
    promised_bytes: int = 0
    why_processor: str = ""
    gateway_workers: int | None = None
    switching: Switching | None = None

    @property
    def llm(self) -> Llm:
        """The model's name, location and head counts."""
        return self.model.llm

    @property
    def facts(self) -> ModelFacts:
        """What was read of the model."""
        return self.model.facts

    @property
    def role(self) -> Role:
        """What the model is asked for."""
        return self.model.role

    @property
    def wishes(self) -> Wishes:
        """The environment's wishes."""
        return self.whole.wishes

    @property
    def objective(self) -> Objective | None:
        """What is to be best."""
        return self.whole.objective

    @cached_property
    def pins(self) -> Mapping[str, str]:
        """The pinned values by plain key."""
        return {key: pin.value for key, pin in self.fixed.items()}

    @property
    def engine(self) -> Engine:
        """The family of engines that serves the model."""
        return self.whole.engine

    @property
    def task(self) -> EngineTask:
        """What the engine is asked to serve."""
        asked_in, asked_by = self._asked
        why = self.model.reason or _why_model(self.llm)
        return EngineTask(
            host=self.host,
            llm=self.llm,
            facts=self.facts,
            role=self.role,
            pins=self.pins,
            wished_context=self.wishes.max_model_len,
            wished_in=self.whole.file_of("max_model_len"),
            model=Setting(value=self.llm.location, reason=why, source=asked_in, origin=asked_by),
            objective=self.objective,
            in_turns=self.model.exclusive is not None,
            promised_bytes=self.promised_bytes,
            written={key: pin.source for key, pin in self.fixed.items() if pin.origin is Origin.WISHED},
        )

    @property
    def _asked(self) -> tuple[str, Origin]:
        """Where the model was named, and by whom: nobody names the smoke model, or the catalog's best."""
        if self.whole.remembered:
            return ("--model" if self.whole.named else "default") + " of an earlier command", Origin.REMEMBERED
        if self.model.reason is not None:
            return _CATALOG, Origin.CATALOG
        if self.whole.named:
            return "--model", Origin.PINNED
        wished = self.wishes.model or self.wishes.models
        return (
            (self.whole.file_of("model" if self.wishes.model else "models"), Origin.WISHED)
            if wished
            else ("default", Origin.COMPUTED)
        )

    @property
    def parallel_pins(self) -> EngineSettings:
        """The parallel sizes that are pinned."""
        return EngineSettings(
            tensor_parallel=self.pinned_count(self.engine.keys.tensor_parallel),
            pipeline_parallel=self.pinned_count(self.engine.keys.pipeline_parallel),
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """The GPUs to choose among, by UUID or index; empty for all."""
        pinned = self.pins.get("NVIDIA_VISIBLE_DEVICES", "")
        return tuple(name.strip() for name in pinned.split(",") if name.strip())

    def pinned_count(self, key: str) -> int | None:
        """Return a pinned whole number, None where the key is free or pinned to `auto`."""
        return int(self.pins[key]) if self.pins.get(key, "auto") != "auto" else None


def model_request(request: PlanRequest, position: int, switching: Switching | None = None) -> ModelRequest:
    """Return the part of a request for the model at `position`, as if it had the whole host.

    Of the pins it gets its own and those that all models share; an image that is pinned for the first is every engine's
    that has none of its own.
    """
    number = position + 1
    image = request.engine.keys.image
    shared = {pin.key: pin for pin in request.pins if pin.model is None or (pin.model == 1 and pin.key == image)}
    own = {pin.key: replace(pin, model=number) for pin in request.models[position].pins}
    own |= {pin.key: pin for pin in request.pins if pin.model == number and _beats(pin, own.get(pin.key))}
    return ModelRequest(
        whole=request,
        model=request.models[position],
        host=request.host,
        mode=request.mode,
        fixed={**shared, **own},
        promised_bytes=request.promised_bytes,
        switching=switching,
    )


def _beats(pin: Pin, other: Pin | None) -> bool:
    """Return whether a numbered pin beats what is said of the model itself: where the command line has it."""
    return other is None or pin.origin is Origin.PINNED


def _why_model(llm: Llm) -> str:
    return {
        LlmSource.SMOKE: "made on the spot: needs no model hub",
        LlmSource.DIRECTORY: "a folder on this host",
        LlmSource.HUB: "downloaded from the Hugging Face hub on first start",
    }[llm.source]
