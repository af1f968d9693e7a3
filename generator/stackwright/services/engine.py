"""The engine: one service for each replica, or for the models that take turns in it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from stackwright.domain.arguments import bound_flags
from stackwright.domain.monitoring import Job
from stackwright.domain.plan import Mode, Plan, Replica
from stackwright.domain.role import Role
from stackwright.domain.service import (
    AsProcess,
    Dependency,
    Document,
    Executable,
    Health,
    HostFolder,
    HttpProbe,
    InContainer,
    Joined,
    ListenAddress,
    MountedFile,
    Node,
    Port,
    PortOf,
    ProgramRelease,
    Resources,
    Scraped,
    Service,
    SettingRef,
    SharedMemory,
    VisibleGpus,
    Word,
)
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.engines import default_engine, engine_named
from stackwright.engines.protocol import Engine

T = TypeVar("T")

HEARTBEAT = "ENGINE_HEARTBEAT"
"""Of an engine that a script starts: the program beside it is compose/engine/heartbeat/heartbeat.py."""

TRACES = "TRACES_ENDPOINT"
"""Where the gateway and the engines send traces; in a plan where a person pins it alone."""

SETTINGS: tuple[SettingSpec, ...] = (
    SettingSpec(
        key=TRACES,
        section="Network",
        kind=Kind.URL,
        meaning="Collector that gateway and engines send traces to, by OTLP over HTTP: http://HOST:4318/v1/traces",
    ),
    whole_number("SWITCH_MIN_RESIDENCE_S", "Switching", (0, 86400), "Least seconds that a model stays loaded"),
    whole_number(
        "SWITCH_DRAIN_S", "Switching", (0, 86400), "Seconds that running requests may take to finish before a switch"
    ),
    whole_number("SWITCH_LOAD_LIMIT_S", "Switching", (1, 86400), "Most seconds for loading a model"),
    SettingSpec(
        key="CUDA_DEVICE_ORDER",
        section="GPUs",
        kind=Kind.TEXT,
        meaning="Order in which CUDA numbers the GPUs",
        choices=("PCI_BUS_ID", "FASTEST_FIRST"),
    ),
    SettingSpec(
        key="NVIDIA_VISIBLE_DEVICES",
        section="GPUs",
        kind=Kind.TEXT,
        meaning="GPUs that the plan uses, by UUID",
    ),
    SettingSpec(
        key="CUDA_VISIBLE_DEVICES",
        section="GPUs",
        kind=Kind.TEXT,
        meaning="GPUs of one replica, as its container numbers them",
        pinnable=False,
        per_model=True,
    ),
    whole_number("GPU_COUNT", "GPUs", (1, 1024), "Number of GPUs in use, all replicas together", pinnable=False),
    SettingSpec(
        key="HF_HOME",
        section="Caches",
        kind=Kind.PATH,
        meaning="Model cache on the host, shared by all environments",
    ),
    SettingSpec(
        key=HEARTBEAT,
        section="Engine",
        kind=Kind.SECONDS_OR_OFF,
        minimum=1,
        maximum=86400,
        meaning="Seconds without a token, with requests open, after which the engine is restarted; off: never",
    ),
)
SWITCHING = {"residence_s": "SWITCH_MIN_RESIDENCE_S", "drain_s": "SWITCH_DRAIN_S", "load_s": "SWITCH_LOAD_LIMIT_S"}
"""What bounds a switch of models, as the program that switches names it, and the settings that carry it."""

TURNS_SCHEMA = 1
"""The form of what compose/engine/switching/switch.py is told."""

SWITCHING_FILES = ("switching/switch.py", "switching/group.py", "switching/child.py")
"""The program that loads models in turns, which start.sh starts in the place of the engine's own server."""

HEARTBEAT_FILES = tuple(f"heartbeat/{name}.py" for name in ("heartbeat", "judge", "processes", "gpus"))
"""The program that start.sh lets run an engine, and that ends one which hangs."""

OUTSIDE = "outside.sh"
"""What start scripts read where there is a proxy, or an authority of this machine's own."""

_NAME = "engine"
# A hub behind a mirror, or none at all, and how patient a download is.
_HUB = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_OFFLINE")


def engine_base(engine: Engine) -> Service:
    """Return what every plan says of an engine of this family."""
    keys, launch = engine.keys, engine.launch
    cache = SettingRef(key=keys.cache_folder)
    held = ("start.sh", "cores.py", OUTSIDE, *SWITCHING_FILES, *HEARTBEAT_FILES)
    return Service(
        name=_NAME,
        kind=_NAME,
        image=SettingRef(key=keys.image),
        script=launch.script,
        command=launch.program,
        environment={
            "PYTHONUNBUFFERED": "1",
            "HF_HOME": SettingRef(key="HF_HOME"),
            cache.key: cache,
            **launch.variables,
            **(_heartbeat(engine, _NAME, None) if launch.script else {}),
            **dict.fromkeys(_HUB),
        },
        secrets=("engine_key", "hf_token"),
        files=(MountedFile(source=_NAME, holds=held),) if launch.script else (),
        folders=(HostFolder(path=SettingRef(key="HF_HOME")), HostFolder(path=cache)),
        port=Port(number=engine.port),
        reaches_out=True,
        downloads=True,
        # A download and a load can take hours; failures do not count until this is over, and one success ends it.
        # `start-environment` has limits of its own, by what moves; this one only has to keep out of their way.
        health=Health(probe=HttpProbe(path=engine.health_path), start_period="24h"),
        resources=Resources(
            shared_memory=SharedMemory(
                size=SettingRef(key=keys.shared_memory), least_bytes=launch.queue_bytes, otherwise=None
            )
        ),
        in_container=InContainer(
            # torch asks for a user name, and an arbitrary uid has none in the image.
            environment={"HOME": "/tmp", "USER": "stackwright"},
            # Docker mounts a tmpfs noexec by default; Triton and FlashInfer compile kernels into HOME and load them
            # from there.
            tmpfs=("/tmp:exec",),
        ),
        as_process=AsProcess(environment={"PYTHON": Executable(name="python")}),
    )


def _heartbeat(engine: Engine, service: str, model: str | None) -> dict[str, Word]:
    """Return what the program beside an engine is told: its file is one of each engine in a folder that all share."""
    folder, stack = SettingRef(key=engine.keys.cache_folder), SettingRef(key="COMPOSE_PROJECT_NAME")
    return {
        HEARTBEAT: SettingRef(key=HEARTBEAT, model=model),
        "ENGINE_HEARTBEAT_FILE": Joined(parts=(folder, "/heartbeat/", stack, f"-{service}.json")),
    }


def _traces(plan: Plan, engine: Engine, service: str) -> dict[str, Word]:
    """Return the variables of OpenTelemetry's library, where the plan has traces and the engine sends any."""
    if TRACES not in plan.settings or engine.launch.traces_flag is None:
        return {}
    return {"OTEL_SERVICE_NAME": service, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}


def _cores_file(engine: Engine) -> Word:
    """Return where a stack says which cores it has: stacks on one processor would bind their threads to the same."""
    folder, stack = SettingRef(key=engine.keys.cache_folder), SettingRef(key="COMPOSE_PROJECT_NAME")
    return Joined(parts=(folder, "/cores/", stack, ".cores"))


ENGINE = engine_base(default_engine())


def engine_services(plan: Plan) -> tuple[Service, ...]:
    """Return one service for each engine of a plan."""
    return tuple(_engine(plan, replica) for replica in plan.engines)


def _engine(plan: Plan, replica: Replica) -> Service:
    loaded = plan.turns(replica)
    engine = engine_named(plan.engine.name)
    base, core_range, keys = engine_base(engine), plan.core_range(replica), engine.keys
    locations = (plan.model(replica.model).settings[keys.model].value for replica in loaded)
    folders = [HostFolder(path=path, read_only=True) for path in dict.fromkeys(locations) if path.startswith("/")]
    return replace(
        base,
        name=replica.name,
        image=SettingRef(key=keys.image, model=replica.model),
        release=ProgramRelease(program=plan.engine.name, version=plan.engine.version),
        scraped=engine.metrics and Scraped(job=Job.ENGINE, path=engine.metrics.path),
        command=(*base.command, *_command(plan, replica)),
        environment={
            **base.environment,
            **_variables(engine, replica),
            **(_heartbeat(engine, replica.name, replica.model) if engine.launch.script else {}),
            **_traces(plan, engine, replica.name),
            **({"ENGINE_PLACES": core_range, "ENGINE_CORES": _cores_file(engine)} if core_range else {}),
        },
        files=tuple(replace(file, holds=_read_by(loaded)) for file in base.files),
        folders=(*base.folders, *folders, *_attached(plan, loaded, engine)),
        # An engine measures its GPU while it starts, so those on the same GPU come one after another.
        after=tuple(Dependency(service=other.name, healthy=True) for other in plan.before(replica)),
        resources=Resources(shared_memory=_shared_memory(loaded, engine), gpu_uuids=plan.gpus_of(replica)),
        as_process=replace(
            base.as_process,
            arguments=("--host", ListenAddress(), "--port", PortOf(service=replica.name)),
            environment={**base.as_process.environment, **engine.process_environment(cramped=False)},
            # One environment for all engines of a plan.
            recipe=engine.recipe(
                plan.engine,
                on_gpus=plan.mode is not Mode.CPU,
                hears=any(model.role is Role.TRANSCRIPTION for model in plan.models),
            ),
        ),
    )


def _attached(plan: Plan, loaded: tuple[Replica, ...], engine: Engine) -> tuple[HostFolder, ...]:
    """Return what the models of an engine are given beside their weights: named files, and volumes."""
    mounts: dict[str, HostFolder] = {}
    for model in (plan.model(replica.model) for replica in loaded):
        values = {key: setting.value for key, setting in model.settings.items()}
        whole = {value: SettingRef(key=key, model=model.name) for key, value in values.items()}
        for path in engine.host_files(values):
            mounts[path] = HostFolder(path=whole.get(path, path), read_only=True)
        for volume in model.attached.volumes:
            path, _, mode = volume.partition(":")
            mounts[path] = HostFolder(path=path, read_only=mode != "rw")
    return tuple(mounts.values())


def _read_by(loaded: tuple[Replica, ...]) -> tuple[str, ...]:
    return (*HEARTBEAT_FILES, *(SWITCHING_FILES if len(loaded) > 1 else ()))


def _shared_memory(loaded: tuple[Replica, ...], engine: Engine) -> SharedMemory:
    """Return what the engine needs of /dev/shm; several ranks cannot do without."""
    otherwise: Mapping[str, Word] | None = {}
    if any(replica.ranks > 1 for replica in loaded):
        otherwise = None
    elif not all(replica.gpu_uuids for replica in loaded):
        otherwise = engine.process_environment(cramped=True)
    size = SettingRef(key=engine.keys.shared_memory, model=loaded[0].model)
    return SharedMemory(size=size, least_bytes=engine.launch.queue_bytes, otherwise=otherwise)


def _command(plan: Plan, replica: Replica) -> tuple[Word, ...]:
    """Return what the service is started with: the engine's arguments, or those of all that take turns in it."""
    loaded, engine = plan.turns(replica), engine_named(plan.engine.name)
    if len(loaded) == 1:
        return _arguments(plan, replica)
    seconds: dict[str, Word] = {word: SettingRef(key=key) for word, key in SWITCHING.items()}
    models: tuple[Mapping[str, Node], ...] = tuple(
        {
            "name": replica.model,
            "arguments": _arguments(plan, replica),
            "environment": _variables(engine, replica),
            "start_limit_s": seconds["load_s"],
        }
        for replica in loaded
    )
    # The numbers are texts, and no value in force may need an escape: Compose fills them in as into any other argument.
    document: dict[str, Node] = {
        "schema": TURNS_SCHEMA,
        "minimum_residence_s": seconds["residence_s"],
        "drain_s": seconds["drain_s"],
        "preload": loaded[0].model,
        "pinned": tuple(replica.model for replica in loaded if plan.model(replica.model).pinned),
        "models": models,
    }
    return (Document(fields=document),)


def engine_questions(plan: Plan, replica: Replica) -> tuple[Document, ...]:
    """Return what an engine is asked before it loads anything: the arguments and variables of each of its models.

    Offline, since nothing is to be downloaded for it.
    """
    engine = engine_named(plan.engine.name)
    return tuple(
        Document(
            fields={
                "arguments": _arguments(plan, loaded),
                "environment": {**_variables(engine, loaded), "HF_HUB_OFFLINE": "1"},
            }
        )
        for loaded in plan.turns(replica)
    )


def _arguments(plan: Plan, replica: Replica) -> tuple[Word, ...]:
    engine = engine_named(plan.engine.name)
    values = {key: setting.value for key, setting in plan.model(replica.model).settings.items()}
    given = bound_flags(replica.args, values, engine.keys.argument_prefix) if engine.keys.argument_prefix else {}
    # Compose fills values into the JSON of models in turn as they are: one with a quotation mark stands there itself.
    in_json = len(plan.turns(replica)) > 1
    flags = {
        flag: key for flag, key in {**engine.flags, **given}.items() if not (in_json and '"' in values.get(key, ""))
    }
    words = bind_arguments(replica.args, flags, lambda key: SettingRef(key=key, model=replica.model))
    if TRACES in plan.settings and engine.launch.traces_flag is not None:
        words += (engine.launch.traces_flag, SettingRef(key=TRACES))
    return words


def _variables(engine: Engine, replica: Replica) -> dict[str, Word]:
    """Return the engine's own variables, which differ from model to model."""
    declared = {spec.key for spec in (*SETTINGS, *engine.settings)}
    return {name: _variable(replica, name) if name in declared else value for name, value in replica.env}


def _variable(replica: Replica, name: str) -> Word:
    setting = SettingRef(key=name, model=replica.model)
    is_device_list = name == "CUDA_VISIBLE_DEVICES"
    return VisibleGpus(gpu_uuids=replica.gpu_uuids, setting=setting) if is_device_list else setting


def bind_arguments(
    arguments: Iterable[str], flags: Mapping[str, str], reference: Callable[[str], T]
) -> tuple[T | str, ...]:
    """Replace each value that a setting carries by `reference(key)`: a person's local environment file beats it.

    `flags`: the engine's, each with the key that it carries.
    """
    bound: list[T | str] = []
    waiting: str | None = None
    for word in arguments:
        bound.append(reference(waiting) if waiting else word)
        waiting = None if waiting else flags.get(word)
    return tuple(bound)
