"""Monitoring: Prometheus, exporters of what the services do not tell themselves, and Grafana's pages. Pure.

Prometheus scrapes everything on the inner network; only it and Grafana publish a port, each behind a password.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256

from msgspec.structs import replace

from stackwright.domain.access_key import Rights
from stackwright.domain.catalog import Catalog
from stackwright.domain.monitoring import Job
from stackwright.domain.plan import Mode, Plan, Setting
from stackwright.domain.service import (
    AsProcess,
    Dependency,
    Document,
    Executable,
    FileRef,
    Health,
    HostFolder,
    HostOf,
    HttpProbe,
    InContainer,
    Joined,
    ListenAddress,
    Login,
    MountedFile,
    Page,
    Port,
    PortOf,
    Resources,
    Scraped,
    ScratchRef,
    Security,
    Service,
    SettingRef,
    Smoke,
    VolumeRef,
    Word,
)
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.services.additions import BIND, DATA_HOME, SECTION, Addition, PlannedStack, port_setting
from stackwright.services.gateway import GATEWAY, RECIPE
from stackwright.services.redis import REDIS

DECISION = "docs/decisions/0082-monitoring.md"
PROMETHEUS_PORT, GRAFANA_PORT = "PROMETHEUS_PORT", "GRAFANA_PORT"
RETENTION, DISK, SCRAPE = "MONITORING_RETENTION_DAYS", "MONITORING_DISK_GIB", "MONITORING_SCRAPE_S"
_IMAGES = {
    "prometheus": "PROMETHEUS_IMAGE",
    "node-exporter": "NODE_EXPORTER_IMAGE",
    "redis-exporter": "REDIS_EXPORTER_IMAGE",
    "grafana": "GRAFANA_IMAGE",
}
DCGM, _DCGM_IMAGE = "MONITORING_DCGM", "DCGM_IMAGE"
GRAFANA_WISHED = "MONITORING_GRAFANA"
SETTINGS = (
    *(
        SettingSpec(key=key, section="Images", kind=Kind.IMAGE, meaning=f"Image of {name.replace('-', ' ')}")
        for name, key in _IMAGES.items()
    ),
    whole_number(PROMETHEUS_PORT, SECTION, (1, 65535), "Port that Prometheus is published on"),
    whole_number(GRAFANA_PORT, SECTION, (1, 65535), "Port that Grafana is published on"),
    whole_number(RETENTION, SECTION, (1, 3650), "Days that Prometheus keeps figures"),
    whole_number(DISK, SECTION, (1, 100_000), "GiB that Prometheus keeps at most; the oldest figures go first"),
    whole_number(SCRAPE, SECTION, (1, 300), "Seconds between two looks at each service"),
    SettingSpec(key=_DCGM_IMAGE, section="Images", kind=Kind.IMAGE, meaning="Image of DCGM's exporter"),
    SettingSpec(
        key=DCGM,
        section=SECTION,
        kind=Kind.TEXT,
        meaning="DCGM's exporter, for what computes on data-centre GPUs; it needs root and SYS_ADMIN",
        choices=("on", "off"),
    ),
    SettingSpec(
        key=GRAFANA_WISHED,
        section=SECTION,
        kind=Kind.TEXT,
        meaning="Grafana with the dashboards; off where another one reads this Prometheus",
        choices=("on", "off"),
    ),
)

USER = "stackwright"
"""Who logs in to Prometheus, and to Grafana as its administrator."""

PASSWORD, WEB, GRAFANA_PASSWORD = "prometheus_password", "prometheus_web", "grafana_password"

# Prometheus 2.42 took 74 MB with 1,457 series, node exporter 21 MB, Redis exporter 17 MB (resident, 2026-11-30);
# Grafana's documentation asks for 512 MB at least (Installation, minimum hardware).
_BYTES = 700 * 10**6


def _decide(planned: PlannedStack, catalog: Catalog) -> dict[str, Setting]:
    images = {key: catalog.service(name).setting("pinned release") for name, key in _IMAGES.items()}
    if planned.gpus:
        reason = "it needs root and SYS_ADMIN; the GPUs' figures come from an exporter that needs neither"
        images |= {
            _DCGM_IMAGE: catalog.service("dcgm-exporter").setting("pinned release"),
            DCGM: Setting(value="off", reason=reason, source=DECISION),
        }
    return {
        **images,
        PROMETHEUS_PORT: port_setting(9090, planned.environment),
        GRAFANA_PORT: port_setting(3010, planned.environment),
        RETENTION: Setting(value="15", reason="Prometheus' own default", source=DECISION),
        DISK: Setting(value="5", reason="15 days of 10,000 series, at 2 bytes a value", source=DECISION),
        SCRAPE: Setting(value="15", reason="a burst of requests lasts longer", source=DECISION),
        GRAFANA_WISHED: Setting(value="on", reason="dashboards are what monitoring is for", source=DECISION),
    }


ADDITION = Addition(
    name="monitoring",
    title="Prometheus and Grafana",
    decide=_decide,
    memory_bytes=lambda _: _BYTES,
    warn=lambda planned: () if planned.host.containers.engine else (_NO_GRAFANA,),
    has_key=True,
    rights=Rights(metrics_only=True),
)
_NO_GRAFANA = "monitoring: no container engine here, which Grafana runs in: there are Prometheus' own pages instead"


def web_configuration(password: str) -> str:
    """Return Prometheus' web configuration, which knows a password by its hash alone.

    The salt follows from the password, which is random: so the same one gives the same text.
    """
    from stackwright.domain.bcrypt import hash_password

    salt = sha256(password.encode()).digest()[:16]
    return f"basic_auth_users:\n  {USER}: {hash_password(password, salt)}\n"


CONFIGURATION, RULES = "prometheus.yml", "prometheus-rules.yml"


def board_file(name: str) -> str:
    """Return the file of a dashboard, of an addition by its name."""
    return f"stackwright-{name}.json"


BOARDS = tuple(map(board_file, "health models gateway gpus host".split()))
"""The dashboards that every plan may have, as files."""

_GPU_BOARD = BOARDS[3]


def _script(name: str) -> MountedFile:
    return MountedFile(source=f"monitoring/{name}.sh", name=f"{name}.sh")


def generated_file(name: str) -> MountedFile:
    """Return a rendered file that a service reads."""
    return MountedFile(source=name, name=name, generated=True)


_GPU_FILES = tuple(
    MountedFile(source=f"monitoring/{name}.py", name=f"{name}.py") for name in ("gpu_exporter", "gpu_reading", "nvml")
)
FILES = (
    *map(_script, ("prometheus", "node_exporter", "redis_exporter", "gpu_exporter", "grafana")),
    *_GPU_FILES,
    *map(generated_file, (CONFIGURATION, RULES, *BOARDS)),
)
_DEBIAN = "Debian and Ubuntu: `sudo apt-get install {}`"


def _listen(name: str, option: str) -> tuple[Word, ...]:
    return (Joined(parts=(option, "=", ListenAddress(), ":", PortOf(service=name))),)


NODE_EXPORTER = Service(
    name="node-exporter",
    kind="node-exporter",
    image=SettingRef(key=_IMAGES["node-exporter"]),
    script="node_exporter.sh",
    command=_listen("node-exporter", "--web.listen-address"),
    files=(_script("node_exporter"),),
    # So that it sees how full their file systems are.
    folders=(
        HostFolder(path=SettingRef(key="HF_HOME"), read_only=True),
        HostFolder(path=Joined(parts=(SettingRef(key=DATA_HOME), "/prometheus")), read_only=True),
    ),
    port=Port(number=9100),
    scraped=Scraped(job=Job.HOST),
    as_process=AsProcess(
        environment={"NODE_EXPORTER": "prometheus-node-exporter"},
        program="prometheus-node-exporter",
        missing=f"the machine is not monitored ({_DEBIAN.format('prometheus-node-exporter')})",
    ),
)
REDIS_EXPORTER = Service(
    name="redis-exporter",
    kind="redis-exporter",
    image=SettingRef(key=_IMAGES["redis-exporter"]),
    script="redis_exporter.sh",
    command=_listen("redis-exporter", "--web.listen-address"),
    environment={"REDIS_ADDR": Joined(parts=("redis://", HostOf(service=REDIS.name), ":", PortOf(service=REDIS.name)))},
    secrets=("redis_password",),
    files=(_script("redis_exporter"),),
    port=Port(number=9121),
    scraped=Scraped(job=Job.REDIS),
    after=(Dependency(service=REDIS.name),),
    as_process=AsProcess(
        environment={"REDIS_EXPORTER": "prometheus-redis-exporter"},
        program="prometheus-redis-exporter",
        missing=f"Redis is not monitored ({_DEBIAN.format('prometheus-redis-exporter')})",
    ),
)
# In the gateway's image, which has Python and prometheus-client.
GPU_EXPORTER = Service(
    name="gpu-exporter",
    kind="gpu-exporter",
    image=GATEWAY.image,
    script="gpu_exporter.sh",
    command=(ListenAddress(), PortOf(service="gpu-exporter")),
    files=(_script("gpu_exporter"), *_GPU_FILES),
    port=Port(number=9400),
    scraped=Scraped(job=Job.GPU),
    # NVML alone of the driver's parts.
    in_container=InContainer(environment={"NVIDIA_DRIVER_CAPABILITIES": "utility"}),
    as_process=AsProcess(environment={"PYTHON": Executable(name="python")}, recipe=RECIPE),
)
# Of NVIDIA/dcgm-exporter 4.5.3: without root or the capability it ends with "Host engine is running as non-root". It
# unpacks nothing, but its maker promises no read-only root.
DCGM_EXPORTER = Service(
    name="dcgm-exporter",
    kind="dcgm-exporter",
    image=SettingRef(key=_DCGM_IMAGE),
    script=None,
    command=("dcgm-exporter", Joined(parts=("--address=:", PortOf(service="dcgm-exporter")))),
    port=Port(number=9400),
    scraped=Scraped(job=Job.DCGM),
    security=Security(root=True, read_only=False, capabilities=("SYS_ADMIN",)),
    as_process=AsProcess(program="dcgm-exporter", missing="DCGM's exporter runs in containers alone"),
)
_PROMETHEUS = "prometheus"
PROMETHEUS = Service(
    name=_PROMETHEUS,
    kind=_PROMETHEUS,
    image=SettingRef(key=_IMAGES[_PROMETHEUS]),
    script="prometheus.sh",
    command=(
        *_listen(_PROMETHEUS, "--web.listen-address"),
        Joined(parts=("--storage.tsdb.path=", VolumeRef(name=_PROMETHEUS))),
        Joined(parts=("--storage.tsdb.retention.time=", SettingRef(key=RETENTION), "d")),
        Joined(parts=("--storage.tsdb.retention.size=", SettingRef(key=DISK), "GB")),
    ),
    environment={
        "PROMETHEUS_HOME": ScratchRef(name="prometheus.home"),
        "PROMETHEUS_CONFIGURATION": FileRef(name=CONFIGURATION),
        "PROMETHEUS_RULES": FileRef(name=RULES),
    },
    secrets=(WEB, PASSWORD, ADDITION.key_secret, "tls_certificate"),
    files=(_script(_PROMETHEUS), generated_file(CONFIGURATION), generated_file(RULES)),
    volumes=(_PROMETHEUS,),
    port=Port(number=9090, published=(BIND, SettingRef(key=PROMETHEUS_PORT))),
    scraped=Scraped(job=Job.PROMETHEUS),
    # It says 401 to whoever has no password: it is there, and asks for one. Whether it works, the smoke test tells.
    health=Health(
        probe=HttpProbe(
            path="/-/ready",
            status=401,
            command=("/bin/sh", "-c", "wget -O /dev/null http://127.0.0.1:9090/-/ready 2>&1 | grep -q 401"),
        ),
        start_period="2m",
    ),
    smoke=Smoke(
        what="for the figures of the gateway",
        path="/api/v1/query?query=sum(stackwright_gateway_started_seconds%20*%200%2B1)",
        login=Login(secret=PASSWORD, user=USER),
        holds=',"1"]',
    ),
    page=Page(title="Prometheus: figures and alerts", path="/alerts", login=Login(secret=PASSWORD, user=USER)),
    as_process=AsProcess(
        program=_PROMETHEUS, missing=f"nothing is monitored: no Prometheus ({_DEBIAN.format(_PROMETHEUS)})"
    ),
)
_GRAFANA = "grafana"
GRAFANA = Service(
    name=_GRAFANA,
    kind=_GRAFANA,
    image=SettingRef(key=_IMAGES[_GRAFANA]),
    script="grafana.sh",
    environment={
        "GRAFANA_HOME": ScratchRef(name="grafana.home"),
        "PROMETHEUS_ADDRESS": Joined(parts=(HostOf(service=_PROMETHEUS), ":", PortOf(service=_PROMETHEUS))),
        "SCRAPE_S": SettingRef(key=SCRAPE),
        "GF_PATHS_DATA": VolumeRef(name=_GRAFANA),
        "GF_SERVER_HTTP_ADDR": ListenAddress(),
        "GF_SERVER_HTTP_PORT": PortOf(service=_GRAFANA),
        "GF_SECURITY_ADMIN_USER": USER,
        # Nothing of it asks its maker's servers.
        "GF_ANALYTICS_ENABLED": "false",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_NEWS_NEWS_FEED_ENABLED": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        "GF_SECURITY_DISABLE_GRAVATAR": "true",
    },
    secrets=(GRAFANA_PASSWORD, PASSWORD),
    files=(_script(_GRAFANA),),
    volumes=(_GRAFANA,),
    port=Port(number=3000, published=(BIND, SettingRef(key=GRAFANA_PORT))),
    health=Health(
        probe=HttpProbe(
            path="/api/health", command=("/bin/sh", "-c", "wget -q -O /dev/null http://127.0.0.1:3000/api/health")
        ),
        start_period="5m",
    ),
    smoke=Smoke(
        what="for its dashboards",
        path="/api/dashboards/uid/stackwright-health",
        login=Login(secret=GRAFANA_PASSWORD, user=USER),
        holds='"provisioned":true',
    ),
    page=Page(title="Grafana: dashboards", path="/dashboards", login=Login(secret=GRAFANA_PASSWORD, user=USER)),
    after=(Dependency(service=_PROMETHEUS),),
    as_process=AsProcess(program="grafana", missing=_NO_GRAFANA),
)


def monitoring_services(plan: Plan) -> tuple[Service, ...]:
    """Return what monitors a plan."""
    exporters = [NODE_EXPORTER, REDIS_EXPORTER]
    if plan.mode is not Mode.CPU:
        uuids = tuple(dict.fromkeys(uuid for replica in plan.engines for uuid in plan.gpus_of(replica)))
        exporters.append(replace(GPU_EXPORTER, resources=Resources(gpu_uuids=uuids)))
        if has_dcgm(plan):
            exporters.append(replace(DCGM_EXPORTER, resources=Resources(gpu_uuids=uuids)))
    return (*exporters, PROMETHEUS, *([_grafana(plan)] if _is_on(plan, GRAFANA_WISHED) else []))


def has_dcgm(plan: Plan) -> bool:
    """Return whether a person wishes for DCGM's exporter."""
    return _is_on(plan, DCGM)


def _is_on(plan: Plan, key: str) -> bool:
    return key in plan.settings and plan.settings[key].value == "on"


def _grafana(plan: Plan) -> Service:
    """Return Grafana with the dashboards that a plan has."""
    boards = tuple(board for board in BOARDS if board != _GPU_BOARD or plan.mode is not Mode.CPU)
    return _with_boards(GRAFANA, boards)


def _with_boards(grafana: Service, boards: tuple[str, ...]) -> Service:
    return replace(
        grafana,
        command=(*grafana.command, *(FileRef(name=board) for board in boards)),
        files=(*grafana.files, *map(generated_file, boards)),
    )


def watching(service: Service, services: tuple[Service, ...], boards: tuple[str, ...]) -> Service:
    """Return a service as it is, Prometheus told of all that is scraped, Grafana of the dashboards of additions.

    Args:
        services: all that run beside it.
        boards: the files of these dashboards.
    """
    if service.kind == PROMETHEUS.kind:
        return replace(service, environment={**service.environment, **_targets(services)})
    return _with_boards(service, boards) if service.kind == GRAFANA.kind else service


def _targets(services: tuple[Service, ...]) -> dict[str, Word]:
    """Return what Prometheus scrapes, by the variable: the job and a number in it."""
    counted: Counter[str] = Counter()
    targets: dict[str, Word] = {}
    for service in services:
        if service.scraped is not None:
            counted[service.scraped.job] += 1
            number = counted[service.scraped.job]
            targets[f"SCRAPE_{service.scraped.job.upper()}_{number}"] = _target(service.name, service.scraped.path)
    return targets


def _target(service: str, path: str) -> Word:
    labels: Mapping[str, Word] = {
        "service": service,
        "__scheme__": "http",
        "__metrics_path__": path,
        "__scrape_interval__": Joined(parts=(SettingRef(key=SCRAPE), "s")),
        "__scrape_timeout__": Joined(parts=(SettingRef(key=SCRAPE), "s")),
    }
    address = Joined(parts=(HostOf(service=service), ":", PortOf(service=service)))
    return Document(fields={"targets": (address,), "labels": labels})
