"""Make the plan: every emitted value with its reason and source. Pure: same request, same plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from generator.domain.catalog import Catalog
from generator.domain.environment import Environment
from generator.domain.host import Gpu, Host
from generator.domain.llm import Llm, LlmSource
from generator.domain.plan import PLAN_SCHEMA, Engine, Gateway, Mode, Plan, Replica, Setting, Workers
from generator.domain.wishes import Wishes
from generator.errors import NoPlanError
from generator.planning.engines.vllm import engine_arguments, engine_environment
from generator.planning.image import choose_engine, version
from generator.planning.placement import ParallelPins, Placement, place
from generator.planning.workers import count_gateway_workers
from generator.settings import SETTINGS
from generator.units import GIB, format_bytes

# What a CUDA context takes before vLLM compares free with wanted memory; 0.3 to 0.5 GiB are usual.
CONTEXT_BYTES = GIB // 2
# PyTorch's bfloat16 kernels begin with Ampere (vLLM refuses bfloat16 below 8.0).
BFLOAT16_CAPABILITY = "8.0"
SMOKE_CONTEXT = 2048
# vLLM and NCCL pass tensors between ranks through /dev/shm; vLLM's CPU docs use 4g, one rank needs far less.
SHM_GIB_SINGLE, SHM_GIB_PARALLEL = 2, 16
DECISION = "docs/decisions/0002-first-plan.md"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Folders on the host, absolute: downloaded models, and what the engine compiles."""

    hf_home: str
    vllm_cache: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that a plan is made from. `mode` None: choose. `pins` beat every computed value."""

    host: Host
    environment: Environment
    mode: Mode | None
    wishes: Wishes
    llm: Llm
    pins: Mapping[str, str]
    folders: Folders
    uid: int
    gid: int


def make_plan(request: Request, catalog: Catalog) -> Plan:
    """Decide everything for one environment.

    Raises:
        NoPlanError: no plan fits this host.
    """
    placement = place(request.host, request.mode, _parallel_pins(request.pins), request.llm.attention_heads)
    engine = choose_engine(catalog.engines[0], request.host, placement.gpus)
    computed = _computed_settings(request, catalog, placement, engine)
    settings = _with_pins(computed, request.pins)
    values = {key: setting.value for key, setting in settings.items()}
    gateway_row = catalog.service("gateway")
    return Plan(
        schema=PLAN_SCHEMA,
        environment=request.environment,
        mode=placement.mode,
        host=request.host,
        engine=Engine(name=engine.name, version=engine.version, image=values["VLLM_IMAGE"], cuda=engine.cuda),
        replicas=_replicas(request.llm, placement, values),
        gateway=Gateway(
            version=gateway_row.version,
            image=values["LITELLM_IMAGE"],
            bind=values["GATEWAY_BIND"],
            port=int(values["GATEWAY_PORT"]),
            models=(request.llm.name,),
            routing_strategy="simple-shuffle",
        ),
        workers=Workers(litellm=int(values["LITELLM_NUM_WORKERS"]), multimodal=None, retrieval=None),
        settings=settings,
        warnings=(*placement.warnings, *_warnings(request, placement, values["GATEWAY_BIND"])),
    )


def _computed_settings(request: Request, catalog: Catalog, placement: Placement, engine: Engine) -> dict[str, Setting]:
    wishes, name = request.wishes, request.environment.value
    wished = f"envs/{name}.yaml"
    workers, why_workers = count_gateway_workers(request.host, placement.mode, len(placement.gpus))
    release = catalog.engines[0]
    settings = {
        "COMPOSE_PROJECT_NAME": _setting(f"stackwright-{name}", "one project per environment", DECISION),
        "STACKWRIGHT_ENVIRONMENT": _setting(name, "asked for", "command line"),
        "STACKWRIGHT_UID": _setting(str(request.uid), "the user who configured, so that files stay theirs", "host"),
        "STACKWRIGHT_GID": _setting(str(request.gid), "the group who configured", "host"),
        "VLLM_IMAGE": _setting(engine.image, _why_image(placement, engine, request.host), release.source),
        "LITELLM_IMAGE": _setting(
            catalog.service("gateway").image, "pinned release", catalog.service("gateway").source
        ),
        "REDIS_IMAGE": _setting(
            catalog.service("redis").image, "router state of the gateway", catalog.service("redis").source
        ),
        "GATEWAY_BIND": _setting(wishes.gateway.bind, "wish of the environment", wished),
        "GATEWAY_PORT": _setting(str(wishes.gateway.port), "wish of the environment", wished),
        "LITELLM_NUM_WORKERS": _setting(str(workers), why_workers, DECISION),
        **_engine_settings(request, placement, wished),
        "HF_HOME": _setting(request.folders.hf_home, "Hugging Face cache, shared by all environments", "host"),
        "VLLM_CACHE_ROOT": _setting(request.folders.vllm_cache, "compiled kernels survive a restart", "host"),
    }
    order = {spec.key: position for position, spec in enumerate(SETTINGS)}
    return dict(sorted(settings.items(), key=lambda item: order[item[0]]))


def _engine_settings(request: Request, placement: Placement, wished: str) -> dict[str, Setting]:
    llm = request.llm
    ranks = placement.tensor_parallel * placement.pipeline_parallel
    shm = SHM_GIB_PARALLEL if ranks > 1 else SHM_GIB_SINGLE
    settings = {
        "VLLM_MODEL": _setting(
            llm.location, _why_model(llm), wished if request.wishes.model else "command line or default"
        ),
        "VLLM_SERVED_MODEL_NAME": _setting(llm.name, "the model's own name", "command line or default"),
        "VLLM_TENSOR_PARALLEL_SIZE": _setting(str(placement.tensor_parallel), placement.reason, DECISION),
        "VLLM_PIPELINE_PARALLEL_SIZE": _setting(
            str(placement.pipeline_parallel), "every stage on one island", DECISION
        ),
        "VLLM_SHM_SIZE": _setting(
            f"{shm}gb",
            f"{ranks} rank(s) in the container",
            "vLLM docs, deployment with Docker; compose default is 64 MB",
        ),
        "VLLM_MAX_MODEL_LEN": _context(request, wished),
    }
    return settings | (_gpu_settings(request, placement, wished) if placement.gpus else _cpu_settings(request))


def _gpu_settings(request: Request, placement: Placement, wished: str) -> dict[str, Setting]:
    uuids = [gpu.uuid or "" for gpu in placement.gpus]
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
            "a container numbers its GPUs from 0",
            "Compose device reservations",
        ),
        "GPU_COUNT": _setting(str(len(uuids)), placement.reason, DECISION),
        "VLLM_GPU_MEMORY_UTILIZATION": _utilization(request, placement, wished),
        "VLLM_DTYPE": _dtype(placement.gpus),
    }


def _cpu_settings(request: Request) -> dict[str, Setting]:
    memory = request.host.memory_bytes
    space = 1 if request.llm.source is LlmSource.SMOKE or memory is None else max(1, min(4, memory // (8 * GIB)))
    why = (
        "the smoke model needs no more"
        if request.llm.source is LlmSource.SMOKE
        else f"an eighth of {format_bytes(memory)}, 1 to 4"
    )
    return {
        "VLLM_DTYPE": _setting("bfloat16", "what vLLM recommends on a CPU", "vLLM docs, CPU installation, 0.32"),
        "VLLM_CPU_KVCACHE_SPACE": _setting(str(space), why, DECISION),
    }


def _utilization(request: Request, placement: Placement, wished: str) -> Setting:
    """The wish, lowered to what is free now: vLLM refuses to start where less is free than it is told to take."""
    wish = request.wishes.gpu_memory_utilization
    free = {gpu: _free_share(gpu) for gpu in placement.gpus}
    fullest = min(free, key=lambda gpu: free[gpu])
    if free[fullest] >= wish:
        return _setting(f"{wish:.2f}", "wish of the environment", wished)
    if free[fullest] < 0.10:
        raise NoPlanError(
            f"GPU {fullest.index} ({fullest.name}) has {format_bytes((fullest.memory_bytes or 0) - (fullest.memory_used_bytes or 0))} "
            f"of {format_bytes(fullest.memory_bytes)} free",
            hint="`nvidia-smi` shows what holds it; stop that, then configure again",
        )
    why = f"GPU {fullest.index} has {format_bytes(fullest.memory_used_bytes)} in use, so the wished {wish:.2f} would not start"
    return _setting(f"{free[fullest]:.2f}", why, "vLLM 0.32.0 v1/worker/utils.py, request_memory")


def _free_share(gpu: Gpu) -> float:
    """Share of the GPU that an engine can take now, rounded down to a hundredth."""
    total = gpu.memory_bytes or 1
    return (total - (gpu.memory_used_bytes or 0) - CONTEXT_BYTES) * 100 // total / 100


def _dtype(gpus: tuple[Gpu, ...]) -> Setting:
    old = [
        gpu for gpu in gpus if gpu.compute_capability and version(gpu.compute_capability) < version(BFLOAT16_CAPABILITY)
    ]
    if old:
        return _setting(
            "float16", f"{old[0].name} ({old[0].compute_capability}) has no bfloat16", "vLLM 0.32.0 platforms/cuda.py"
        )
    return _setting("auto", "the model's own format", "vLLM 0.32.0 config/model.py")


def _context(request: Request, wished: str) -> Setting:
    if request.wishes.max_model_len is not None:
        return _setting(str(request.wishes.max_model_len), "wish of the environment", wished)
    if request.llm.source is LlmSource.SMOKE:
        return _setting(str(SMOKE_CONTEXT), "the smoke model's own length", "generator/smoke_model.py")
    return _setting("auto", "the engine takes the longest that fits", "vLLM 0.32.0 _auto_fit_max_model_len")


def _replicas(llm: Llm, placement: Placement, values: Mapping[str, str]) -> tuple[Replica, ...]:
    return tuple(
        Replica(
            name="engine" if position == 1 else f"engine-{position}",
            model=llm.name,
            gpu_uuids=tuple(gpu.uuid or "" for gpu in group),
            tensor_parallel=int(values["VLLM_TENSOR_PARALLEL_SIZE"]),
            pipeline_parallel=int(values["VLLM_PIPELINE_PARALLEL_SIZE"]),
            args=engine_arguments(placement.mode, values),
            env=engine_environment(placement.mode, values),
            memory=None,
        )
        for position, group in enumerate(placement.groups, start=1)
    )


def _with_pins(computed: dict[str, Setting], pins: Mapping[str, str]) -> dict[str, Setting]:
    """Lay the pins over the computed settings. A pin that this mode does not emit is refused: nothing would read it."""
    for key in pins:
        if key not in computed:
            raise NoPlanError(f"{key} is pinned, but nothing reads it in this mode", hint=f"drop `--set {key}=…`")
    # The GPUs are chosen from the pinned devices before; what is emitted are always UUIDs.
    chosen = {key: value for key, value in pins.items() if key != "NVIDIA_VISIBLE_DEVICES"}
    return {
        key: Setting(value=chosen[key], reason="pinned by the user", source="--set") if key in chosen else setting
        for key, setting in computed.items()
    }


def _parallel_pins(pins: Mapping[str, str]) -> ParallelPins:
    def size(key: str) -> int | None:
        return int(pins[key]) if key in pins else None

    devices = pins.get("NVIDIA_VISIBLE_DEVICES", "")
    return ParallelPins(
        tensor_parallel=size("VLLM_TENSOR_PARALLEL_SIZE"),
        pipeline_parallel=size("VLLM_PIPELINE_PARALLEL_SIZE"),
        devices=tuple(name.strip() for name in devices.split(",") if name.strip()),
    )


def _warnings(request: Request, placement: Placement, bind: str) -> tuple[str, ...]:
    found = []
    if request.llm.source is LlmSource.SMOKE:
        found.append(
            "serving `smoke`, a tiny model that says one sentence: it proves the stack, not the answers; name a real one with --model"
        )
    if bind != "127.0.0.1":
        found.append(f"the gateway is published on {bind}, beyond this machine, without TLS")
    if placement.gpus and request.host.containers.engine and request.host.containers.gpu_access in (None, "none"):
        found.append("the container engine has no way to hand GPUs to containers: install the NVIDIA Container Toolkit")
    return tuple(found)


def _why_image(placement: Placement, engine: Engine, host: Host) -> str:
    if not placement.gpus:
        return "no GPU is used"
    return f"the driver runs CUDA {host.driver.cuda if host.driver else None}, the image needs {engine.cuda}"


def _why_model(llm: Llm) -> str:
    return {
        LlmSource.SMOKE: "made on the spot, so that the stack runs without a model hub",
        LlmSource.DIRECTORY: "a folder on this host",
        LlmSource.HUB: "downloaded from the Hugging Face hub on first start",
    }[llm.source]


def _setting(value: str, reason: str, source: str) -> Setting:
    return Setting(value=value, reason=reason, source=source)
