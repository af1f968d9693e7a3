"""One plan for several models on one host: who gets which GPUs, no byte of memory promised twice. Pure.

Whole GPUs first, then shared ones, each model with what it needs and the rest in proportion. A model that turns text into
vectors or scores goes to the processor where it would cost the others a GPU (docs/decisions/0030-several-models.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.plan import Mode, Plan, Replica, Setting
from stackwright.engines.vllm.arguments import check_role
from stackwright.errors import NoPlanError, UsageError
from stackwright.planning.gateway import with_fallbacks
from stackwright.planning.placement import idle_warnings
from stackwright.planning.planner import make_plan
from stackwright.planning.request import Request
from stackwright.planning.seats import Seat, on_processor, seat_models
from stackwright.planning.switching import (
    in_order,
    mates,
    one_service,
    refuse_disagreement,
    refuse_pins_of_one,
    refuse_quotes,
)
from stackwright.planning.workers import DECISION as WORKERS_DECISION
from stackwright.planning.workers import count_gateway_workers
from stackwright.settings import PER_MODEL, SETTINGS, slot_key, split_slot

DECISION = "docs/decisions/0030-several-models.md"
WORKERS = "LITELLM_NUM_WORKERS"
_ORDER = {spec.key: position for position, spec in enumerate(SETTINGS)}
_LAST_OF_ENGINE = max(_ORDER[spec.key] for spec in SETTINGS if spec.section == "Engine")


def make_plan_of_all(requests: tuple[Request, ...], catalog: Catalog) -> Plan:
    """Decide everything for one environment: `requests` differ in their models alone.

    The models that write come first, so that the first slot is one of theirs; else the order stays.

    Raises:
        NoPlanError: no plan fits this host, or a model cannot do what it is asked for.
        UsageError: two models have one name, or a share of the GPUs is wished where none is used.
    """
    for request in requests:
        check_role(request.facts, request.role)
    ordered = in_order(requests)
    _refuse_double_names(ordered)
    _refuse_share_of_nothing(ordered)
    if len(ordered) == 1 and ordered[0].gpu_share is None:
        return with_fallbacks(make_plan(ordered[0], catalog), ordered[0].wishes.gateway, named=ordered[0].named)
    refuse_quotes(ordered)
    _refuse_unread_pins(ordered[0], len(ordered))
    slotted = tuple(_in_slot(request, slot) for slot, request in enumerate(ordered, start=1))
    refuse_pins_of_one(slotted)
    if on_processor(slotted[0]):
        seats: tuple[Seat, ...] = tuple(Seat(request=request) for request in slotted)
    else:
        seats = seat_models(slotted, catalog)
    plans = _plan_each(seats, catalog)
    refuse_disagreement(plans, slotted)
    return with_fallbacks(_join(plans, slotted), slotted[0].wishes.gateway, named=slotted[0].named)


def _plan_each(seats: tuple[Seat, ...], catalog: Catalog) -> tuple[Plan, ...]:
    """Plan each model on its seat; the processor's memory is handed out in order, once to all that take turns."""
    plans: list[Plan] = []
    taken: dict[int, int] = {}
    requests = [seat.request for seat in seats]
    for position, seat in enumerate(seats):
        first = mates(requests, position)[0]
        request = seat.request_here(sum(count for other, count in taken.items() if other != first))
        if plans and not seat.gpus:
            # The gateway is one for all: what it takes is the same for each.
            request = replace(request, pins={**request.pins, WORKERS: _most(plans, WORKERS).value})
        plan = make_plan(request, catalog)
        plans.append(plan)
        taken[first] = max(taken.get(first, 0), 0 if seat.gpus else _taken_bytes(plan))
    return tuple(plans)


def _taken_bytes(plan: Plan) -> int:
    """Return the processor's memory that a plan on it takes; 0 where it is not known."""
    return sum(
        replica.tensor_parallel * replica.pipeline_parallel * memory.taken_bytes
        for replica in plan.replicas
        if (memory := replica.memory) is not None
    )


def _in_slot(request: Request, slot: int) -> Request:
    """Leave of the pins those of the model's slot, by their plain keys, and those that all models share.

    An image that is pinned for the first is every engine's that has none of its own.
    """
    split = [(*split_slot(key), value) for key, value in request.pins.items()]
    shared = {key: value for key, at, value in split if at == 1 and (key not in PER_MODEL or key == "VLLM_IMAGE")}
    return replace(request, slot=slot, pins={**shared, **{key: value for key, at, value in split if at == slot}})


def _refuse_double_names(requests: list[Request]) -> None:
    """Refuse a name that two models would answer to, a model that is named twice, and a name that one has twice."""
    seen: dict[str, Request] = {}
    for request in requests:
        own: set[str] = set()
        for name in (request.llm.name, *request.aliases):
            other = seen.setdefault(name, request)
            if name in own:
                raise UsageError(f"{request.origin}: the alias `{name[:80]}` is a name it has", hint="drop the alias")
            if other is not request and other.llm.location == request.llm.location:
                raise UsageError(f"{request.origin}: the same model as {other.origin}", hint="name it once")
            if other is not request:
                raise UsageError(
                    f"{request.origin}: would answer to `{name[:80]}`, as would {other.origin}",
                    hint="clients tell models apart by name: rename a folder, or drop an alias",
                )
            own.add(name)


def _refuse_share_of_nothing(requests: list[Request]) -> None:
    """Refuse a wished share of the GPUs where everything runs on the processor."""
    for request in requests:
        if request.gpu_share is not None and on_processor(request):
            raise UsageError(
                f"{request.origin}: found gpu_share {request.gpu_share:g}, but no GPU is used",
                hint=f"drop it from envs/{request.environment.value}.yaml, or plan for a host with GPUs",
            )


def _refuse_unread_pins(request: Request, models: int) -> None:
    there = f"are {models} models" if models > 1 else "is one model"
    for key in request.pins:
        if split_slot(key)[1] > models:
            raise NoPlanError(f"{key} is pinned, but there {there}", hint=f"drop {request.pin_place(key)}")


def _join(plans: tuple[Plan, ...], requests: tuple[Request, ...]) -> Plan:
    """Make one plan of one for each model; what they share is the first one's."""
    first, host = plans[0], requests[0].host
    named = _name_engines(plans, requests)
    uuids = tuple(dict.fromkeys(uuid for replica in named for uuid in replica.gpu_uuids))
    mode = Mode.CPU if not uuids else Mode.SINGLE if len(uuids) == 1 else Mode.MULTI
    settings = _join_settings(plans, uuids)
    settings[WORKERS] = _bound_workers(settings[WORKERS], requests[0], mode, len(uuids))
    for slots in sorted({tuple(mate + 1 for mate in mates(requests, each)) for each in range(len(requests))}):
        settings = one_service(settings, slots) if len(slots) > 1 else settings
    used = tuple(gpu for gpu in host.gpus if gpu.uuid in uuids)
    idle = idle_warnings(host, used) if used else ()
    warnings = dict.fromkeys((*idle, *(warning for plan in plans for warning in plan.warnings)))
    return replace(
        first,
        mode=mode,
        host=host,
        replicas=named,
        gateway=replace(
            first.gateway,
            models=tuple(name for plan in plans for name in plan.gateway.models),
            groups=tuple(group for plan in plans for group in plan.gateway.groups),
            routing_strategy=settings["GATEWAY_ROUTING_STRATEGY"].value,
        ),
        workers=replace(first.workers, litellm=int(settings[WORKERS].value)),
        settings=settings,
        warnings=tuple(warnings),
    )


def _name_engines(plans: tuple[Plan, ...], requests: tuple[Request, ...]) -> tuple[Replica, ...]:
    """Number the engines of all models; those that take turns have one."""
    named: list[Replica] = []
    count = 0
    for position, plan in enumerate(plans):
        for replica in plan.replicas:
            count += mates(requests, position)[0] == position
            named.append(replace(replica, name="engine" if count == 1 else f"engine-{count}"))
    return tuple(named)


def _join_settings(plans: tuple[Plan, ...], uuids: tuple[str, ...]) -> dict[str, Setting]:
    settings = dict(plans[0].settings)
    for slot, plan in enumerate(plans[1:], start=2):
        for key in PER_MODEL & plan.settings.keys():
            # One image for all engines stays one setting.
            if key != "VLLM_IMAGE" or plan.settings[key].value != settings[key].value:
                settings[slot_key(key, slot)] = plan.settings[key]
    several = next((plan for plan in plans if len(plan.replicas) > 1), plans[0])
    settings["GATEWAY_ROUTING_STRATEGY"] = several.settings["GATEWAY_ROUTING_STRATEGY"]
    for key in ("GATEWAY_MAX_BODY_BYTES", WORKERS):
        settings[key] = _most(plans, key)
    if uuids and len(plans) > 1:
        for key, value in (("NVIDIA_VISIBLE_DEVICES", ",".join(uuids)), ("GPU_COUNT", str(len(uuids)))):
            settings[key] = Setting(value=value, reason=f"the GPUs of {len(plans)} models together", source=DECISION)
    return dict(sorted(settings.items(), key=lambda item: _place(item[0])))


def _most(plans: Sequence[Plan], key: str) -> Setting:
    return max((plan.settings[key] for plan in plans), key=lambda setting: int(setting.value))


def _bound_workers(found: Setting, request: Request, mode: Mode, gpus: int) -> Setting:
    """Leave the gateway the cores that the engines of all models leave; each model's plan knows its own engine only."""
    most, why = count_gateway_workers(request.host, mode, gpus)
    if WORKERS in request.pins or int(found.value) <= most:
        return found
    return Setting(value=str(most), reason=why, source=WORKERS_DECISION)


def _place(key: str) -> tuple[int, int, int]:
    """Return where a setting stands: further models' behind the engine's."""
    plain, slot = split_slot(key)
    return (_ORDER[plain], 1, 0) if slot == 1 else (_LAST_OF_ENGINE, slot, _ORDER[plain])
