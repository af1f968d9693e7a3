"""What the rest of the package asks of an engine: one Protocol, and the values that pass through it. Pure.

An engine is a folder beside this file with one value of this shape, and one row in `stackwright.engines.ENGINES`. Its
methods import what they need when they are called: a plan for a processor loads no rules for GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, field

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings, Forecast, GpuMemory, ObservedStart, Solution
from stackwright.domain.host import Gpu, Host, OtherGpu
from stackwright.domain.llm import Llm
from stackwright.domain.load import LoadAsked
from stackwright.domain.model_facts import ModelConfig, ModelFacts, WeightFormat
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Adapter, Mode, PlannedEngine, Setting
from stackwright.domain.role import Role
from stackwright.domain.setting_spec import SettingSpec
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import WeightFacts
from stackwright.errors import NoPlanError

if TYPE_CHECKING:
    from stackwright.domain.recipe import Recipe
    from stackwright.domain.service import Step, Word


class NoImageError(NoPlanError):
    """No image of the engine serves the model on these GPUs with this driver, whatever its number format."""


class DriverTooOldError(NoImageError):
    """The GPUs are supported, but no image runs with the host's driver."""


class EngineKeys(Struct, frozen=True, kw_only=True):
    """The keys of an engine's settings that others read, by what they mean; None where it has no such setting.

    `context`: tokens of one request, a number or `auto`. `requests`: worked on at once. `step_tokens`: worked on in one
    step. `cache_format`: how numbers are kept in the cache. `memory_share`: of each GPU. `processor_cache`: GiB of
    cache for each rank on a processor. `cache_folder`: for what it compiles. `media`: from where it may fetch pictures,
    for a model that takes them. `prefix_caching`: whether what prompts begin with is kept. `expert_parallel`: whether
    each rank has whole experts. `argument_prefix`: of a flag that no setting declares, what stands before its name in
    the key of its own setting.
    """

    model: str
    served_name: str
    image: str
    tensor_parallel: str
    pipeline_parallel: str
    context: str
    shared_memory: str
    cache_folder: str
    requests: str | None = None
    step_tokens: str | None = None
    cache_format: str | None = None
    memory_share: str | None = None
    processor_cache: str | None = None
    media: str | None = None
    prefix_caching: str | None = None
    expert_parallel: str | None = None
    chat_template: str | None = None
    argument_prefix: str | None = None


class LoadGenerator(Struct, frozen=True, kw_only=True):
    """A Python program that sends load, and runs where the engine is installed.

    `given` writes what it reads on stdin. It prints one JSON list: for each round `duration`, `input_lens`,
    `output_lens`, `ttfts`, `itls`, `latencies` (seconds) and `errors`. `starts_within_s`: seconds for its own start.
    """

    name: str
    program: str
    starts_within_s: float
    given: Callable[[LoadAsked], str]


class EngineMetrics(Struct, frozen=True, kw_only=True):
    """Where an engine's server tells its figures in Prometheus' form, and under which names, the newest first.

    `model_label` names the model in a row. `running` and `waiting` count requests, `cache_usage` is a share of 1,
    `started` is in Unix time; `first_token`, `between_tokens`, `queue_seconds` and `request_seconds` are histograms of
    seconds; the others count up.
    """

    path: str
    model_label: str
    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    prompt_tokens: tuple[str, ...] = ()
    generation_tokens: tuple[str, ...] = ()
    cache_usage: tuple[str, ...] = ()
    cache_queries: tuple[str, ...] = ()
    cache_hits: tuple[str, ...] = ()
    first_token: tuple[str, ...] = ()
    between_tokens: tuple[str, ...] = ()
    queue_seconds: tuple[str, ...] = ()
    request_seconds: tuple[str, ...] = ()
    preemptions: tuple[str, ...] = ()
    started: tuple[str, ...] = ()


class MemorySetting(Struct, frozen=True, kw_only=True):
    """A setting that decides on memory: its declaration, and which fields of EngineSettings a text of it fills.

    `option`: the flag of `fit`, None for the engine's own. One without a key is none of a plan.
    """

    spec: SettingSpec
    read: Callable[[str], Mapping[str, Any]]
    option: str | None = None

    @property
    def name(self) -> str:
        """The engine's name of it: its flag without dashes."""
        return (self.spec.flag or "").removeprefix("--").replace("-", "_")


def fields_of(settings: Iterable[MemorySetting], values: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of EngineSettings that values fill, by the settings' names; what cannot be read is left out."""
    filled: dict[str, Any] = {}
    for setting in settings:
        try:
            filled |= setting.read(values[setting.name]) if setting.name in values else {}
        except (ValueError, AttributeError, TypeError):
            continue
    return filled


def pinned_fields(settings: Iterable[MemorySetting], pins: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of EngineSettings that pins fill, which stand under the settings' keys."""
    rows = tuple(row for row in settings if row.spec.key in pins)
    return fields_of(rows, {row.name: pins[row.spec.key] for row in rows})


class EngineNeeds(Struct, frozen=True, kw_only=True):
    """What the model and the person ask of the engine.

    `minimum` and `maximum` are the first and last release that serve `model` (a name, for messages); `exact` is the
    release that was asked for.
    `allow_vulnerable`: releases with known remote-code or key-bypass holes may be chosen.
    """

    minimum: str | None = None
    maximum: str | None = None
    model: str | None = None
    exact: str | None = None
    allow_vulnerable: bool = False


class ImageChoice(Struct, frozen=True, kw_only=True):
    """The image to run. `cuda` is major.minor, None on a CPU; `env` must be set in its container."""

    name: str
    version: str
    image: str
    cuda: str | None
    env: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    source: str


class EngineTask(Struct, frozen=True, kw_only=True):
    """One model that an engine is to serve on a host.

    `model`: where it is loaded from, with why, and where and by whom it was named. `pins`: by the engine's plain keys.
    `wished_context`: tokens, where the environment asks for them; `wished_in` is its file. `objective`: None where
    nobody named one. `in_turns`: it shares its engine with others. `promised_bytes`: what engines of other models take
    of the processor's memory. `written`: by those keys, the file and the place in it where a person wrote a pin.
    """

    host: Host
    llm: Llm
    facts: ModelFacts
    role: Role
    pins: Mapping[str, str]
    wished_context: int | None
    wished_in: str
    model: Setting
    objective: Objective | None = None
    in_turns: bool = False
    promised_bytes: int = 0
    written: Mapping[str, str] = field(default_factory=dict)

    def pinned_count(self, key: str) -> int | None:
        """Return a pinned whole number, None where the key is free or pinned to `auto`."""
        return int(self.pins[key]) if self.pins.get(key, "auto") != "auto" else None


class Communication(Struct, frozen=True, kw_only=True):
    """Engine arguments for one replica's ranks, and why; `warnings` are what a person should look at."""

    arguments: tuple[str, ...]
    reason: str
    warnings: tuple[str, ...] = ()


class FormatRule(Struct, frozen=True, kw_only=True):
    """From which compute capability each kernel runs a format; None: it has no such kernel.

    `methods`: the least that a checkpoint of one method needs beside that, by `quant_method`.
    """

    source: str
    native: str | None = None
    weight_only: str | None = None
    older: str | None = None
    methods: Mapping[str, str] = field(default_factory=dict)


class StartLog(Struct, frozen=True, kw_only=True):
    """How an engine's log tells of its start.

    `steps`: what marks each, in the order in which a start passes them. `banner`: where a new start begins; a log holds
    several. `prefix`: what its logger writes before a message; it matches the empty text too.
    """

    steps: tuple[tuple[re.Pattern[str], Step], ...]
    banner: re.Pattern[str]
    prefix: re.Pattern[str]


class EngineLaunch(Struct, frozen=True, kw_only=True):
    """How an engine's server is started, whatever the plan. It takes `--host` and `--port`.

    `script`: the file of compose/engine/ that a shell starts it by; None: `program` is what the arguments stand behind.
    `queue_bytes`: what its worker processes need of /dev/shm at least. `in_base`: compose/compose.yaml has what every
    plan says of it; else each plan says it whole. `traces_flag`: takes the address that traces are sent to by OTLP.
    """

    queue_bytes: int
    script: str | None = None
    program: tuple[Word, ...] = ()
    variables: Mapping[str, Word] = field(default_factory=dict)
    in_base: bool = False
    traces_flag: str | None = None


class Engine(Protocol):
    """One family of serving programs.

    `title` is its name in sentences, `gateway_prefix` what LiteLLM calls it. `endpoints`: what clients ask that its
    server answers in their own form, each with the first release that does, so that the gateway need not translate.
    `port` and `health_path` are its server's
    inside a container. `flags`: each flag that carries a setting, with the setting's key. `failures`: its known
    failures, in the form of diagnosis/failures.yaml. `memory_settings`: those that decide on memory.
    `processor_requests`, `processor_step_tokens`: worked on at once, and in one step, by each rank on a processor where
    nobody says.
    `ask_program`: the Python program that asks the engine's own code whether it takes argument lists, before a model is
    loaded; it runs where the engine is installed (its own first lines say what it reads and prints). None
    where there is none.
    `metrics`: where its server tells how it fares; None where it does not.
    `length_variable`: set to 1, it makes the engine take a context beyond the model's own; None where there is none.
    """

    name: str
    title: str
    gateway_prefix: str
    endpoints: Mapping[str, str]
    port: int
    health_path: str
    keys: EngineKeys
    settings: tuple[SettingSpec, ...]
    flags: Mapping[str, str]
    memory_settings: tuple[MemorySetting, ...]
    failures: Path | None
    ask_program: Path | None
    processor_requests: int
    processor_step_tokens: int
    length_variable: str | None
    metrics: EngineMetrics | None

    @property
    def launch(self) -> EngineLaunch:
        """How its server is started."""

    @property
    def load_generator(self) -> LoadGenerator | None:
        """What measures its server under load; None where it brings nothing for that."""

    @property
    def start_log(self) -> StartLog:
        """How the engine's log tells of its start."""

    def read_start(self, log: str) -> ObservedStart | None:
        """Return what the last start in a log shows of its settings and memory; None where the log has none."""

    def role_of(self, config: ModelConfig, catalog: Catalog) -> Role:
        """Return what a model is made for, as the engine itself tells it."""

    def overridden(self, facts: ModelFacts, pins: Mapping[str, str]) -> ModelFacts:
        """Return a model as the pins, by the engine's plain keys, change its configuration."""

    def check_role(self, facts: ModelFacts, role: Role, catalog: Catalog) -> None:
        """Refuse what the engine cannot serve. Raises NoPlanError."""

    def check_release(self, facts: ModelFacts, settings: EngineSettings, host: Host, catalog: Catalog) -> None:
        """Refuse a model that the settings' release does not serve, read or run on this host. Raises NoPlanError."""

    def cache_formats(
        self, facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog
    ) -> tuple[str, ...]:
        """Return the formats of the cache that a plan may choose on these GPUs, the best first, then smaller ones."""

    def build_for(self, gpu: OtherGpu) -> str | None:
        """Return what serves a GPU of another maker than NVIDIA, as the rest of a hint; None where nothing does."""

    def drafting_settings(self, shape: Shape, tokens: int) -> Mapping[str, str]:
        """Return the settings, by key, that let a model's own layers draft so many tokens; empty where it has none."""

    def choose_image(
        self, task: EngineTask, gpus: tuple[Gpu, ...], catalog: Catalog, needs: EngineNeeds
    ) -> ImageChoice:
        """Choose the image for these GPUs, none on a processor; a pinned one is taken as it is. Raises NoPlanError."""

    def arguments(
        self, mode: Mode, values: Mapping[str, str], role: Role, catalog: Catalog | None = None
    ) -> tuple[str, ...]:
        """Return the argument list for the settings in `values`; `catalog`: how undeclared flags are read."""

    def route_arguments(self, given: Iterable[object] | Mapping[str, object], where: str) -> dict[str, str]:
        """Return the settings, by key, that carry flags which a person gives. Raises UsageError."""

    def adapter_settings(self, adapters: tuple[Adapter, ...]) -> dict[str, str]:
        """Return the settings, by key, that make the engine serve LoRA adapters. Raises UsageError for a rank."""

    def host_files(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the files and folders of the host that settings name, beside the model: absolute paths."""

    def model_warnings(self, config: ModelConfig) -> tuple[str, ...]:
        """Return what a person should know of how the engine serves a model."""

    def argument_warnings(self, pins: Mapping[str, str]) -> tuple[str, ...]:
        """Return what a person should know of the flags that were given."""

    def environment(self, mode: Mode, values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the engine's own variables as (name, value) pairs."""

    def process_environment(self, *, cramped: bool) -> dict[str, str]:
        """Return what the engine needs as a process of the host; `cramped`: /dev/shm holds no queue of its workers."""

    def recipe(self, engine: PlannedEngine, *, on_gpus: bool, hears: bool = False) -> Recipe:
        """Return how the virtual environment is made that its processes run in; `hears`: a model takes sound."""

    def communication(self, host: Host, group: tuple[Gpu, ...]) -> Communication:
        """Decide how the ranks on `group`, all of one replica, talk."""

    def model_settings(
        self, task: EngineTask, placement: Placement, catalog: Catalog, version: str
    ) -> dict[str, Setting]:
        """Return the settings that follow from the model and its ranks. Raises NoPlanError for a wrong pin."""

    def gpu_settings(self, placement: Placement, solution: Solution, share: Setting) -> dict[str, Setting]:
        """Return what only GPUs have: `share` of each, and what was found to fit into it."""

    def processor_settings(self, task: EngineTask) -> dict[str, Setting]:
        """Return what only a processor has."""

    def forecast(self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts) -> Forecast:
        """Forecast the memory of the fullest rank, and whether one request of the asked length fits."""

    def solve(
        self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts, aim: Objective
    ) -> Solution | None:
        """Return the best settings that surely fit, keeping what `settings` gives; None where none do."""

    def longest_request(self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts) -> int:
        """Return the length, in tokens, that the most frugal settings surely hold; 0 where they hold none."""

    def parameter_bytes(self, shape: Shape) -> int:
        """Return what the model's parameters take in all ranks together."""

    def finds_context(self, version: str) -> bool:
        """Return whether a release can look for the longest context itself when it starts."""

    def recuts_experts(self, version: str, gpus: tuple[Gpu, ...]) -> bool:
        """Return whether a release cuts blocks of FP8 experts finer on these GPUs, where a split needs it."""

    def may_copy_encoder(self, task: EngineTask, version: str, catalog: Catalog) -> bool:
        """Return whether each rank may keep all of the model's encoder where its heads cannot be split."""

    def keeps_experts_whole(self, version: str, catalog: Catalog) -> bool:
        """Return whether a release can give each rank whole experts, and not a part of each."""

    def has_stages(self, config: ModelConfig, version: str, catalog: Catalog) -> bool:
        """Return whether pipeline stages may share the model's layers."""

    def compiles_attention(
        self, facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog, cache_format: str
    ) -> bool:
        """Return whether a model's attention has kernels that are compiled by NVIDIA's compiler at the first start."""

    def least_step_tokens(self, shape: Shape) -> int | None:
        """Return the tokens that a step has to take where no text may be cut into steps; None for most models."""

    def forecast_on_processor(
        self, task: EngineTask, values: Mapping[str, str], version: str, gateway_bytes: int
    ) -> Forecast | None:
        """Forecast the plan with the values in force; None where the host's memory is not known."""

    def forecast_fit_on_processor(
        self, facts: ModelFacts, settings: EngineSettings, host: Host, gateway_bytes: int
    ) -> Forecast | None:
        """Forecast settings that a person named, with the cache that a plan would have; None as above."""

    def processor_release(self) -> str | None:
        """Return the release that serves on a processor where nobody asks for one; None where any may."""

    def format_rules(self, catalog: Catalog, version: str | None) -> Mapping[WeightFormat, FormatRule]:
        """Return which kernels run each format that a release runs; the newest known one where `version` is None."""

    def problem_with_value(self, key: str, value: str, version: str, catalog: Catalog) -> str | None:
        """Return what is allowed for one of its settings if a release does not take `value`.

        None if it does, or nobody knows.
        """

    def wsl_variable(self, version: str) -> str | None:
        """Return the variable without which a release ends under WSL; None for one that needs none."""
