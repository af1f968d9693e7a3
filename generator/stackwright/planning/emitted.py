"""Every emitted setting with its value, reason and source. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackwright.domain.catalog import Catalog
from stackwright.domain.host import Gpu, Network
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Origin, Setting
from stackwright.engines.protocol import ImageChoice
from stackwright.planning.gateway import gateway_settings
from stackwright.planning.heartbeat import heartbeat_settings
from stackwright.planning.request import PROJECT_NAME, ModelRequest, PlanRequest, Switching
from stackwright.planning.switching import switching_settings
from stackwright.planning.utilization import Utilization
from stackwright.planning.workers import DECISION as WORKERS_DECISION
from stackwright.planning.workers import count_gateway_workers
from stackwright.services import SERVICES, outside
from stackwright.services.engine import TRACES
from stackwright.services.gateway import LOGS, NETWORK
from stackwright.settings import declared_settings, order_of

if TYPE_CHECKING:
    from stackwright.planning.layout import Layout

QUEUE_SLOTS = "GATEWAY_MAX_CONCURRENT_REQUESTS"
WORKERS = "LITELLM_NUM_WORKERS"
CUDA_DEVICE_ORDER = "PCI_BUS_ID"
DECISION = "docs/decisions/0002-first-plan.md"


def model_settings(
    request: ModelRequest,
    catalog: Catalog,
    placement: Placement,
    chosen: ImageChoice,
    layout: Layout | None,
    utilization: Utilization | None,
) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """Return the model's own settings, in the order of their table, and what it asks of the gateway that all share.

    `layout` and `utilization` are None on the CPU, which shares no GPU's memory.
    """
    family, task = request.engine, request.task
    engine = family.model_settings(task, placement, catalog, chosen.version)
    engine |= {family.keys.image: _setting(chosen.image, "; ".join(chosen.reasons), chosen.source)}
    if layout and utilization:
        share = _setting(f"{utilization.value:.2f}", utilization.reason, utilization.source)
        engine |= _gpu_settings(placement) | family.gpu_settings(placement, layout.solution, share)
    else:
        engine |= family.processor_settings(task)
    engine |= heartbeat_settings(request, placement, {key: setting.value for key, setting in engine.items()}, catalog)
    switching = request.switching
    bounds = {key: setting.value for key, setting in switching_settings(switching).items()}
    in_force = {**bounds, **{key: setting.value for key, setting in engine.items()}, **request.pins}
    limits = gateway_settings(family, placement.groups, in_force, switching.switches if switching else 0)
    slots = int(request.pins.get(QUEUE_SLOTS) or limits[QUEUE_SLOTS].value) or None
    is_direct = (request.pins.get("GATEWAY_DIRECT") or limits["GATEWAY_DIRECT"].value) == "on" and family.endpoints
    workers, why_workers = count_gateway_workers(
        request.host,
        placement.mode,
        len(placement.gpus),
        slots,
        through_litellm=not is_direct or bool(request.wishes.gateway.cloud),
    )
    # The gateway is one for all models: what it takes of the processor's memory is the same for each.
    limits[WORKERS] = _setting(str(request.gateway_workers or workers), why_workers, WORKERS_DECISION)
    per_model = declared_settings().per_model
    own = engine | {key: setting for key, setting in limits.items() if key in per_model}
    return in_order_of_table(own), {key: setting for key, setting in limits.items() if key not in per_model}


def stack_settings(request: PlanRequest, catalog: Catalog, switching: Switching | None) -> dict[str, Setting]:
    """Return the settings that follow from the environment and the host alone, whatever models it serves."""
    wishes, name = request.wishes, request.environment.value
    return {
        PROJECT_NAME: _setting(f"stackwright-{name}", "one project per environment", DECISION),
        "STACKWRIGHT_ENVIRONMENT": _setting(name, "asked for", "command line"),
        **_user_settings(request),
        **_catalog_values(request, catalog),
        "GATEWAY_BIND": _wished(wishes.gateway.bind, request.file_of("gateway.bind")),
        "GATEWAY_PORT": _wished(str(wishes.gateway.port), request.file_of("gateway.port")),
        **_joined_network(request),
        **switching_settings(switching),
        **_network_settings(request),
        **_pinned_alone(request),
        "HF_HOME": _setting(request.folders.hf_home, "Hugging Face cache, shared by all environments", "host"),
        request.engine.keys.cache_folder: _setting(
            request.folders.engine_caches[request.engine.name], "keeps compiled kernels across restarts", "host"
        ),
    }


def _catalog_values(request: PlanRequest, catalog: Catalog) -> dict[str, Setting]:
    rows = (row for row in SERVICES if row.is_in(request.additions))
    return {key: setting for row in rows for key, setting in row.values(catalog).items()}


def _joined_network(request: PlanRequest) -> dict[str, Setting]:
    """Return the container network that the gateway is to join; nothing where nobody asks for one."""
    wished = request.wishes.gateway.network
    if wished is None and NETWORK not in {pin.key for pin in request.pins}:
        return {}
    return {NETWORK: _wished(wished or "", request.file_of("gateway.network"))}


def _pinned_alone(request: PlanRequest) -> dict[str, Setting]:
    """Return where traces are sent, and the form of the gateway's log; nothing where nobody asks for them."""
    asked = {pin.key for pin in request.pins}
    return {key: _setting("", "pinned", "docs/how-to/monitoring.md") for key in (TRACES, LOGS) if key in asked}


def _user_settings(request: PlanRequest) -> dict[str, Setting]:
    if request.host.containers.rootless:
        reason = "the container engine is rootless: root in a container is the user who runs it"
        source = "https://docs.docker.com/engine/security/rootless/"
        return dict.fromkeys(("STACKWRIGHT_UID", "STACKWRIGHT_GID"), _setting("0", reason, source))
    return {
        "STACKWRIGHT_UID": _setting(str(request.user.uid), "the user who configured, as owner of the files", "host"),
        "STACKWRIGHT_GID": _setting(str(request.user.gid), "the group who configured", "host"),
    }


def _network_settings(request: PlanRequest) -> dict[str, Setting]:
    """Return the settings of the way out that this host needs, or a person pinned; none on most hosts."""
    network = request.host.network or Network()
    detected = {
        outside.PROXY: (network.proxy, "this host downloads through a proxy"),
        outside.DIRECT: (",".join(network.no_proxy), "the hosts that this host asks without its proxy"),
        outside.CERTIFICATES: (network.certificates, "this host trusts authorities of its own"),
        outside.HUB: (network.hub, "HF_ENDPOINT names a mirror"),
        outside.OFFLINE: ("1" if network.offline else None, "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"),
        outside.LABEL: (
            "disable" if request.host.containers.selinux else None,
            "SELinux hides mounted files otherwise",
        ),
    }
    pinned = {pin.key for pin in request.pins}
    return {key: _setting(value or "", why, "host") for key, (value, why) in detected.items() if value or key in pinned}


def device_settings(gpus: tuple[Gpu, ...], reason: str, source: str) -> dict[str, Setting]:
    """Return which GPUs the plan uses, in all replicas together."""
    return {
        "CUDA_DEVICE_ORDER": _setting(
            CUDA_DEVICE_ORDER,
            "the same order as nvidia-smi",
            "CUDA C++ programming guide, environment variables",
        ),
        "NVIDIA_VISIBLE_DEVICES": _setting(",".join(gpu.uuid or "" for gpu in gpus), reason, source),
        "GPU_COUNT": _setting(str(len(gpus)), "the number of GPUs in NVIDIA_VISIBLE_DEVICES", source),
    }


def in_order_of_table(settings: dict[str, Setting]) -> dict[str, Setting]:
    """Return settings in the order of `stackwright.settings.all_settings()`."""
    return dict(sorted(settings.items(), key=lambda item: order_of(item[0])))


def _gpu_settings(placement: Placement) -> dict[str, Setting]:
    sliced = placement.gpus[0].mig_slice is not None
    ranks = placement.ranks
    return {
        "CUDA_VISIBLE_DEVICES": _setting(
            ",".join(str(index) for index in range(ranks)),
            "a container sees its MIG slice alone, as GPU 0" if sliced else "a container numbers its GPUs from 0",
            "docs/decisions/0014-mig-slices.md" if sliced else "Compose device reservations",
        ),
    }


def _setting(value: str, reason: str, source: str) -> Setting:
    return Setting(value=value, reason=reason, source=source)


def _wished(value: str, file: str) -> Setting:
    return Setting(value=value, reason=f"set in {file}", source=file, origin=Origin.WISHED)
