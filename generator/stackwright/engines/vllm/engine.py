"""vLLM as the rest of the package asks for it. Pure; what a method needs is imported when it is called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog, order_release
from stackwright.domain.forecast import EngineSettings, Forecast, GpuMemory, ObservedStart, Solution
from stackwright.domain.host import Gpu, Host, OtherGpu
from stackwright.domain.model_facts import ModelConfig, ModelFacts, WeightFormat
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Adapter, Mode, PlannedEngine, Setting
from stackwright.domain.recipe import Recipe
from stackwright.domain.role import Role
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import WeightFacts
from stackwright.engines.protocol import (
    Communication,
    EngineLaunch,
    EngineMetrics,
    EngineNeeds,
    EngineTask,
    FormatRule,
    ImageChoice,
    LoadGenerator,
    StartLog,
)
from stackwright.engines.vllm.memory_settings import MEMORY_SETTINGS
from stackwright.engines.vllm.settings import CPU_RELEASE, DTYPE, EXPERT_PARALLEL_FLAG, FLAGS, KEYS, SETTINGS
from stackwright.errors import NoPlanError
from stackwright.models.checkpoint import MIXED

# What is taken in a step on most GPUs where nobody says otherwise (0.32.0 engine/arg_utils.py, get_batch_defaults).
LEAST_STEP_TOKENS = 2048
# The first sampled release that takes `--max-model-len auto` (engine/arg_utils.py, human_readable_int_or_auto).
AUTO_RELEASE = "0.14.1"

# Which number formats the kernels run, from which compute capability on; where the engine unpacks the weights, the
# bounds are those of the release (catalog/formats.yaml), by the names that `_UNPACKED` has for them.
_BLACKWELL = "10.0"
_LAYERS = "vLLM 0.32.0 model_executor/layers/quantization/"
# Read 2026-11-21. The bounds are those of the engine's own `get_min_capability` and platform checks.
_FORMAT_RULES = {
    # GPUs below are refused (docs/getting_started/installation/gpu, 0.32.0); bfloat16 below 8.0 is run as float16.
    **dict.fromkeys(
        (WeightFormat.FP32, WeightFormat.BF16, WeightFormat.FP16),
        FormatRule(native="7.0", source="docs/getting_started/installation/gpu"),
    ),
    WeightFormat.FP8: FormatRule(native="8.9", source=_LAYERS + "fp8.py; platforms/cuda.py"),
    WeightFormat.INT8: FormatRule(native="7.5", source=_LAYERS + "compressed_tensors/schemes"),
    WeightFormat.NVFP4: FormatRule(native=_BLACKWELL, source=_LAYERS + "modelopt.py; utils/marlin_utils_fp4.py"),
    WeightFormat.MXFP4: FormatRule(native=_BLACKWELL, source=_LAYERS + "mxfp4.py"),
    WeightFormat.GPTQ8: FormatRule(older="7.0", source=_LAYERS + "auto_gptq.py"),
    WeightFormat.AWQ: FormatRule(older="7.5", source=_LAYERS + "auto_awq.py"),
    WeightFormat.GPTQ: FormatRule(older="7.0", source=_LAYERS + "auto_gptq.py"),
    WeightFormat.INT4: FormatRule(source=_LAYERS + "compressed_tensors/schemes/compressed_tensors_wNa16.py"),
}
# Marlin's kernels; those of AWQ and GPTQ are the ones of compressed-tensors' integers (utils/marlin_utils.py).
_MARLIN = "compressed-tensors/wNa16"
# ModelOpt's FP8 asks for more than FP8 does otherwise.
_MODELOPT = "modelopt"
_UNPACKED = {
    WeightFormat.FP8: "fp8",
    WeightFormat.NVFP4: "modelopt_fp4",
    WeightFormat.MXFP4: "mxfp4",
    **dict.fromkeys(
        (WeightFormat.INT8, WeightFormat.GPTQ8, WeightFormat.AWQ, WeightFormat.GPTQ, WeightFormat.INT4), _MARLIN
    ),
}


class Vllm:
    """vLLM, as of release 0.32.0 and back to those that the catalog knows."""

    name = "vllm"
    title = "vLLM"
    gateway_prefix = "hosted_vllm"
    # The routes of its server in the sdists of the releases (vllm/entrypoints, 2026-11-29).
    endpoints: Mapping[str, str] = {
        "chat/completions": "0.6.5",
        "completions": "0.6.5",
        "embeddings": "0.6.5",
        "rerank": "0.7.0",
        "responses": "0.10.0",
        "messages": "0.11.1",
        "messages/count_tokens": "0.17.0",
        "audio/transcriptions": "0.10.0",
        "audio/translations": "0.10.0",
    }
    port = 8000
    health_path = "/health"
    keys = KEYS
    settings = SETTINGS
    flags: Mapping[str, str] = FLAGS
    memory_settings = MEMORY_SETTINGS
    failures: Path | None = Path(__file__).parent / "failures.yaml"
    ask_program: Path | None = Path(__file__).parent / "ask_engine.py"
    # On a CPU (0.32.0 engine/arg_utils.py, get_batch_defaults).
    processor_requests = 128
    processor_step_tokens = 2048
    # vLLM then only warns of a length beyond the model's own (0.32.0 envs.py).
    length_variable: str | None = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
    # 0.32.0 v1/metrics/loggers.py; the names behind are those of releases before 0.11 (docs/design/metrics.md there).
    metrics: EngineMetrics | None = EngineMetrics(
        path="/metrics",
        model_label="model_name",
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        prompt_tokens=("vllm:prompt_tokens_total",),
        generation_tokens=("vllm:generation_tokens_total",),
        cache_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        cache_queries=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        cache_hits=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        first_token=("vllm:time_to_first_token_seconds",),
        between_tokens=("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        queue_seconds=("vllm:request_queue_time_seconds",),
        request_seconds=("vllm:e2e_request_latency_seconds",),
        preemptions=("vllm:num_preemptions_total",),
        started=("process_start_time_seconds",),
    )

    @cached_property
    def launch(self) -> EngineLaunch:
        """How vLLM's server is started."""
        from stackwright.engines.vllm.launch import LAUNCH

        return LAUNCH

    @cached_property
    def load_generator(self) -> LoadGenerator | None:
        """vLLM's own: `vllm bench serve`."""
        from stackwright.engines.vllm.load_generator import GENERATOR

        return GENERATOR

    def build_for(self, gpu: OtherGpu) -> str | None:
        """Return what serves a GPU of another maker than NVIDIA; None where nothing does."""
        from stackwright.engines.vllm.other_makers import build_for

        return build_for(gpu)

    @cached_property
    def start_log(self) -> StartLog:
        """How vLLM's log tells of its start."""
        from stackwright.domain.service import Step

        return StartLog(
            # Lines of 0.32.0's log. Words of what a step says of itself: the configuration that is logged first names
            # torch.compile and CUDA graphs also where neither is used. Profiling stands twice because compiling is a
            # part of it, and memory is told last.
            steps=(
                (re.compile(r"Starting to load model |Loading \w+ checkpoint shards"), Step.LOADING),
                (re.compile(r"Model loading took |Loading weights took "), Step.PROFILING),
                (
                    re.compile(r"Starting torch\.compile|Dynamo bytecode transform time|for the compilation\.\.\."),
                    Step.COMPILING,
                ),
                (re.compile(r"Available KV cache memory: |KV cache size: [0-9]|Initial profiling"), Step.PROFILING),
                (re.compile(r"Capturing (\w+ )?CUDA graphs|Graph capturing finished"), Step.CAPTURING),
                (re.compile(r"Starting vLLM server on |Application startup complete"), Step.OPENING),
            ),
            # The third line of the banner: what stands before the last one was said by an earlier start of the service.
            banner=re.compile(r"█  version [0-9]"),
            # `(EngineCore pid=208) ERROR 11-21 03:30:18 [core.py:1510] `
            prefix=re.compile(r"(\(\w[\w.-]* pid=\d+\) ?)?([A-Z]+ [0-9-]+ [0-9:.]+ \[\w[\w.]*:\d+\] ?)?"),
        )

    def read_start(self, log: str) -> ObservedStart | None:
        """Return what the last start in a log shows of its settings and memory; None where the log has none."""
        from stackwright.engines.vllm.start_report import read_start

        return read_start(log)

    def role_of(self, config: ModelConfig, catalog: Catalog) -> Role:
        """Return what a model is made for, by vLLM's registry, else by the end of its architecture's name."""
        from stackwright.engines.vllm.arguments import role_of

        return role_of(config, catalog)

    def overridden(self, facts: ModelFacts, pins: Mapping[str, str]) -> ModelFacts:
        """Return a model with the architecture and the scores that `--hf-overrides` gives it."""
        from stackwright.engines.vllm.overrides import overridden

        return overridden(facts, pins)

    def check_role(self, facts: ModelFacts, role: Role, catalog: Catalog) -> None:
        """Refuse what vLLM would not start with, or would answer with numbers that mean nothing. Raises NoPlanError."""
        from stackwright.engines.vllm.arguments import check_role

        check_role(facts, role, catalog)

    def check_release(self, facts: ModelFacts, settings: EngineSettings, host: Host, catalog: Catalog) -> None:
        """Refuse a model that the settings' release does not serve, read or run on this host. Raises NoPlanError."""
        from stackwright.engines.vllm.attention import check_attention
        from stackwright.engines.vllm.image_refusal import check_architecture, check_dtype, check_formats
        from stackwright.engines.vllm.optional import check_drafter
        from stackwright.engines.vllm.processor_refusal import check_processor

        version, gpus = settings.version, host.gpus
        if version is None:
            return
        check_architecture(facts, version, catalog)
        check_formats(facts, version, gpus, catalog)
        if not gpus:
            check_processor(facts, version, host.cpu, catalog)
        check_dtype(facts, version, gpus, catalog, settings.dtype)
        check_attention(facts, version, gpus, catalog, settings.kv_cache_dtype)
        check_drafter(settings, facts.config.shape, version)

    def cache_formats(
        self, facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog
    ) -> tuple[str, ...]:
        """Return `auto`, or what stands in for a model's own format without a kernel, and `fp8` where it has one."""
        from stackwright.engines.vllm.attention import cache_formats

        return cache_formats(facts.config.shape, version, gpus, catalog)

    def drafting_settings(self, shape: Shape, tokens: int) -> Mapping[str, str]:
        """Return the one setting that makes prediction layers draft (0.33.0 config/speculative.py: method `mtp`)."""
        from stackwright.engines.vllm.extra_arguments import SPECULATIVE

        told = json.dumps({"method": "mtp", "num_speculative_tokens": tokens}, separators=(",", ":"))
        return {SPECULATIVE: told} if shape.draft_layers else {}

    def choose_image(
        self, task: EngineTask, gpus: tuple[Gpu, ...], catalog: Catalog, needs: EngineNeeds
    ) -> ImageChoice:
        """Choose the image for these GPUs and the task's model; a pinned one is taken as it is. Raises NoPlanError."""
        from stackwright.engines.vllm.arguments import SOCKET_RELEASE
        from stackwright.engines.vllm.attention import check_attention
        from stackwright.engines.vllm.image import choose_image
        from stackwright.engines.vllm.image_pin import pinned_image
        from stackwright.engines.vllm.image_refusal import check_dtype, check_formats, unlisted_architecture
        from stackwright.engines.vllm.processor_refusal import check_processor

        known = catalog.architectures()
        first, last = known.releases(task.facts.config.architecture) or (None, None)
        # What the oldest sample has may be older still.
        least = _least_release(task, needs, first if first != known.sampled[0] else None)
        needs = replace(needs, model=task.llm.name, minimum=least, maximum=last)
        by_default = not gpus and needs.exact is None
        needs = replace(needs, exact=CPU_RELEASE) if by_default else needs
        if KEYS.image in task.pins:
            return pinned_image(task.pins[KEYS.image], task.host, gpus, catalog, needs)
        try:
            chosen = choose_image(task.host, gpus, catalog, needs)
        except NoPlanError as refusal:
            if not task.in_turns or needs.minimum != SOCKET_RELEASE:
                raise
            raise NoPlanError(f"{refusal.message}; models in turn need {SOCKET_RELEASE}", hint=refusal.hint) from None
        check_formats(task.facts, chosen.version, gpus, catalog)
        if not gpus:
            check_processor(task.facts, chosen.version, task.host.cpu, catalog)
        check_dtype(task.facts, chosen.version, gpus, catalog, task.pins.get(DTYPE))
        best = self.cache_formats(task.facts, chosen.version, gpus, catalog)[0]
        check_attention(task.facts, chosen.version, gpus, catalog, task.pins.get(KEYS.cache_format or "", best))
        why = ("no GPU in use: the CPU release of both runtimes",)
        unlisted = () if first else unlisted_architecture(task.facts, chosen.name)
        chosen = replace(chosen, warnings=(*chosen.warnings, *unlisted))
        return replace(chosen, reasons=why) if by_default else chosen

    def arguments(
        self, mode: Mode, values: Mapping[str, str], role: Role, catalog: Catalog | None = None
    ) -> tuple[str, ...]:
        """Return the argument list for the settings in `values`; `catalog`: how undeclared flags are read."""
        from stackwright.engines.vllm.arguments import engine_arguments

        return engine_arguments(mode, values, role, catalog)

    def route_arguments(self, given: Iterable[object] | Mapping[str, object], where: str) -> dict[str, str]:
        """Return the settings, by key, that carry flags which a person gives. Raises UsageError."""
        from stackwright.engines.vllm.extra_arguments import route_arguments

        return route_arguments(given, where)

    def adapter_settings(self, adapters: tuple[Adapter, ...]) -> dict[str, str]:
        """Return the settings, by key, that make vLLM serve LoRA adapters. Raises UsageError for a rank."""
        from stackwright.engines.vllm.extra_arguments import adapter_settings

        return adapter_settings(adapters)

    def host_files(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the files and folders of the host that settings name, beside the model: absolute paths."""
        from stackwright.engines.vllm.extra_arguments import host_files

        return host_files(values)

    def model_warnings(self, config: ModelConfig) -> tuple[str, ...]:
        """Return what a person should know of how vLLM serves a model."""
        from stackwright.engines.vllm.arguments import model_warnings

        return model_warnings(config)

    def argument_warnings(self, pins: Mapping[str, str]) -> tuple[str, ...]:
        """Return what a person should know of the flags that were given."""
        from stackwright.engines.vllm.extra_arguments import argument_warnings

        return argument_warnings(pins)

    def environment(self, mode: Mode, values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return vLLM's own variables as (name, value) pairs."""
        from stackwright.engines.vllm.arguments import engine_environment

        return engine_environment(mode, values)

    def process_environment(self, *, cramped: bool) -> dict[str, str]:
        """Return what vLLM needs as a process of the host; `cramped`: /dev/shm holds no queue of its workers."""
        from stackwright.engines.vllm.arguments import process_environment

        return process_environment(cramped=cramped)

    def recipe(self, engine: PlannedEngine, *, on_gpus: bool, hears: bool = False) -> Recipe:
        """Return how the virtual environment is made that its processes run in."""
        from stackwright.engines.vllm.launch import recipe

        return recipe(engine, on_gpus=on_gpus, hears=hears)

    def communication(self, host: Host, group: tuple[Gpu, ...]) -> Communication:
        """Decide how the ranks on `group`, all of one replica, talk."""
        from stackwright.engines.vllm.communication import choose_communication

        return choose_communication(host, group)

    def model_settings(
        self, task: EngineTask, placement: Placement, catalog: Catalog, version: str
    ) -> dict[str, Setting]:
        """Return the settings that follow from the model and its ranks. Raises NoPlanError for a wrong pin."""
        from stackwright.engines.vllm.plan_settings import model_settings

        return model_settings(task, placement, catalog, version)

    def gpu_settings(self, placement: Placement, solution: Solution, share: Setting) -> dict[str, Setting]:
        """Return what only GPUs have: `share` of each, and what was found to fit into it."""
        from stackwright.engines.vllm.plan_settings import gpu_settings

        return gpu_settings(placement, solution, share)

    def processor_settings(self, task: EngineTask) -> dict[str, Setting]:
        """Return what only a processor has."""
        from stackwright.engines.vllm.cpu import cpu_settings

        return cpu_settings(task)

    def forecast(self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts) -> Forecast:
        """Forecast the memory of the fullest rank, and whether one request of the asked length fits."""
        from stackwright.engines.vllm.memory.asked import as_asked
        from stackwright.engines.vllm.memory.forecast import forecast

        shape, settings, weights = as_asked(shape, settings, weights)
        return forecast(shape, settings, gpu, tensors=weights.tensors, weight_bytes=weights.weight_bytes)

    def solve(
        self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts, aim: Objective
    ) -> Solution | None:
        """Return the best settings that surely fit, keeping what `settings` gives; None where none do."""
        from stackwright.engines.vllm.memory.asked import as_asked
        from stackwright.engines.vllm.memory.defaults import engines_own
        from stackwright.engines.vllm.memory.solve import solve

        shape, settings, weights = as_asked(shape, settings, weights)
        found = solve(shape, settings, gpu, aim=aim, tensors=weights.tensors, weight_bytes=weights.weight_bytes)
        return found and replace(found, engines_own=engines_own(shape, found.settings, gpu))

    def longest_request(self, shape: Shape, settings: EngineSettings, gpu: GpuMemory, weights: WeightFacts) -> int:
        """Return the length, in tokens, that the most frugal settings surely hold; 0 where they hold none."""
        from stackwright.engines.vllm.memory.asked import as_asked
        from stackwright.engines.vllm.memory.solve import longest_request

        shape, settings, weights = as_asked(shape, settings, weights)
        return longest_request(shape, settings, gpu, tensors=weights.tensors, weight_bytes=weights.weight_bytes)

    def parameter_bytes(self, shape: Shape) -> int:
        """Return what the model's parameters take in all ranks together."""
        from stackwright.engines.vllm.memory.weights import parameter_bytes

        return parameter_bytes(shape)

    def finds_context(self, version: str) -> bool:
        """Return whether a release can look for the longest context itself when it starts."""
        return order_release(version) >= order_release(AUTO_RELEASE)

    def recuts_experts(self, version: str, gpus: tuple[Gpu, ...]) -> bool:
        """Return whether a release cuts blocks of FP8 experts finer on these GPUs, where a split needs it."""
        from stackwright.engines.memory.gpu import capability
        from stackwright.engines.vllm.memory.releases import recuts_experts

        return bool(gpus) and all(recuts_experts(version, capability(gpu.compute_capability)) for gpu in gpus)

    def may_copy_encoder(self, task: EngineTask, version: str, catalog: Catalog) -> bool:
        """Return whether each rank may keep all of the model's encoder where its heads cannot be split."""
        from stackwright.engines.vllm.media import may_copy_encoder

        return may_copy_encoder(task, version, catalog)

    def keeps_experts_whole(self, version: str, catalog: Catalog) -> bool:
        """Return whether a release has expert parallelism."""
        return catalog.flags().has(EXPERT_PARALLEL_FLAG, version) is True

    def has_stages(self, config: ModelConfig, version: str, catalog: Catalog) -> bool:
        """Return whether pipeline stages may share the layers.

        0.33.0 config/model.py, verify_with_parallel_config; model_executor/models/config.py, verify_and_update_config.
        """
        return catalog.architectures().has_stages(config.architecture, config.fields, version)

    def compiles_attention(
        self, facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog, cache_format: str
    ) -> bool:
        """Return whether FlashInfer has the first kernel for a model's attention on one of these GPUs."""
        from stackwright.engines.vllm.attention import compiles_attention

        return compiles_attention(facts.config.shape, version, gpus, catalog, cache_format)

    def least_step_tokens(self, shape: Shape) -> int | None:
        """Return the tokens that a step has to take where no text may be cut into steps; None for most models.

        vLLM does not start where a text may be longer than a step (0.32.0 config/scheduler.py, verify_max_model_len).
        """
        return max(LEAST_STEP_TOKENS, shape.max_positions) if shape.is_encoder else None

    def forecast_on_processor(
        self, task: EngineTask, values: Mapping[str, str], version: str, gateway_bytes: int
    ) -> Forecast | None:
        """Forecast the plan with the values in force; None where the host's memory is not known."""
        from stackwright.engines.vllm.cpu import forecast_cpu_plan

        return forecast_cpu_plan(task, values, version, gateway_bytes)

    def forecast_fit_on_processor(
        self, facts: ModelFacts, settings: EngineSettings, host: Host, gateway_bytes: int
    ) -> Forecast | None:
        """Forecast settings that a person named, with the cache that a plan would have; None as above."""
        from stackwright.engines.vllm.cpu import forecast_cpu_fit

        return forecast_cpu_fit(facts, settings, host, gateway_bytes)

    def processor_release(self) -> str | None:
        """Return the release whose packages are locked for processors."""
        return CPU_RELEASE

    def format_rules(self, catalog: Catalog, version: str | None) -> Mapping[WeightFormat, FormatRule]:
        """Return which kernels run each format in a release, the newest where none is named."""
        table, rules = catalog.formats(), dict(_FORMAT_RULES)
        newest = order_release(version or table.sampled[-1])
        read = [sampled for sampled in table.sampled if order_release(sampled) <= newest]
        if not read:
            return rules
        for weight_format, name in _UNPACKED.items():
            rules[weight_format] = replace(rules[weight_format], weight_only=table.runs_from((name,), read[-1]))
        if least := table.runs_from((_MODELOPT,), read[-1]):
            rules[WeightFormat.FP8] = replace(rules[WeightFormat.FP8], methods={_MODELOPT: least})
        if least := table.runs_from((MIXED,), read[-1]):
            rules[WeightFormat.NVFP4] = replace(rules[WeightFormat.NVFP4], methods={MIXED: least})
        return rules

    def problem_with_value(self, key: str, value: str, version: str, catalog: Catalog) -> str | None:
        """Return which parsers or methods a release has if `value` is none of them; None if it is, or nobody knows."""
        from stackwright.engines.vllm.parsers import PARSER_KEYS, problem_with_parser
        from stackwright.engines.vllm.settings import NO_PARSER, QUANTIZATION

        if key == QUANTIZATION and catalog.formats().reads(value, version) is False:
            last = catalog.formats().last_reader(value)
            return f"a method that vLLM {version} reads" + (f"; {value} left it after {last}" if last else "")
        if key not in PARSER_KEYS or value == NO_PARSER:
            return None
        return problem_with_parser(catalog.parsers(), key, value, version)

    def wsl_variable(self, version: str) -> str | None:
        """Return the variable without which a release ends under WSL; None for one that needs none."""
        from stackwright.engines.vllm.image import PINNED_MEMORY, wants_pinned_memory

        return PINNED_MEMORY if wants_pinned_memory(version) else None


def _least_release(task: EngineTask, needs: EngineNeeds, first: str | None) -> str | None:
    """Return the oldest release that serves the model as it is asked for; None where any may.

    `first`: the first one that has its architecture.
    """
    from stackwright.engines.vllm.arguments import POOLING_RELEASE, SOCKET_RELEASE, SPEECH_RELEASE
    from stackwright.engines.vllm.media import MEDIA_RELEASE

    bounds = (
        needs.minimum or task.facts.minimum_engine,
        first,
        POOLING_RELEASE if task.role.pools else None,
        SPEECH_RELEASE if task.role is Role.TRANSCRIPTION else None,
        SOCKET_RELEASE if task.in_turns else None,
        MEDIA_RELEASE if task.facts.config.takes_media else None,
    )
    return max((bound for bound in bounds if bound is not None), key=order_release, default=None)


VLLM = Vllm()
