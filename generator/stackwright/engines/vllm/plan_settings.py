"""vLLM's settings for a model on its ranks, and for the memory of its GPUs, each with reason and source. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings, Solution, Verdict
from stackwright.domain.host import Gpu
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Origin, Setting
from stackwright.engines.protocol import EngineTask, pinned_fields
from stackwright.engines.vllm.cpu import DECISION
from stackwright.engines.vllm.extra_arguments import argument_settings
from stackwright.engines.vllm.media import media_settings
from stackwright.engines.vllm.memory_settings import MEMORY_SETTINGS
from stackwright.engines.vllm.optional import check_drafter, optional_settings
from stackwright.engines.vllm.parsers import parser_settings
from stackwright.engines.vllm.settings import DTYPE, EXPERT_PARALLEL, first_without_bfloat16
from stackwright.units import format_bytes

# vLLM and NCCL pass tensors between ranks through /dev/shm; vLLM's CPU docs use 4g, one rank needs far less.
SHM_GIB_SINGLE, SHM_GIB_PARALLEL = 2, 16
OBJECTIVES = "docs/decisions/0015-objectives.md"
DEFAULTS = "vLLM 0.32.0 engine/arg_utils.py, get_batch_defaults"
# What the engine takes without a flag: sizes of 1, the model's own number formats (0.33.0 config/parallel.py,
# config/model.py, config/cache.py; so since 0.6.0).
ONE, AUTO = "1", "auto"
KERNELS = "catalog/attention.yaml, limits"
MEMORY = "docs/explanation/memory.md; vLLM 0.32.0 v1/worker/gpu_worker.py"


def model_settings(task: EngineTask, placement: Placement, catalog: Catalog, release: str) -> dict[str, Setting]:
    """Return the settings that follow from the model, its role and its ranks.

    Raises:
        NoPlanError: a pinned parser or flag is none of the release's, or it does not run on these ranks.
    """
    pinned = EngineSettings(**pinned_fields(MEMORY_SETTINGS, task.pins))
    check_drafter(replace(pinned, pipeline_parallel=placement.pipeline_parallel), task.facts.config.shape, release)
    ranks, parsers = placement.ranks, parser_settings(task, catalog, release)
    shm = SHM_GIB_PARALLEL if ranks > 1 else SHM_GIB_SINGLE
    stages = "no pipeline stages" if placement.pipeline_parallel == 1 else placement.reason
    own_name = task.llm.name == task.facts.name
    why_name = "the model's own name" if own_name else f"its name for clients; it is {task.facts.name}"
    why_ranks = "the engine has one GPU" if len(placement.gpus) == 1 else placement.reason
    return {
        "VLLM_MODEL": task.model,
        "VLLM_SERVED_MODEL_NAME": _setting(task.llm.name, why_name, task.model.source),
        "VLLM_TENSOR_PARALLEL_SIZE": _own_where(
            ONE,
            _setting(
                str(placement.tensor_parallel),
                why_ranks + placement.trade,
                OBJECTIVES if placement.trade else DECISION,
            ),
        ),
        "VLLM_PIPELINE_PARALLEL_SIZE": _own_where(ONE, _setting(str(placement.pipeline_parallel), stages, DECISION)),
        "VLLM_SHM_SIZE": _setting(
            f"{shm}gb",
            f"for {ranks} rank{'s' if ranks > 1 else ''} in the container",
            "vLLM docs, deployment with Docker; compose default is 64 MB",
        ),
        **parsers,
        **_expert_settings(placement),
        **media_settings(task, placement.tensor_parallel, release, catalog),
        **optional_settings(task, parsers, catalog, release),
        **argument_settings(task, catalog, release),
    }


def _expert_settings(placement: Placement) -> dict[str, Setting]:
    """Return that each rank has whole experts, where the split needs that."""
    if not placement.whole_experts:
        return {}
    why = f"parts of an expert for {placement.tensor_parallel} ranks would cut through blocks that share a scale"
    source = "vLLM 0.32.0 layers/fused_moe/config.py, FusedMoEParallelConfig.make (read 2026-11-30)"
    return {EXPERT_PARALLEL: _setting("true", why, source)}


def gpu_settings(placement: Placement, solution: Solution, share: Setting) -> dict[str, Setting]:
    """Return the share of each GPU, the number format, and what the memory planner chose.

    The context is `auto` where the engine itself is to search for it.
    """
    settings, memory = solution.settings, solution.forecast.memory
    each = " per GPU" if placement.ranks > 1 else ""
    room = f"{format_bytes(memory.kv_cache_bytes)} of KV cache{each} hold {memory.kv_cache_tokens:,} tokens"
    if not memory.kv_bytes_per_token:
        room = "no KV cache: only the model's own limit applies"
    lost = f"; {', '.join(solution.given_up)}" if solution.given_up else ""
    length = "auto" if settings.max_model_len is None else str(settings.max_model_len)
    sure = solution.forecast.verdict is Verdict.FITS
    most = "largest tested value that fits"
    if solution.fewer_requests:
        most = "the cache lets no more requests run at once"
    many = _setting(
        str(settings.max_num_seqs), most if sure else "kept low: memory use cannot be predicted here", MEMORY
    )
    step = _setting(
        str(settings.max_num_batched_tokens), "a larger value would leave less memory for the KV cache", MEMORY
    )
    return {
        "VLLM_GPU_MEMORY_UTILIZATION": share,
        DTYPE: _dtype(placement.gpus),
        "VLLM_MAX_MODEL_LEN": _setting(length, f"{room}{lost}" if sure else f"estimate: {room}{lost}", MEMORY),
        "VLLM_MAX_NUM_SEQS": _left(many, own="max_num_seqs" in solution.engines_own),
        "VLLM_MAX_NUM_BATCHED_TOKENS": _left(step, own="max_num_batched_tokens" in solution.engines_own),
        "VLLM_KV_CACHE_DTYPE": _own_where(AUTO, _cache_format(settings)),
    }


def _cache_format(settings: EngineSettings) -> Setting:
    if settings.kv_cache_dtype == settings.cache_formats[0] != AUTO:
        why = "the checkpoint's own format has no kernel on these GPUs"
        return _setting(settings.kv_cache_dtype, why, KERNELS)
    return _setting(settings.kv_cache_dtype, "the model's own format, unless only a smaller one fits", MEMORY)


def _own_where(default: str, setting: Setting) -> Setting:
    """Return a setting for which no flag is written where it is what the engine takes without one."""
    return replace(setting, origin=Origin.ENGINE) if setting.value == default else setting


def _left(setting: Setting, *, own: bool) -> Setting:
    """Return a setting as left to the engine where the value is its own: written out, it would lose its own floor."""
    reason = "the engine's own default for this GPU, which fits: no flag is written"
    return replace(setting, reason=reason, source=DEFAULTS, origin=Origin.ENGINE) if own else setting


def _dtype(gpus: tuple[Gpu, ...]) -> Setting:
    old = first_without_bfloat16(gpus)
    if old is not None:
        return _setting(
            "float16",
            f"{old.name} ({old.compute_capability}) does not support bfloat16",
            "vLLM 0.32.0 platforms/cuda.py",
        )
    return _own_where(AUTO, _setting(AUTO, "the model's own format", "vLLM 0.32.0 config/model.py"))


def _setting(value: str, reason: str, source: str) -> Setting:
    return Setting(value=value, reason=reason, source=source)
