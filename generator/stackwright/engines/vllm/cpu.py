"""The plan's settings and forecast where the engine runs on the processor. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from stackwright.domain.forecast import EngineSettings, Forecast
from stackwright.domain.host import Host
from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.plan import Setting
from stackwright.engines.protocol import EngineTask, pinned_fields
from stackwright.engines.vllm.memory.asked import as_asked
from stackwright.engines.vllm.memory.cpu import CpuMemory, forecast_on_cpu, needed_space_bytes
from stackwright.engines.vllm.memory_settings import MEMORY_SETTINGS
from stackwright.engines.vllm.settings import CPU_RELEASE, KEYS
from stackwright.units import GIB, format_bytes

SMOKE_CONTEXT = 2048
DECISION = "docs/decisions/0002-first-plan.md"


def cpu_settings(task: EngineTask) -> dict[str, Setting]:
    """Return what only this mode emits."""
    return {
        "VLLM_DTYPE": Setting(
            value="bfloat16", reason="vLLM's recommendation for a CPU", source="vLLM docs, CPU installation, 0.32"
        ),
        "VLLM_CPU_KVCACHE_SPACE": _space(task),
        "VLLM_MAX_MODEL_LEN": _context(task),
        **_pinned_batch(task),
    }


def _pinned_batch(task: EngineTask) -> dict[str, Setting]:
    """Return the requests and tokens of a step where they are pinned: else the engine's own are as good as any."""
    pinned = (key for key in (KEYS.requests, KEYS.step_tokens) if key in task.pins)
    return {key: Setting(value=task.pins[key], reason="pinned by the user", source="--set") for key in pinned if key}


def choose_space_gib(host: Host, *, smoke: bool) -> int:
    """Return the cache per rank in GiB where no length asks for more: 1 for the smoke model or an unknown host."""
    memory = host.memory_bytes
    return 1 if smoke or memory is None else max(1, min(4, memory // (8 * GIB)))


def cpu_memory(host: Host, gateway_bytes: int, promised_bytes: int = 0) -> CpuMemory | None:
    """Return the host's memory as the engine can have it; None where it is not known.

    `promised_bytes`: what runs beside it takes.
    """
    if host.memory_bytes is None:
        return None
    return CpuMemory(
        total_bytes=host.memory_bytes,
        nodes=host.cpu.numa_nodes or 1,
        gateway_bytes=gateway_bytes,
        promised_bytes=promised_bytes,
    )


def forecast_cpu_plan(task: EngineTask, values: Mapping[str, str], version: str, gateway_bytes: int) -> Forecast | None:
    """Forecast the plan with the values in force; None where the host's memory is not known.

    `auto`: the engine itself takes the longest length that the cache holds, so that is what is asked for.
    """
    memory = cpu_memory(task.host, gateway_bytes, task.promised_bytes)
    if memory is None:
        return None
    length = values["VLLM_MAX_MODEL_LEN"]
    asked = replace(
        EngineSettings(**pinned_fields(MEMORY_SETTINGS, task.pins)),
        version=version,
        tensor_parallel=int(values["VLLM_TENSOR_PARALLEL_SIZE"]),
        pipeline_parallel=int(values["VLLM_PIPELINE_PARALLEL_SIZE"]),
        max_model_len=None if length == "auto" else int(length),
    )
    space_bytes = int(values["VLLM_CPU_KVCACHE_SPACE"]) * GIB
    answer = _forecast(task.facts, asked, space_bytes, memory)
    if length == "auto" and 0 < answer.longest < answer.max_model_len:
        return _forecast(task.facts, replace(asked, max_model_len=answer.longest), space_bytes, memory)
    return answer


def forecast_cpu_fit(facts: ModelFacts, settings: EngineSettings, host: Host, gateway_bytes: int) -> Forecast | None:
    """Forecast for settings that a person named, with the cache that a plan would have."""
    memory = cpu_memory(host, gateway_bytes)
    space_bytes = settings.kv_cache_bytes or choose_space_gib(host, smoke=facts.source is LlmSource.SMOKE) * GIB
    return _forecast(facts, settings, space_bytes, memory) if memory else None


def _forecast(facts: ModelFacts, settings: EngineSettings, space_bytes: int, memory: CpuMemory) -> Forecast:
    shape, settings, weights = as_asked(facts.config.shape, settings, facts.weights)
    return forecast_on_cpu(
        shape, settings, space_bytes, memory, tensors=weights.tensors, weight_bytes=weights.weight_bytes
    )


def _space(task: EngineTask) -> Setting:
    smoke = task.llm.source is LlmSource.SMOKE
    if task.facts.config.shape.is_encoder:
        why = "this model has no KV cache"
        return Setting(value="1", reason=why, source="vLLM 0.32.0 v1/engine/core.py, _initialize_kv_caches")
    space = choose_space_gib(task.host, smoke=smoke)
    length = task.pinned_count("VLLM_MAX_MODEL_LEN") or task.wished_context
    if length is not None:
        settings = EngineSettings(version=CPU_RELEASE)
        needed = -(-needed_space_bytes(task.facts.config.shape, settings, length) // GIB)
        if needed > space:
            reason = f"needed by one request of {length:,} tokens"
            return Setting(value=str(needed), reason=reason, source="vLLM 0.32.0 v1/worker/cpu_worker.py")
    why = "enough for the smoke model" if smoke else f"an eighth of {format_bytes(task.host.memory_bytes)}, 1 to 4"
    return Setting(value=str(space), reason=why, source=DECISION)


def _context(task: EngineTask) -> Setting:
    if task.wished_context is not None:
        return Setting(value=str(task.wished_context), reason=f"set in {task.wished_in}", source=task.wished_in)
    if task.llm.source is LlmSource.SMOKE:
        return Setting(
            value=str(SMOKE_CONTEXT), reason="enough for a test", source="generator/stackwright/models/smoke_model.py"
        )
    return Setting(
        value="auto", reason="the engine chooses the longest that fits", source="vLLM 0.32.0 _auto_fit_max_model_len"
    )
