"""Every emitted setting with its value, reason and source. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import Verdict
from stackwright.domain.host import Gpu
from stackwright.domain.llm import Llm, LlmSource
from stackwright.domain.plan import Origin, Setting
from stackwright.engines.vllm.cpu import DECISION, cpu_settings
from stackwright.engines.vllm.image import ImageChoice, version
from stackwright.engines.vllm.media import media_settings
from stackwright.engines.vllm.parsers import parser_settings
from stackwright.planning.gateway import gateway_settings
from stackwright.planning.placement import Placement
from stackwright.planning.request import ModelRequest, PlanRequest, Switching
from stackwright.planning.switching import switching_settings
from stackwright.planning.utilization import Utilization
from stackwright.planning.workers import DECISION as WORKERS_DECISION
from stackwright.planning.workers import count_gateway_workers
from stackwright.settings import PER_MODEL, SETTINGS
from stackwright.units import format_bytes

if TYPE_CHECKING:
    from stackwright.planning.layout import Layout

# PyTorch's bfloat16 kernels begin with Ampere (vLLM refuses bfloat16 below 8.0).
BFLOAT16_CAPABILITY = "8.0"
# vLLM and NCCL pass tensors between ranks through /dev/shm; vLLM's CPU docs use 4g, one rank needs far less.
SHM_GIB_SINGLE, SHM_GIB_PARALLEL = 2, 16
QUEUE_SLOTS = "GATEWAY_MAX_CONCURRENT_REQUESTS"
WORKERS = "LITELLM_NUM_WORKERS"
CUDA_DEVICE_ORDER = "PCI_BUS_ID"
PUBLISHING = "docs/how-to/publish.md"
OBJECTIVES = "docs/decisions/0015-objectives.md"
MEMORY = "docs/explanation/memory.md; vLLM 0.32.0 v1/worker/gpu_worker.py"


def model_settings(
    request: ModelRequest,
    catalog: Catalog,
    placement: Placement,
    chosen: ImageChoice,
    layout: Layout | None,
    utilization: Utilization | None,
) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """Return the model's own settings, in the order of `SETTINGS`, and what it asks of the gateway that all share.

    `layout` and `utilization` are None on the CPU, which shares no GPU's memory.
    """
    wished = request.whole.file
    engine = _gpu_settings(placement, layout, utilization) if layout and utilization else cpu_settings(request, wished)
    engine |= parser_settings(request, catalog, chosen.version) | media_settings(request)
    engine |= {"VLLM_IMAGE": _setting(chosen.image, "; ".join(chosen.reasons), chosen.source)}
    engine |= _model_settings(request, placement, wished)
    switching = request.switching
    bounds = {key: setting.value for key, setting in switching_settings(switching).items()}
    in_force = {**bounds, **{key: setting.value for key, setting in engine.items()}, **request.pins}
    limits = gateway_settings(placement.groups, in_force, switching.switches if switching else 0)
    slots = int(request.pins.get(QUEUE_SLOTS) or limits[QUEUE_SLOTS].value) or None
    workers, why_workers = count_gateway_workers(request.host, placement.mode, len(placement.gpus), slots)
    # The gateway is one for all models: what it takes of the processor's memory is the same for each.
    limits[WORKERS] = _setting(str(request.gateway_workers or workers), why_workers, WORKERS_DECISION)
    own = engine | {key: setting for key, setting in limits.items() if key in PER_MODEL}
    return in_order_of_table(own), {key: setting for key, setting in limits.items() if key not in PER_MODEL}


def stack_settings(request: PlanRequest, catalog: Catalog, switching: Switching | None) -> dict[str, Setting]:
    """Return the settings that follow from the environment and the host alone, whatever models it serves."""
    wishes, name, wished = request.wishes, request.environment.value, request.file
    gateway, redis = catalog.service("gateway"), catalog.service("redis")
    return {
        "COMPOSE_PROJECT_NAME": _setting(f"stackwright-{name}", "one project per environment", DECISION),
        "STACKWRIGHT_ENVIRONMENT": _setting(name, "asked for", "command line"),
        "STACKWRIGHT_UID": _setting(
            str(request.user.uid), "the user who configured, so that files stay theirs", "host"
        ),
        "STACKWRIGHT_GID": _setting(str(request.user.gid), "the group who configured", "host"),
        "LITELLM_IMAGE": _catalog(gateway.image, "pinned release", gateway.source),
        "REDIS_IMAGE": _catalog(redis.image, "router state of the gateway", redis.source),
        "GATEWAY_BIND": _wished(wishes.gateway.bind, wished),
        "GATEWAY_PORT": _wished(str(wishes.gateway.port), wished),
        "GATEWAY_PLAIN_HTTP": _setting("refused", "keys and answers could be read on the way", PUBLISHING),
        **switching_settings(switching),
        "HF_HOME": _setting(request.folders.hf_home, "Hugging Face cache, shared by all environments", "host"),
        "VLLM_CACHE_ROOT": _setting(request.folders.vllm_cache, "compiled kernels survive a restart", "host"),
    }


def device_settings(gpus: tuple[Gpu, ...], reason: str, source: str) -> dict[str, Setting]:
    """Return which GPUs the plan uses, in all replicas together."""
    return {
        "CUDA_DEVICE_ORDER": _setting(
            CUDA_DEVICE_ORDER,
            "CUDA then numbers GPUs as nvidia-smi does",
            "CUDA C++ programming guide, environment variables",
        ),
        "NVIDIA_VISIBLE_DEVICES": _setting(",".join(gpu.uuid or "" for gpu in gpus), reason, source),
        "GPU_COUNT": _setting(str(len(gpus)), "as many as NVIDIA_VISIBLE_DEVICES names", source),
    }


def in_order_of_table(settings: dict[str, Setting]) -> dict[str, Setting]:
    """Return settings in the order of `stackwright.settings.SETTINGS`."""
    order = {spec.key: position for position, spec in enumerate(SETTINGS)}
    return dict(sorted(settings.items(), key=lambda item: order[item[0]]))


def _model_settings(request: ModelRequest, placement: Placement, wished: str) -> dict[str, Setting]:
    llm = request.llm
    ranks = placement.tensor_parallel * placement.pipeline_parallel
    shm = SHM_GIB_PARALLEL if ranks > 1 else SHM_GIB_SINGLE
    asked = wished if request.wishes.model else "command line or default"
    stages = "the model is not cut into stages" if placement.pipeline_parallel == 1 else placement.reason
    why_ranks = "the engine has one GPU" if len(placement.gpus) == 1 else placement.reason
    return {
        "VLLM_MODEL": _setting(llm.location, request.model.reason or _why_model(llm), asked),
        "VLLM_SERVED_MODEL_NAME": _setting(llm.name, "the model's own name", asked),
        "VLLM_TENSOR_PARALLEL_SIZE": _setting(
            str(placement.tensor_parallel),
            why_ranks + placement.trade,
            OBJECTIVES if placement.trade else DECISION,
        ),
        "VLLM_PIPELINE_PARALLEL_SIZE": _setting(str(placement.pipeline_parallel), stages, DECISION),
        "VLLM_SHM_SIZE": _setting(
            f"{shm}gb",
            f"{ranks} rank{'s' if ranks > 1 else ''} in the container",
            "vLLM docs, deployment with Docker; compose default is 64 MB",
        ),
    }


def _gpu_settings(placement: Placement, layout: Layout, utilization: Utilization) -> dict[str, Setting]:
    sliced = placement.gpus[0].mig_slice is not None
    ranks = placement.tensor_parallel * placement.pipeline_parallel
    return {
        "CUDA_VISIBLE_DEVICES": _setting(
            ",".join(str(index) for index in range(ranks)),
            "a container sees its MIG slice alone, as GPU 0" if sliced else "a container numbers its GPUs from 0",
            "docs/decisions/0014-mig-slices.md" if sliced else "Compose device reservations",
        ),
        "VLLM_GPU_MEMORY_UTILIZATION": _setting(f"{utilization.value:.2f}", utilization.reason, utilization.source),
        "VLLM_DTYPE": _dtype(placement.gpus),
        **_memory_settings(layout),
    }


def _memory_settings(layout: Layout) -> dict[str, Setting]:
    """Return what the memory planner chose; `auto` where the engine itself is to search for the length."""
    settings, memory = layout.settings, layout.forecast.memory
    room = f"{format_bytes(memory.kv_cache_bytes)} of cache hold {memory.kv_cache_tokens} tokens"
    if not memory.kv_bytes_per_token:
        room = "the model keeps no keys and values, so only its own length bounds it"
    lost = f"; {', '.join(layout.given_up)}" if layout.given_up else ""
    length = "auto" if settings.max_model_len is None else str(settings.max_model_len)
    sure = layout.forecast.verdict is Verdict.FITS
    most = "the most, of the numbers that were tried, with which everything still fits"
    return {
        "VLLM_MAX_MODEL_LEN": _setting(length, f"{room}{lost}" if sure else f"not sure: perhaps {room}{lost}", MEMORY),
        "VLLM_MAX_NUM_SEQS": _setting(
            str(settings.max_num_seqs), most if sure else "few, since nobody can forecast this memory", MEMORY
        ),
        "VLLM_MAX_NUM_BATCHED_TOKENS": _setting(
            str(settings.max_num_batched_tokens), "the profile run's peak grows with it, and the cache shrinks", MEMORY
        ),
        "VLLM_KV_CACHE_DTYPE": _setting(
            settings.kv_cache_dtype, "the model's own format unless only less fits", MEMORY
        ),
    }


def _dtype(gpus: tuple[Gpu, ...]) -> Setting:
    old = [
        gpu for gpu in gpus if gpu.compute_capability and version(gpu.compute_capability) < version(BFLOAT16_CAPABILITY)
    ]
    if old:
        return _setting(
            "float16", f"{old[0].name} ({old[0].compute_capability}) has no bfloat16", "vLLM 0.32.0 platforms/cuda.py"
        )
    return _setting("auto", "the model's own format", "vLLM 0.32.0 config/model.py")


def _why_model(llm: Llm) -> str:
    return {
        LlmSource.SMOKE: "made on the spot, so that the stack runs without a model hub",
        LlmSource.DIRECTORY: "a folder on this host",
        LlmSource.HUB: "downloaded from the Hugging Face hub on first start",
    }[llm.source]


def _setting(value: str, reason: str, source: str) -> Setting:
    return Setting(value=value, reason=reason, source=source)


def _wished(value: str, file: str) -> Setting:
    return Setting(value=value, reason="wish of the environment", source=file, origin=Origin.WISHED)


def _catalog(value: str, reason: str, source: str) -> Setting:
    return Setting(value=value, reason=reason, source=source, origin=Origin.CATALOG)
