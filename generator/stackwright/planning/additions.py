"""What runs beside the models: which of the wished additions a host holds, and their settings. Pure."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.plan import Mode, Origin, Plan, Setting
from stackwright.domain.wishes import Pin
from stackwright.errors import NoPlanError
from stackwright.planning.request import PlanRequest
from stackwright.services import additions, additions_with
from stackwright.services.additions import DATA_HOME, DECISION, SERVICES_BIND, Addition, PlannedStack
from stackwright.units import format_bytes

# Judgement: weights pass through the rest of the memory on their way to the GPUs, and the system needs some.
_SHARE_BESIDE_GPUS = 2
_NOBODY_ELSE = "127.0.0.1"


def plan_with_additions(request: PlanRequest, catalog: Catalog, make: Callable[[PlanRequest], Plan]) -> Plan:
    """Make a plan with as many of the wished additions as the host holds, those that come first; name the others.

    The models come before: what they need beside an addition is taken from that.

    Raises:
        NoPlanError: none fits even without additions.
    """
    wished = [addition for name, addition in additions().items() if name in request.additions]
    for count in range(len(wished), 0, -1):
        held = wished[:count]
        needed = needed_bytes(held, request, catalog)
        if not _is_too_much(needed, request):
            names = tuple(addition.name for addition in held)
            try:
                plan = make(_with_only(request, names, needed))
            except NoPlanError:
                continue
            return _told(plan, held, wished[count:], request, catalog)
    return _told(make(_with_only(request, (), 0)), [], wished, request, catalog)


def _with_only(request: PlanRequest, names: tuple[str, ...], needed: int) -> PlanRequest:
    """Return what is asked with these additions alone; pins of those that are left out wait for a larger host."""

    def waits(pin: Pin) -> bool:
        brings = set(additions_with(pin.key))
        return not brings.isdisjoint(request.additions) and brings.isdisjoint(names)

    pins = tuple(pin for pin in request.pins if not waits(pin))
    return replace(request, additions=names, promised_bytes=needed, pins=pins)


def needed_bytes(held: list[Addition], request: PlanRequest, catalog: Catalog) -> int:
    """Return what additions take of the machine's memory, before it is known which GPUs are used."""
    gpus = 0 if request.mode is Mode.CPU else len(request.host.gpus)
    mode = request.mode or (Mode.MULTI if gpus > 1 else Mode.SINGLE if gpus else Mode.CPU)
    planned = _planned(request, mode, gpus)
    pins = {pin.key: pin.value for pin in request.pins if pin.model is None}
    return sum(
        addition.memory_bytes({key: setting.value for key, setting in addition.decide(planned, catalog).items()} | pins)
        for addition in held
    )


def addition_settings(request: PlanRequest, mode: Mode, gpus: int, catalog: Catalog) -> dict[str, Setting]:
    """Return the settings of the additions of a plan, and those that all of them share; nothing without one."""
    if not request.additions:
        return {}
    planned = _planned(request, mode, gpus)
    folder = f"{request.folders.data}/{request.stack_name}"
    settings = {
        DATA_HOME: Setting(value=folder, reason="outlives every stop; by the stack's name", source=DECISION),
        SERVICES_BIND: Setting(value=_NOBODY_ELSE, reason="for this machine alone", source=DECISION),
    }
    for addition in additions().values():
        settings |= addition.decide(planned, catalog) if addition.name in request.additions else {}
    return settings


def _planned(request: PlanRequest, mode: Mode, gpus: int) -> PlannedStack:
    return PlannedStack(
        environment=request.environment,
        host=request.host,
        mode=mode,
        gpus=gpus,
        roles=frozenset(model.role for model in request.models),
    )


def _is_too_much(needed: int, request: PlanRequest) -> bool:
    """Return whether additions want more than a host with GPUs has for them; without GPUs the engine's plan tells."""
    memory = request.host.memory_bytes
    on_processor = request.mode is Mode.CPU or not request.host.gpus
    return not on_processor and memory is not None and needed > memory // _SHARE_BESIDE_GPUS


def _told(plan: Plan, held: list[Addition], left_out: list[Addition], request: PlanRequest, catalog: Catalog) -> Plan:
    memory = request.host.memory_bytes
    warnings = tuple(
        f"{addition.name} is left out: it takes {format_bytes(needed_bytes([addition], request, catalog))}, which the "
        f"host's {format_bytes(memory or 0)} do not hold beside the models"
        for addition in left_out
    )
    planned = _planned(request, plan.mode, 0)
    warnings += tuple(sentence for addition in held for sentence in addition.warn(planned))
    bind = plan.settings.get(SERVICES_BIND)
    if bind is not None and bind.value != _NOBODY_ELSE and bind.origin is not Origin.COMPUTED:
        warnings += (f"{', '.join(plan.additions)}: published beyond this machine, on {bind.value}, without TLS",)
    return replace(plan, warnings=(*plan.warnings, *warnings)) if warnings else plan
