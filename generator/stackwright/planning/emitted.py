"""Every emitted setting with its value, reason and source. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import Verdict
from stackwright.domain.host import Gpu
from stackwright.domain.llm import Llm, LlmSource
from stackwright.domain.plan import Setting
from stackwright.engines.vllm.cpu import DECISION, cpu_settings
from stackwright.engines.vllm.image import ImageChoice, version
from stackwright.engines.vllm.media import media_settings
from stackwright.engines.vllm.parsers import parser_settings
from stackwright.planning.gateway import gateway_settings
from stackwright.planning.placement import Placement
from stackwright.planning.request import Request
from stackwright.planning.switching import switching_settings
from stackwright.planning.utilization import Utilization
from stackwright.planning.workers import DECISION as WORKERS
from stackwright.planning.workers import count_gateway_workers
from stackwright.settings import SETTINGS
from stackwright.units import format_bytes

if TYPE_CHECKING:
    from stackwright.planning.layout import Layout

# PyTorch's bfloat16 kernels begin with Ampere (vLLM refuses bfloat16 below 8.0).
BFLOAT16_CAPABILITY = "8.0"
# vLLM and NCCL pass tensors between ranks through /dev/shm; vLLM's CPU docs use 4g, one rank needs far less.
SHM_GIB_SINGLE, SHM_GIB_PARALLEL = 2, 16
PLACES = "GATEWAY_MAX_CONCURRENT_REQUESTS"
PUBLISHING = "docs/how-to/publish.md"
OBJECTIVES = "docs/decisions/0015-objectives.md"
MEMORY = "docs/explanation/memory.md; vLLM 0.32.0 v1/worker/gpu_worker.py"


def emitted_settings(
    request: Request,
    catalog: Catalog,
    placement: Placement,
    chosen: ImageChoice,
    layout: Layout | None,
    utilization: Utilization | None,
) -> dict[str, Setting]:
    """Return the settings in the order of `stackwright.settings.SETTINGS`.

    `layout` and `utilization` are None on the CPU, which shares no GPU's memory.
    """
    wishes, name = request.wishes, request.environment.value
    wished = f"envs/{name}.yaml"
    gateway, redis = catalog.service("gateway"), catalog.service("redis")
    engine = _gpu_settings(placement, layout, utilization) if layout and utilization else cpu_settings(request, wished)
    engine |= switching_settings(request.load_limit_s) | parser_settings(request, catalog, chosen.version)
    engine |= media_settings(request)
    in_force = {**{key: setting.value for key, setting in engine.items()}, **request.pins}
    limits = gateway_settings(placement.groups, in_force, request.switches)
    places = int(request.pins.get(PLACES) or limits[PLACES].value) or None
    workers, why_workers = count_gateway_workers(request.host, placement.mode, len(placement.gpus), places)
    settings = {
        "COMPOSE_PROJECT_NAME": _setting(f"stackwright-{name}", "one project per environment", DECISION),
        "STACKWRIGHT_ENVIRONMENT": _setting(name, "asked for", "command line"),
        "STACKWRIGHT_UID": _setting(str(request.uid), "the user who configured, so that files stay theirs", "host"),
        "STACKWRIGHT_GID": _setting(str(request.gid), "the group who configured", "host"),
        "VLLM_IMAGE": _setting(chosen.image, "; ".join(chosen.reasons), chosen.source),
        "LITELLM_IMAGE": _setting(gateway.image, "pinned release", gateway.source),
        "REDIS_IMAGE": _setting(redis.image, "router state of the gateway", redis.source),
        "GATEWAY_BIND": _setting(wishes.gateway.bind, "wish of the environment", wished),
        "GATEWAY_PORT": _setting(str(wishes.gateway.port), "wish of the environment", wished),
        "GATEWAY_PLAIN_HTTP": _setting("refused", "keys and answers could be read on the way", PUBLISHING),
        "LITELLM_NUM_WORKERS": _setting(str(workers), why_workers, WORKERS),
        **_model_settings(request, placement, wished),
        **engine,
        **limits,
        "HF_HOME": _setting(request.folders.hf_home, "Hugging Face cache, shared by all environments", "host"),
        "VLLM_CACHE_ROOT": _setting(request.folders.vllm_cache, "compiled kernels survive a restart", "host"),
    }
    order = {spec.key: position for position, spec in enumerate(SETTINGS)}
    return dict(sorted(settings.items(), key=lambda item: order[item[0]]))


def _model_settings(request: Request, placement: Placement, wished: str) -> dict[str, Setting]:
    llm = request.llm
    ranks = placement.tensor_parallel * placement.pipeline_parallel
    shm = SHM_GIB_PARALLEL if ranks > 1 else SHM_GIB_SINGLE
    asked = wished if request.wishes.model else "command line or default"
    stages = "the model is not cut into stages" if placement.pipeline_parallel == 1 else placement.reason
    why_ranks = "the engine has one GPU" if len(placement.gpus) == 1 else placement.reason
    return {
        "VLLM_MODEL": _setting(llm.location, request.model_reason or _why_model(llm), asked),
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
    uuids = [gpu.uuid or "" for gpu in placement.gpus]
    sliced = placement.gpus[0].mig_slice is not None
    ranks = placement.tensor_parallel * placement.pipeline_parallel
    return {
        "CUDA_DEVICE_ORDER": _setting(
            "PCI_BUS_ID",
            "CUDA then numbers GPUs as nvidia-smi does",
            "CUDA C++ programming guide, environment variables",
        ),
        "NVIDIA_VISIBLE_DEVICES": _setting(",".join(uuids), placement.reason, DECISION),
        "CUDA_VISIBLE_DEVICES": _setting(
            ",".join(str(index) for index in range(ranks)),
            "a container sees its MIG slice alone, as GPU 0" if sliced else "a container numbers its GPUs from 0",
            "docs/decisions/0014-mig-slices.md" if sliced else "Compose device reservations",
        ),
        "GPU_COUNT": _setting(str(len(uuids)), "as many as NVIDIA_VISIBLE_DEVICES names", DECISION),
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
