# ruff: noqa: ARG002  (a toy needs little of what it is told)
"""The toy as the package asks for it: settings under keys of its own, one image, a memory of its own reckoning."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace
from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings, Forecast, GpuMemory, ObservedStart, Solution, Verdict
from stackwright.domain.host import Gpu, Host, OtherGpu
from stackwright.domain.model_facts import ModelConfig, ModelFacts, WeightFormat
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Adapter, Memory, Mode, PlannedEngine, Setting
from stackwright.domain.recipe import InstallStep, Recipe
from stackwright.domain.role import Role
from stackwright.domain.service import Executable, Step
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import WeightFacts
from stackwright.engines.protocol import (
    Communication,
    EngineKeys,
    EngineLaunch,
    EngineMetrics,
    EngineNeeds,
    EngineTask,
    FormatRule,
    ImageChoice,
    LoadGenerator,
    MemorySetting,
    StartLog,
)
from stackwright.errors import NoPlanError, UsageError
from stackwright.units import GIB, MIB

IMAGE, VERSION, CONTEXT = "example.org/toy:1.0", "1.0", 512
# Where its wheel lies, in the place of an index.
WHEELS = "TOY_WHEELS"


def setting(value: str) -> Setting:
    """Return a setting of the toy's."""
    return Setting(value=value, reason="toys are simple", source="tests/toy_engine/")


class Toy:
    """An engine that answers every chat alike."""

    name = "toy"
    title = "Toy"
    gateway_prefix = "openai"
    endpoints: Mapping[str, str] = {"chat/completions": "0.1"}
    port = 8000
    health_path = "/health"
    keys = EngineKeys(
        model="TOY_MODEL",
        served_name="TOY_NAME",
        image="TOY_IMAGE",
        tensor_parallel="TOY_RANKS",
        pipeline_parallel="TOY_STAGES",
        context="TOY_CONTEXT",
        shared_memory="TOY_SHARED_MEMORY",
        cache_folder="TOY_CACHE",
    )
    settings: tuple[SettingSpec, ...] = (
        SettingSpec(key="TOY_IMAGE", section="Images", kind=Kind.TEXT, meaning="Toy image"),
        SettingSpec(key="TOY_MODEL", section="Engine", kind=Kind.TEXT, meaning="Toy", flag="--model", pinnable=False),
        SettingSpec(
            key="TOY_NAME", section="Engine", kind=Kind.TEXT, meaning="Name", flag="--served-model-name", pinnable=False
        ),
        whole_number("TOY_RANKS", "Engine", (1, 8), "Ranks"),
        whole_number("TOY_STAGES", "Engine", (1, 1), "Stages"),
        whole_number("TOY_CONTEXT", "Engine", (1, 4096), "Tokens of one request", flag="--context"),
        SettingSpec(key="TOY_SHARED_MEMORY", section="Engine", kind=Kind.SIZE, meaning="Shared memory"),
        SettingSpec(key="TOY_CACHE", section="Caches", kind=Kind.PATH, meaning="Toy box"),
    )
    flags: Mapping[str, str] = {spec.flag: spec.key for spec in settings if spec.flag is not None}
    memory_settings: tuple[MemorySetting, ...] = ()
    launch = EngineLaunch(program=(Executable(name="toy-engine"),), queue_bytes=MIB)
    start_log = StartLog(
        steps=((re.compile("winding up "), Step.LOADING), (re.compile("ready to play"), Step.OPENING)),
        banner=re.compile(r"toy engine [0-9.]+ begins"),
        prefix=re.compile(r"(TOY )?"),
    )
    failures: Path | None = Path(__file__).parent / "failures.yaml"
    ask_program: Path | None = None
    processor_requests = 4
    processor_step_tokens = 64
    length_variable: str | None = None
    metrics: EngineMetrics | None = None
    load_generator: LoadGenerator | None = None

    def read_start(self, log: str) -> ObservedStart | None:
        """Print nothing of its memory."""
        return None

    def role_of(self, config: ModelConfig, catalog: Catalog) -> Role:
        """Take every model for one that chats."""
        return Role.CHAT

    def overridden(self, facts: ModelFacts, pins: Mapping[str, str]) -> ModelFacts:
        """Change nothing."""
        return facts

    def check_role(self, facts: ModelFacts, role: Role, catalog: Catalog) -> None:
        """Refuse what does not chat."""
        if not role.generates:
            raise NoPlanError(f"{facts.name}: a toy only chats", hint="name another engine")

    def check_release(self, facts: ModelFacts, settings: EngineSettings, host: Host, catalog: Catalog) -> None:
        """Serve every model."""

    def cache_formats(
        self, facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog
    ) -> tuple[str, ...]:
        """Know one format."""
        return ("auto",)

    def build_for(self, gpu: OtherGpu) -> str:
        """Name no build."""
        return "nothing"

    def drafting_settings(self, shape: Shape, tokens: int) -> Mapping[str, str]:
        """Draft nothing."""
        return {}

    def choose_image(
        self, task: EngineTask, gpus: tuple[Gpu, ...], catalog: Catalog, needs: EngineNeeds
    ) -> ImageChoice:
        """Return the one image, or the pinned one."""
        return ImageChoice(
            name=self.name,
            version=needs.exact or VERSION,
            image=task.pins.get("TOY_IMAGE", IMAGE),
            cuda=None,
            env=(("TOY_MOOD", "merry"),),
            reasons=("the only one",),
            warnings=(),
            source="tests/toy_engine/",
        )

    def arguments(
        self, mode: Mode, values: Mapping[str, str], role: Role, catalog: Catalog | None = None
    ) -> tuple[str, ...]:
        """Return the flags that carry settings."""
        return tuple(word for flag, key in self.flags.items() for word in (flag, values[key]))

    def route_arguments(self, given: Iterable[object] | Mapping[str, object], where: str) -> dict[str, str]:
        """Take no flags beside the plan's."""
        if given:
            raise UsageError(f"{where}: the toy takes no flags")
        return {}

    def adapter_settings(self, adapters: tuple[Adapter, ...]) -> dict[str, str]:
        """Serve none."""
        if adapters:
            raise UsageError("the toy serves no adapters")
        return {}

    def host_files(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Read none."""
        return ()

    def model_warnings(self, config: ModelConfig) -> tuple[str, ...]:
        """Have nothing to say."""
        return ()

    def argument_warnings(self, pins: Mapping[str, str]) -> tuple[str, ...]:
        """Have nothing to say."""
        return ()

    def environment(self, mode: Mode, values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Need nothing."""
        return ()

    def process_environment(self, *, cramped: bool) -> dict[str, str]:
        """Need nothing."""
        return {}

    def recipe(self, engine: PlannedEngine, *, on_gpus: bool, hears: bool = False) -> Recipe:
        """Install its one wheel."""
        wheels = ("--no-index", "--find-links", os.environ.get(WHEELS, ""), f"toy_engine=={engine.version}")
        return Recipe(
            name="toy",
            package="toy_engine",
            version=engine.version,
            attempts=(InstallStep(arguments=wheels),),
            size_bytes=MIB,
        )

    def communication(self, host: Host, group: tuple[Gpu, ...]) -> Communication:
        """Let ranks talk as they like."""
        return Communication(arguments=(), reason="toys shout")

    def model_settings(
        self, task: EngineTask, placement: Placement, catalog: Catalog, version: str
    ) -> dict[str, Setting]:
        """Return what follows from the model."""
        return {
            "TOY_MODEL": setting(task.llm.location),
            "TOY_NAME": setting(task.llm.name),
            "TOY_RANKS": setting(str(placement.tensor_parallel)),
            "TOY_STAGES": setting(str(placement.pipeline_parallel)),
            "TOY_SHARED_MEMORY": setting("64m"),
        }

    def gpu_settings(self, placement: Placement, solution: Solution, share: Setting) -> dict[str, Setting]:
        """Return the context that was found."""
        return {"TOY_CONTEXT": setting(str(solution.settings.max_model_len))}

    def processor_settings(self, task: EngineTask) -> dict[str, Setting]:
        """Return the one context."""
        return {"TOY_CONTEXT": setting(str(CONTEXT))}

    def forecast(self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts) -> Forecast:
        """Take the weights for all that there is."""
        length, taken = settings.max_model_len or CONTEXT, weights.weight_bytes or GIB
        verdict = Verdict.FITS if taken < gpu.total_bytes else Verdict.DOES_NOT_FIT
        memory = Memory(
            total_bytes=gpu.total_bytes,
            budget_bytes=gpu.total_bytes,
            weights_bytes=taken,
            activation_bytes=0,
            cuda_graph_bytes=0,
            overhead_bytes=0,
            kv_cache_bytes=max(0, gpu.total_bytes - taken),
            kv_bytes_per_token=1.0,
            kv_cache_tokens=CONTEXT,
            max_concurrency=1.0,
            uncertainty_bytes=0,
            verdict=verdict.value,
        )
        return Forecast(
            verdict=verdict,
            memory=memory,
            reasons=("toys weigh what they weigh",),
            warnings=(),
            max_model_len=length,
            longest=CONTEXT,
            surely=CONTEXT,
        )

    def solve(
        self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts, aim: Objective
    ) -> Solution | None:
        """Give the one context."""
        settled = replace(settings, max_model_len=settings.max_model_len or CONTEXT)
        answer = self.forecast(shape, settled, gpu, weights)
        return Solution(settings=settled, forecast=answer) if answer.verdict is Verdict.FITS else None

    def longest_request(self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts) -> int:
        """Return the one context."""
        return CONTEXT

    def parameter_bytes(self, shape: Shape) -> int:
        """Count nothing."""
        return GIB

    def finds_context(self, version: str) -> bool:
        """Leave nothing to the start."""
        return False

    def recuts_experts(self, version: str, gpus: tuple[Gpu, ...]) -> bool:
        """Return False: it has no experts."""
        return False

    def may_copy_encoder(self, task: EngineTask, version: str, catalog: Catalog) -> bool:
        """Return False: it sees nothing."""
        return False

    def keeps_experts_whole(self, version: str, catalog: Catalog) -> bool:
        """Return False: it has no experts."""
        return False

    def has_stages(self, config: ModelConfig, version: str, catalog: Catalog) -> bool:
        """Return True: it has nothing to share."""
        return True

    def compiles_attention(
        self, facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog, cache_format: str
    ) -> bool:
        """Return False: nothing is compiled."""
        return False

    def least_step_tokens(self, shape: Shape) -> int | None:
        """Cut any text."""
        return None

    def forecast_on_processor(
        self, task: EngineTask, values: Mapping[str, str], version: str, gateway_bytes: int
    ) -> Forecast | None:
        """Know nothing of processors."""
        return None

    def forecast_fit_on_processor(
        self, facts: ModelFacts, settings: EngineSettings, host: Host, gateway_bytes: int
    ) -> Forecast | None:
        """Know nothing of processors."""
        return None

    def processor_release(self) -> str | None:
        """Have one release."""
        return VERSION

    def format_rules(self, catalog: Catalog, version: str | None) -> Mapping[WeightFormat, FormatRule]:
        """Run whatever there is."""
        return dict.fromkeys(WeightFormat, FormatRule(native="1.0", source="tests/toy_engine/"))

    def problem_with_value(self, key: str, value: str, version: str, catalog: Catalog) -> str | None:
        """Take every value that its declaration takes."""
        return None

    def wsl_variable(self, version: str) -> str | None:
        """Run anywhere."""
        return None


TOY = Toy()
