"""Make the plan of one environment: all of its models on one host, no byte of memory promised twice. Pure.

Whole GPUs first, then shared ones, each model with what it needs and the rest in proportion. A model that turns text
into vectors or scores gets a part of a GPU that another model has, and the processor where that would cost the other
too much (docs/decisions/0030-several-models.md). What only GPUs need, the memory planner above all, is imported where
it is used: a plan for a CPU comes in a blink.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.host import Gpu
from stackwright.domain.plan import PLAN_SCHEMA, Gateway, Mode, Plan, Replica, ServedModel, Setting, Workers
from stackwright.errors import NoPlanError, UsageError
from stackwright.planning.additions import addition_settings, plan_with_additions
from stackwright.planning.allotment import allot, on_processor
from stackwright.planning.emitted import DECISION as GPUS_DECISION
from stackwright.planning.emitted import WORKERS, device_settings, in_order_of_table, stack_settings
from stackwright.planning.gateway import with_fallbacks
from stackwright.planning.model_plan import PlannedModel, pinned_setting, plan_model, refuse_unread, with_digests
from stackwright.planning.other_makers import warn_of_other_gpus
from stackwright.planning.placement import idle_warnings
from stackwright.planning.request import ModelRequest, PlanRequest, Switching, WantedModel, model_request
from stackwright.planning.shares import shared_bytes
from stackwright.planning.switching import (
    in_order,
    one_service,
    refuse_disagreement,
    refuse_pins_of_one,
    refuse_quotes,
    switching_of,
    turn_takers,
)
from stackwright.planning.workers import DECISION as WORKERS_DECISION
from stackwright.planning.workers import count_gateway_workers

DECISION = "docs/decisions/0030-several-models.md"


def make_plan(request: PlanRequest, catalog: Catalog) -> Plan:
    """Decide everything for one environment, with as many of the wished additions as the host holds.

    The chat models come first, so that the first number is one of theirs; else the order stays.

    Raises:
        NoPlanError: no plan fits this host, or a model cannot do what it is asked for.
        UsageError: two models have one name, or a share of the GPUs is wished where none is used.
    """
    return plan_with_additions(request, catalog, lambda request: _make_plan(request, catalog))


def _make_plan(request: PlanRequest, catalog: Catalog) -> Plan:
    for model in request.models:
        request.engine.check_role(model.facts, model.role, catalog)
    request = replace(request, models=in_order(request.models))
    switching = switching_of(request.models)
    alone = len(request.models) == 1 and request.models[0].gpu_share is None
    _refuse_double_names(request.models)
    _refuse_share_of_nothing(request)
    _refuse_unread_pins(request)
    refuse_quotes(request.models)
    refuse_pins_of_one(request)
    wanted = tuple(model_request(request, position, switching) for position in range(len(request.models)))
    if alone:
        planned: tuple[PlannedModel, ...] = (plan_model(wanted[0], catalog),)
    else:
        planned = _plan_each(wanted, catalog)
    refuse_disagreement([model.served for model in planned])
    plan = _assemble(request, planned, catalog, switching, alone=alone)
    return with_fallbacks(plan, request.wishes.gateway, named=request.named)


def _plan_each(wanted: tuple[ModelRequest, ...], catalog: Catalog) -> tuple[PlannedModel, ...]:
    """Plan each model on its allotment; the processor's memory is handed out in order, once to all that take turns."""
    planned: list[PlannedModel] = []
    taken: dict[int, int] = {}
    models = [request.model for request in wanted]
    for position, allotment in enumerate(allot(wanted, catalog)):
        first = turn_takers(models, position)[0]
        others = sum(count for other, count in taken.items() if other != first)
        request = allotment.request_here(wanted[0].whole.promised_bytes + others)
        if planned and not allotment.gpus:
            request = replace(request, gateway_workers=int(_most(planned, WORKERS).value))
        model = plan_model(request, catalog)
        planned.append(model)
        bytes_here = shared_bytes(model, request.host, catalog) if allotment.gpus else _taken_bytes(model)
        taken[first] = max(taken.get(first, 0), bytes_here)
    return tuple(planned)


def _taken_bytes(model: PlannedModel) -> int:
    """Return the processor's memory that a model on it takes; 0 where it is not known."""
    return sum(
        replica.ranks * memory.taken_bytes
        for replica in model.served.replicas
        if (memory := replica.memory) is not None
    )


def _refuse_double_names(models: Sequence[WantedModel]) -> None:
    """Refuse a name that two models would answer to, a model that is named twice, and a name that one has twice."""
    seen: dict[str, WantedModel] = {}
    for model in models:
        own: set[str] = set()
        for name in (model.llm.name, *(adapter.name for adapter in model.attached.adapters), *model.aliases):
            other = seen.setdefault(name, model)
            if name in own:
                raise UsageError(
                    f"{model.wished_in}: the alias `{name[:80]}` is already its name", hint="remove the alias"
                )
            if other is not model and other.llm.location == model.llm.location:
                raise UsageError(f"{model.wished_in}: the same model as {other.wished_in}", hint="name it once")
            if other is not model:
                raise UsageError(
                    f"{model.wished_in}: has the same name as {other.wished_in}: `{name[:80]}`",
                    hint="names must differ: rename a folder, or remove an alias",
                )
            own.add(name)


def _refuse_share_of_nothing(request: PlanRequest) -> None:
    """Refuse a wished share of the GPUs where everything runs on the processor."""
    for model in request.models:
        if model.gpu_share is not None and on_processor(request):
            raise UsageError(
                f"{model.wished_in}: found gpu_share {model.gpu_share:g}, but no GPU is used",
                hint=f"remove it from {request.file_of('models')}, or plan for a host with GPUs",
            )


def _refuse_unread_pins(request: PlanRequest) -> None:
    models = len(request.models)
    there = f"are {models} models" if models > 1 else "is one model"
    for pin in request.pins:
        if pin.model is not None and pin.model > models:
            raise NoPlanError(f"{pin.written} is pinned, but there {there}", hint=f"remove {pin.written_at}")


def _assemble(
    request: PlanRequest,
    planned: tuple[PlannedModel, ...],
    catalog: Catalog,
    switching: Switching | None,
    *,
    alone: bool,
) -> Plan:
    models = one_service(_name_engines(planned))
    uuids = tuple(dict.fromkeys(uuid for model in models for replica in model.replicas for uuid in replica.gpu_uuids))
    used = tuple(gpu for gpu in request.host.gpus if gpu.uuid in uuids)
    mode = planned[0].placement.mode
    if not alone:
        mode = Mode.CPU if not uuids else Mode.SINGLE if len(uuids) == 1 else Mode.MULTI
    settings = stack_settings(request, catalog, switching) | _gateway_settings(request, planned, mode, len(uuids))
    settings |= _device_settings(planned, uuids, used) | addition_settings(request, mode, len(uuids), catalog)
    settings = with_digests(_with_shared_pins(request, settings), request.image_pins)
    gateway = catalog.service("gateway")
    return Plan(
        schema=PLAN_SCHEMA,
        environment=request.environment,
        mode=mode,
        host=request.host,
        models=models,
        gateway=Gateway(
            version=gateway.version,
            image=settings["LITELLM_IMAGE"].value,
            bind=settings["GATEWAY_BIND"].value,
            port=int(settings["GATEWAY_PORT"].value),
            routing_strategy=settings["GATEWAY_ROUTING_STRATEGY"].value,
        ),
        workers=_workers(settings),
        settings=in_order_of_table(settings),
        additions=request.additions,
        warnings=_warnings(request, planned, used, settings["GATEWAY_BIND"].value, alone=alone),
    )


def _workers(settings: Mapping[str, Setting]) -> Workers:
    """Return the worker processes of each service that has them."""

    def count(key: str) -> int | None:
        return int(settings[key].value) if key in settings else None

    return Workers(
        litellm=int(settings[WORKERS].value),
        multimodal=count("MULTIMODAL_WORKER_PROCESSES"),
        retrieval=count("RETRIEVAL_PROXY_WORKERS"),
    )


def _with_shared_pins(request: PlanRequest, settings: dict[str, Setting]) -> dict[str, Setting]:
    """Lay the pins of settings that all models share over the computed ones.

    Raises NoPlanError where nothing reads one.
    """
    shared = {pin.key: pin for pin in request.pins if pin.model is None}
    refuse_unread(shared.values(), settings)
    # The GPUs are chosen from the pinned devices before; what is emitted are always UUIDs.
    shared.pop("NVIDIA_VISIBLE_DEVICES", None)
    return {key: pinned_setting(shared[key]) if key in shared else setting for key, setting in settings.items()}


def _gateway_settings(
    request: PlanRequest, planned: tuple[PlannedModel, ...], mode: Mode, gpus: int
) -> dict[str, Setting]:
    """Return the gateway's settings for all models.

    Routing by the one with several replicas, the rest large enough for each.
    """
    settings = dict(planned[0].gateway)
    several = next((model for model in planned if len(model.served.replicas) > 1), planned[0])
    settings["GATEWAY_ROUTING_STRATEGY"] = several.gateway["GATEWAY_ROUTING_STRATEGY"]
    settings["GATEWAY_MAX_BODY_BYTES"] = _most(planned, "GATEWAY_MAX_BODY_BYTES")
    settings[WORKERS] = _most(planned, WORKERS)
    if len(planned) > 1:
        # Each model's share of the plan knows its own engine only; the gateway has the cores that all of them leave.
        most, why = count_gateway_workers(request.host, mode, gpus)
        if int(settings[WORKERS].value) > most:
            settings[WORKERS] = Setting(value=str(most), reason=why, source=WORKERS_DECISION)
    return settings


def _most(planned: Sequence[PlannedModel], key: str) -> Setting:
    return max((model.gateway[key] for model in planned), key=lambda setting: int(setting.value))


def _device_settings(
    planned: tuple[PlannedModel, ...], uuids: tuple[str, ...], used: tuple[Gpu, ...]
) -> dict[str, Setting]:
    by_uuid = {gpu.uuid: gpu for gpu in used}
    if not uuids:
        return {}
    if len(planned) == 1:
        placement = planned[0].placement
        return device_settings(placement.gpus, placement.reason, GPUS_DECISION)
    reason = f"the GPUs of {len(planned)} models together"
    settings = device_settings(tuple(by_uuid[uuid] for uuid in uuids), reason, DECISION)
    return settings | {"GPU_COUNT": replace(settings["GPU_COUNT"], reason=reason)}


def _warnings(
    request: PlanRequest, planned: tuple[PlannedModel, ...], used: tuple[Gpu, ...], bind: str, *, alone: bool
) -> tuple[str, ...]:
    found = list(idle_warnings(request.host, used)) if used and not alone else []
    found += [warning for model in planned for warning in model.warnings]
    if request.mode is None and (others := warn_of_other_gpus(request.host)):
        found.append(others)
    if bind != "127.0.0.1":
        found.append(f"the gateway is published beyond this machine, on {bind}: see docs/how-to/publish.md")
    if used and request.host.containers.engine and request.host.containers.gpu_access in (None, "none"):
        found.append("the container engine cannot give GPUs to containers: install the NVIDIA Container Toolkit")
    return tuple(dict.fromkeys(found))


def _name_engines(planned: tuple[PlannedModel, ...]) -> tuple[ServedModel, ...]:
    """Number the engines of all models; those that take turns have one."""
    models = [model.served for model in planned]
    named: list[ServedModel] = []
    count = 0
    for position, model in enumerate(models):
        replicas: list[Replica] = []
        for replica in model.replicas:
            count += turn_takers(models, position)[0] == position
            replicas.append(replace(replica, name="engine" if count == 1 else f"engine-{count}"))
        named.append(replace(model, replicas=tuple(replicas)))
    return tuple(named)
