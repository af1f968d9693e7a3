"""The gateway (LiteLLM): what clients ask, and the only service that publishes a port. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.environment import KEYS_FOLDER, USAGE_FOLDER
from stackwright.domain.monitoring import Job
from stackwright.domain.plan import Plan, Setting
from stackwright.domain.recipe import locked_recipe
from stackwright.domain.service import (
    AsProcess,
    Dependency,
    EnvironmentFolder,
    EnvironmentFolderRef,
    Executable,
    FileRef,
    Front,
    Health,
    HostOf,
    HttpProbe,
    InContainer,
    Joined,
    ListenAddress,
    MountedFile,
    Port,
    PortOf,
    ProgramRelease,
    Resources,
    Scraped,
    ScratchRef,
    Service,
    SettingRef,
    Word,
    WorkerProcesses,
)
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.services.engine import ENGINE, TRACES
from stackwright.services.redis import REDIS
from stackwright.units import GIB


def _per_model(key: str, section: str, bounds: tuple[int, int], meaning: str) -> SettingSpec:
    return replace(whole_number(key, section, bounds, meaning), per_model=True)


MOST_SLOTS = 65_536
"""Requests of one model that the gateway works on, or keeps waiting, at most: each holds a connection."""
NETWORK = "GATEWAY_NETWORK"
LOGS = "GATEWAY_LOGS"
"""In a plan where a person pins it alone."""

SETTINGS: tuple[SettingSpec, ...] = (
    SettingSpec(key="LITELLM_IMAGE", section="Images", kind=Kind.IMAGE, meaning="Gateway image"),
    SettingSpec(
        key="GATEWAY_BIND", section="Gateway", kind=Kind.ADDRESS, meaning="Address that the gateway is published on"
    ),
    whole_number("GATEWAY_PORT", "Gateway", (1, 65535), "Port that the gateway is published on"),
    SettingSpec(
        key="GATEWAY_PLAIN_HTTP",
        section="Gateway",
        kind=Kind.TEXT,
        meaning="Plain HTTP beyond this machine: refused or allowed",
        choices=("refused", "allowed"),
    ),
    SettingSpec(
        key=NETWORK,
        section="Gateway",
        kind=Kind.TEXT,
        meaning="Container network of this host that the gateway joins as well",
    ),
    whole_number("LITELLM_NUM_WORKERS", "Gateway", (1, 256), "Worker processes of the gateway"),
    SettingSpec(
        key="GATEWAY_ROUTING_STRATEGY",
        section="Gateway",
        kind=Kind.TEXT,
        meaning="How the gateway chooses a replica",
        choices=("simple-shuffle", "least-busy", "latency-based-routing", "usage-based-routing-v2"),
    ),
    SettingSpec(
        key="GATEWAY_DIRECT",
        section="Gateway",
        kind=Kind.TEXT,
        meaning="Direct lane: requests for the stack's own models go to their engines; off: all through LiteLLM",
        choices=("on", "off"),
    ),
    SettingSpec(
        key=LOGS,
        section="Gateway",
        kind=Kind.TEXT,
        meaning="How the gateway writes its log: text, or json, an object a line",
        choices=("text", "json"),
    ),
    whole_number(
        "GATEWAY_REQUEST_TIMEOUT_S", "Gateway", (1, 86400), "Seconds that a request may wait in the queue, and then run"
    ),
    whole_number("GATEWAY_COOLDOWN_S", "Gateway", (1, 3600), "Seconds that a failing replica is skipped"),
    whole_number("GATEWAY_DRAIN_S", "Gateway", (0, 86400), "Seconds that open requests get to end at a stop"),
    _per_model(
        "GATEWAY_MAX_CONCURRENT_REQUESTS", "Limits", (0, MOST_SLOTS), "Concurrent requests per model; 0: no limit"
    ),
    _per_model(
        "GATEWAY_MAX_QUEUED_REQUESTS",
        "Limits",
        (0, MOST_SLOTS),
        "Queued requests per model; further ones are answered 429",
    ),
    _per_model(
        "GATEWAY_MAX_INPUT_TOKENS",
        "Limits",
        (0, 2**31 - 1),
        "Longest input in tokens; longer is answered 400; 0: no limit",
    ),
    whole_number(
        "GATEWAY_MAX_BODY_BYTES",
        "Limits",
        (0, 2**31 - 1),
        "Longest request in bytes; longer is answered 413; 0: no limit",
    ),
    whole_number("GATEWAY_KEY_REQUESTS_PER_MINUTE", "Limits", (0, 10**9), "Requests per minute and key; 0: no limit"),
    whole_number("GATEWAY_KEY_TOKENS_PER_MINUTE", "Limits", (0, 10**9), "Tokens per minute and key; 0: no limit"),
)
LIMITS = {
    "concurrent_requests": "GATEWAY_MAX_CONCURRENT_REQUESTS",
    "queued_requests": "GATEWAY_MAX_QUEUED_REQUESTS",
    "input_tokens": "GATEWAY_MAX_INPUT_TOKENS",
}
"""The limits of one model as compose/gateway/models.py names them, and the settings that carry them."""

# LiteLLM refuses to boot with a weak master key; `sk-` and 256 random bits is what its documentation advises.
KEYS = {"litellm_master_key": "sk-", "litellm_salt_key": "sk-"}

# start.sh lets it write nothing beside its modules.
RECIPE = locked_recipe("gateway", "litellm", size_bytes=3 * GIB // 4, compiled=True)

# What one LiteLLM worker of 1.109 takes when it is ready, and two take 980 MB (measured on two cores, 2026-11-21).
_WORKER_BYTES = 360 * 10**6
_WORKERS = SettingRef(key="LITELLM_NUM_WORKERS")
_ADDRESS = (SettingRef(key="GATEWAY_BIND"), SettingRef(key="GATEWAY_PORT"))
_TLS = ("tls_certificate", "tls_key")
_NAME = "gateway"
_MODULES = (
    "serve connections front admission models queueing lane forms figures traces keys hooks worker_start health"
    " json_lines trust"
).split()
_FILES = tuple(f"{name}.py" for name in _MODULES)


def _url(service: str) -> Word:
    return Joined(parts=("http://", HostOf(service=service), ":", PortOf(service=service), "/v1"))


GATEWAY = Service(
    name=_NAME,
    kind=_NAME,
    front=Front(
        key="litellm_master_key",
        tls=_TLS,
        address=_ADDRESS,
        wishes="gateway",
        plain_http=SettingRef(key="GATEWAY_PLAIN_HTTP"),
        answers_within_s=SettingRef(key="GATEWAY_REQUEST_TIMEOUT_S"),
        drains_within_s=SettingRef(key="GATEWAY_DRAIN_S"),
    ),
    image=SettingRef(key="LITELLM_IMAGE"),
    script="gateway.sh",
    command=(
        *("--config", FileRef(name="gateway.yaml")),
        *("--host", ListenAddress(), "--port", PortOf(service=_NAME)),
        *("--num_workers", _WORKERS),
    ),
    environment={
        "PYTHONUNBUFFERED": "1",
        "ENGINE_URL": _url(ENGINE.name),
        "REDIS_HOST": HostOf(service=REDIS.name),
        "REDIS_PORT": PortOf(service=REDIS.name),
        "REQUEST_TIMEOUT": SettingRef(key="GATEWAY_REQUEST_TIMEOUT_S"),
        "DEFAULT_COOLDOWN_TIME_SECONDS": SettingRef(key="GATEWAY_COOLDOWN_S"),
        "GATEWAY_DRAIN_S": SettingRef(key="GATEWAY_DRAIN_S"),
        "GATEWAY_ROUTING_STRATEGY": SettingRef(key="GATEWAY_ROUTING_STRATEGY"),
        **{spec.key: SettingRef(key=spec.key) for spec in SETTINGS if spec.section == "Limits"},
        "GATEWAY_SLOTS": ScratchRef(name="gateway.slots"),
        "GATEWAY_DIRECT": SettingRef(key="GATEWAY_DIRECT"),
        # Where several workers add their figures up (start.sh).
        "GATEWAY_METRICS": ScratchRef(name="gateway.metrics"),
        "GATEWAY_KEYS": EnvironmentFolderRef(name="keys"),
        "GATEWAY_USAGE": EnvironmentFolderRef(name="usage"),
        "LITELLM_NUM_WORKERS": _WORKERS,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        # The price list is in the package; LiteLLM would fetch it at its start and wait.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_WORKER_STARTUP_HOOKS": "worker_start:prepare,worker_start:stand_before,health:watch",
    },
    secrets=(*KEYS, "engine_key", "redis_password", *_TLS),
    files=(
        MountedFile(source="gateway/start.sh", name="gateway.sh"),
        *(MountedFile(source=f"gateway/{name}", name=name) for name in _FILES),
        MountedFile(source="gateway.yaml", name="gateway.yaml", generated=True),
    ),
    environment_folders=(
        EnvironmentFolder(name="keys", source=KEYS_FOLDER),
        EnvironmentFolder(name="usage", source=USAGE_FOLDER, written=True),
    ),
    port=Port(number=4000, published=_ADDRESS),
    # With the slash behind it: LiteLLM would send Prometheus on.
    scraped=Scraped(job=Job.GATEWAY, path="/metrics/"),
    reaches_out=True,
    health=Health(probe=HttpProbe(path="/health/readiness", certificate=_TLS[0]), start_period="10m"),
    after=(
        # Not healthy: LiteLLM takes as long to start as a small model, and can do so meanwhile.
        Dependency(service=ENGINE.name),
        Dependency(service=REDIS.name, healthy=True),
    ),
    # A stream holds two: its client's connection and its engine's (benchmarks/results/gateway_streams.json). A daemon
    # refuses to start a container with more than it may hold itself.
    resources=Resources(open_files=20000, workers=WorkerProcesses(count=_WORKERS, bytes_each=_WORKER_BYTES)),
    in_container=InContainer(
        environment={"HOME": "/tmp"},
        # The address of a container that is gone answers nothing. A connection to it is then given up after 3 s, which
        # a retry can make good, and not after the whole time that a request has.
        sysctls={"net.ipv4.tcp_syn_retries": "1"},
    ),
    as_process=AsProcess(environment={"PYTHON": Executable(name="python")}, recipe=RECIPE),
)


ADDRESS: Word = Joined(parts=(HostOf(service=_NAME), ":", PortOf(service=_NAME)))
"""Host and port at which other services of the stack ask it."""


def gateway_services(plan: Plan) -> tuple[Service, ...]:
    """Return the gateway, with the address of every engine and the limits of every model."""
    environment: dict[str, Word | None] = {
        **GATEWAY.environment,
        **{engine.url_variable: _url(engine.name) for engine in plan.engines},
        **_further_limits(plan),
    }
    environment |= {key: SettingRef(key=key) for key in (TRACES, LOGS) if key in plan.settings}
    if plan.gateway.cloud:
        environment["CLOUD_KEYS"] = " ".join(plan.gateway.cloud_secrets)
    engines = tuple(Dependency(service=engine.name) for engine in plan.engines)
    return (
        replace(
            GATEWAY,
            release=ProgramRelease(program=RECIPE.package, version=plan.gateway.version),
            environment=environment,
            downloads=bool(plan.gateway.cloud),
            networks=(SettingRef(key=NETWORK),) if NETWORK in plan.settings else (),
            secrets=(*GATEWAY.secrets, *plan.gateway.cloud_secrets),
            after=(*engines, *(dependency for dependency in GATEWAY.after if dependency.service != ENGINE.name)),
        ),
    )


def _further_limits(plan: Plan) -> dict[str, Word]:
    """Return the limits that the models after the first have of their own, under the names that gateway.yaml has."""
    return {
        f"{key}_{number}": SettingRef(key=key, model=model.name)
        for number, model in enumerate(plan.models[1:], start=2)
        for key in LIMITS.values()
        if key in model.settings
    }


def catalog_values(catalog: Catalog) -> dict[str, Setting]:
    """Return the settings that follow from the catalog alone, or from nothing."""
    consent = Setting(value="refused", reason="plain HTTP exposes keys and answers", source="docs/how-to/publish.md")
    return {"LITELLM_IMAGE": catalog.service(_NAME).setting("pinned release"), "GATEWAY_PLAIN_HTTP": consent}
