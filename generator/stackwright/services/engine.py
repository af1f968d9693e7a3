"""The engine: one service for each replica, or for the models that take turns in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stackwright.domain.plan import Plan, Replica
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
    Resources,
    Service,
    ServiceRole,
    SettingRef,
    SharedMemory,
    VisibleGpus,
    Word,
)
from stackwright.engines import default_engine, engine_named
from stackwright.engines.protocol import Engine
from stackwright.settings import SWITCHING, bind_arguments, declared_settings
from stackwright.units import MIB

TURNS_SCHEMA = 1
"""The form of what compose/engine/switching/switch.py is told."""

SWITCHING_FILES = ("switching/switch.py", "switching/group.py", "switching/child.py")
"""The program that loads models in turns, which start.sh starts in the place of vLLM's server."""

LEAST_SHARED_MEMORY_BYTES = 256 * MIB
"""What vLLM asks /dev/shm for where a replica has worker processes: a queue of 10 × 24 MiB (vLLM 0.32.0,
shm_broadcast.py, `MessageQueue`). Containers get 64 MiB unless told otherwise."""

ENGINE = Service(
    name="engine",
    kind="engine",
    role=ServiceRole.ENGINE,
    image=SettingRef(key="VLLM_IMAGE"),
    script="start.sh",
    environment={
        "PYTHONUNBUFFERED": "1",
        "HF_HOME": SettingRef(key="HF_HOME"),
        "VLLM_CACHE_ROOT": SettingRef(key="VLLM_CACHE_ROOT"),
        # Beside what the engine compiles itself; Triton's own default is in HOME, which a container loses.
        "TRITON_CACHE_DIR": Joined(parts=(SettingRef(key="VLLM_CACHE_ROOT"), "/triton")),
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM gives its own start up after ten minutes otherwise, in the middle of a download or a slow load
        # (issues 35547 and 48031); the watcher gives up what stands still.
        "VLLM_ENGINE_READY_TIMEOUT_S": "86400",
    },
    # A hub behind a mirror, or none at all, and how patient a download is.
    inherits=(
        *("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_OFFLINE"),
    ),
    secrets=("engine_key", "hf_token"),
    files=(MountedFile(source="engine", holds=("start.sh", "cores.py", *SWITCHING_FILES)),),
    folders=(HostFolder(path=SettingRef(key="HF_HOME")), HostFolder(path=SettingRef(key="VLLM_CACHE_ROOT"))),
    port=Port(number=8000),
    reaches_out=True,
    # A download and a load can take hours; failures do not count until this is over, and one success ends it.
    # `start-environment` has limits of its own, by what moves; this one only has to keep out of their way.
    health=Health(probe=HttpProbe(path="/health"), start_period="24h"),
    resources=Resources(
        shared_memory=SharedMemory(
            size=SettingRef(key="VLLM_SHM_SIZE"), least_bytes=LEAST_SHARED_MEMORY_BYTES, otherwise=None
        )
    ),
    in_container=InContainer(
        # torch asks for a user name, and an arbitrary uid has none in the image.
        environment={"HOME": "/tmp", "USER": "stackwright"},
        # Docker mounts a tmpfs noexec by default; Triton and FlashInfer compile kernels into HOME and load them from
        # there.
        tmpfs=("/tmp:exec",),
    ),
    as_process=AsProcess(environment={"PYTHON": Executable(name="python")}, virtual_environment="engine"),
)


def engine_services(plan: Plan) -> tuple[Service, ...]:
    """Return one service for each engine of a plan."""
    return tuple(_engine(plan, replica) for replica in plan.engines)


def _engine(plan: Plan, replica: Replica) -> Service:
    loaded = plan.turns(replica)
    engine = engine_named(plan.engine.name)
    core_range, keys = plan.core_range(replica), engine.keys
    locations = (plan.model(each.model).settings[keys.model].value for each in loaded)
    folders = (HostFolder(path=path, read_only=True) for path in dict.fromkeys(locations) if path.startswith("/"))
    (mounted,) = ENGINE.files
    described = ENGINE if engine is default_engine() else _of_another(engine)
    return replace(
        described,
        name=replica.name,
        image=SettingRef(key=keys.image, model=replica.model),
        command=_command(plan, replica),
        environment={
            **described.environment,
            **_variables(replica),
            # Several engines on one processor would all bind their threads to the same cores.
            **({"ENGINE_PLACES": core_range} if core_range else {}),
        },
        files=(replace(mounted, holds=SWITCHING_FILES if len(loaded) > 1 else ()),),
        folders=(*described.folders, *folders),
        # An engine measures its GPU while it starts, so those on the same GPU come one after another.
        after=tuple(Dependency(service=each.name, healthy=True) for each in plan.before(replica)),
        resources=Resources(shared_memory=_shared_memory(loaded, engine), gpu_uuids=plan.gpus_of(replica)),
        as_process=replace(
            ENGINE.as_process,
            arguments=("--host", ListenAddress(), "--port", PortOf(service=replica.name)),
            environment={**ENGINE.as_process.environment, **engine.process_environment(cramped=False)},
        ),
    )


def _of_another(engine: Engine) -> Service:
    """Return what the base file says, with the cache folder of another engine in the place of the first one's.

    Compose adds to the base file and takes nothing away, so a container keeps the first one's variables.
    """
    cache = SettingRef(key=engine.keys.cache_folder)
    shared = ("PYTHONUNBUFFERED", "HF_HOME")
    return replace(
        ENGINE,
        environment={**{name: ENGINE.environment[name] for name in shared}, cache.key: cache},
        folders=(*ENGINE.folders, HostFolder(path=cache)),
        in_container=replace(
            ENGINE.in_container, environment={**ENGINE.in_container.environment, **ENGINE.environment}
        ),
    )


def _shared_memory(loaded: tuple[Replica, ...], engine: Engine) -> SharedMemory:
    """Return what the engine needs of /dev/shm; several ranks cannot do without."""
    otherwise: Mapping[str, Word] | None = {}
    if any(each.ranks > 1 for each in loaded):
        otherwise = None
    elif not all(each.gpu_uuids for each in loaded):
        otherwise = engine.process_environment(cramped=True)
    size = SettingRef(key=engine.keys.shared_memory, model=loaded[0].model)
    return SharedMemory(size=size, least_bytes=LEAST_SHARED_MEMORY_BYTES, otherwise=otherwise)


def _command(plan: Plan, replica: Replica) -> tuple[Word, ...]:
    """Return what the service is started with: the engine's arguments, or those of all that take turns in it."""
    loaded = plan.turns(replica)
    if len(loaded) == 1:
        return _arguments(plan, replica)
    seconds: dict[str, Word] = {word: SettingRef(key=key) for word, key in SWITCHING.items()}
    models: tuple[Mapping[str, Node], ...] = tuple(
        {
            "name": each.model,
            "arguments": _arguments(plan, each),
            "environment": _variables(each),
            "start_limit_s": seconds["load_s"],
        }
        for each in loaded
    )
    # The numbers are texts, and no value in force may need an escape: Compose fills them in as into any other argument.
    document: dict[str, Node] = {
        "schema": TURNS_SCHEMA,
        "minimum_residence_s": seconds["residence_s"],
        "drain_s": seconds["drain_s"],
        "preload": loaded[0].model,
        "pinned": tuple(each.model for each in loaded if plan.model(each.model).pinned),
        "models": models,
    }
    return (Document(fields=document),)


def _arguments(plan: Plan, replica: Replica) -> tuple[Word, ...]:
    flags = engine_named(plan.engine.name).flags
    return bind_arguments(replica.args, flags, lambda key: SettingRef(key=key, model=replica.model))


def _variables(replica: Replica) -> dict[str, Word]:
    """Return the engine's own variables, which differ from model to model."""
    return {name: _variable(replica, name, value) for name, value in replica.env}


def _variable(replica: Replica, name: str, value: str) -> Word:
    if name not in declared_settings().by_key:
        return value
    setting = SettingRef(key=name, model=replica.model)
    is_device_list = name == "CUDA_VISIBLE_DEVICES"
    return VisibleGpus(gpu_uuids=replica.gpu_uuids, setting=setting) if is_device_list else setting
