"""How much of a GPU each of the models on it gets, and what a model comes to on GPUs of its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import COMFORTABLE_TOKENS, Verdict
from stackwright.domain.host import Gpu, Host
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Mode
from stackwright.domain.wishes import Pin
from stackwright.engines.memory.unified import shares_memory
from stackwright.errors import NoPlanError
from stackwright.planning.model_plan import PlannedModel, choose_share, plan_as_is
from stackwright.planning.request import ModelRequest
from stackwright.planning.utilization import CONTEXT_BYTES, Utilization
from stackwright.settings import declared_settings

DECISION = "docs/decisions/0030-several-models.md"
# What only a GPU's engine reads, of the settings that models share.
_OF_GPUS = ("CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")


def least_gpus(request: ModelRequest, pool: list[Gpu], catalog: Catalog) -> int | None:
    """Return the fewest GPUs of a pool, a power of two, that serve the model with long requests, else at all."""
    fits: int | None = None
    for count in (1 << power for power in range(len(pool).bit_length())):
        plan = try_plan(request_on(request, tuple(pool[:count]), None), catalog)
        if plan is not None and is_comfortable(plan, request):
            return count
        fits = fits or (count if plan is not None else None)
    return fits


def is_comfortable(plan: PlannedModel, request: ModelRequest) -> bool:
    """Return whether a plan answers requests of a useful length, or as long as the model's own or the wished one."""
    length = plan.context
    if length == "auto":
        return True
    own = request.wishes.max_model_len or request.facts.config.shape.default_length or COMFORTABLE_TOKENS
    return int(length) >= min(COMFORTABLE_TOKENS, own)


class Tenant(Struct, frozen=True, kw_only=True):
    """A model on GPUs that it shares: on all of those in question, or on one of them.

    `wished`: the part of one GPU that its environment gives it, None where it leaves that open.
    """

    request: ModelRequest
    gpus: tuple[Gpu, ...]
    wished: float | None = None


def split(tenants: tuple[Tenant, ...], catalog: Catalog) -> tuple[Utilization, ...] | None:
    """Share GPUs: each model gets what it needs, those that write what is left in proportion; None where it is too
    small.

    The ranks of one engine take the same share of each GPU, and a rank with less than that free does not start
    (planning/utilization.py has the source): what the fullest GPU leaves to the first model, it gets of all.

    Args:
        tenants: the first is on all of the GPUs.
        catalog: of engines and GPUs.
    """
    gpus = tenants[0].gpus
    total_bytes = min(gpu.memory_bytes or tenants[0].request.host.memory_bytes or 0 for gpu in gpus)
    if not total_bytes:
        return None
    beside = {gpu.index: [n for n, tenant in enumerate(tenants) if gpu in tenant.gpus] for gpu in gpus}
    # The context of each further engine is outside of what it calls its share.
    contexts = max(len(those) for those in beside.values()) - 1
    room = _usable_hundredths(tenants[0].request, gpus, catalog) - ceil(contexts * CONTEXT_BYTES * 100 / total_bytes)
    fixed = [_fixed_hundredths(tenant, room) for tenant in tenants]
    needs = [
        least if least is not None else _least_hundredths(tenant, room, catalog)
        for tenant, least in zip(tenants, fixed, strict=True)
    ]
    known = [need for need in needs if need is not None]
    if len(known) < len(needs):
        return None
    spare = room - max(sum(known[n] for n in those) for those in beside.values())
    if spare < 0:
        return None
    open_ones = [n for n in range(len(tenants)) if fixed[n] is None]
    takers = [n for n in open_ones if tenants[n].request.role.generates] or open_ones
    wanted = sum(known[n] for n in takers)
    shares = [need + (spare * need // wanted if n in takers else 0) for n, need in enumerate(known)]
    return _explained(tenants, known, shares, beside, room)


def _explained(
    tenants: tuple[Tenant, ...],
    needs: Sequence[int],
    shares: Sequence[int],
    beside: Mapping[int, Sequence[int]],
    room: int,
) -> tuple[Utilization, ...]:
    """Return the shares, in hundredths, with their reasons: who else is on the model's GPU, on the fullest of several.

    Args:
        tenants: whose shares these are.
        needs: what each needs at least.
        shares: what each gets.
        beside: the tenants, by position, of each GPU by its index.
        room: what of a GPU all of them may have.
    """
    given = []
    for tenant, need, share in zip(tenants, needs, shares, strict=True):
        index = max((gpu.index for gpu in tenant.gpus), key=lambda index: sum(shares[n] for n in beside[index]))
        others = ", ".join(f"{tenants[n].request.llm.name} {shares[n] / 100:.2f}" for n in beside[index])
        wish = tenant.request.model.gpu_share
        why = f"needs at least {need / 100:.2f}" if tenant.wished is None else f"its gpu_share is {wish:g}"
        ranks = f"; the same share on each of its {len(tenant.gpus)} GPUs" if len(tenant.gpus) > 1 else ""
        reason = f"shares GPU {index}, of which {room / 100:.2f} is usable: {others}; {why}{ranks}"
        given.append(Utilization(value=share / 100, reason=reason, source=DECISION))
    return tuple(given)


def _usable_hundredths(request: ModelRequest, gpus: tuple[Gpu, ...], catalog: Catalog) -> int:
    """Return the share that one engine alone would take of the GPUs."""
    alone = request_on(replace(request, fixed=_without_share(request)), gpus, None)
    placement = Placement(
        mode=Mode.SINGLE if len(gpus) == 1 else Mode.MULTI,
        groups=(gpus,),
        tensor_parallel=len(gpus),
        pipeline_parallel=1,
        reason="",
    )
    return round(choose_share(alone, placement, catalog).value * 100)


def _without_share(request: ModelRequest) -> dict[str, Pin]:
    return {key: pin for key, pin in request.fixed.items() if key != request.engine.keys.memory_share}


def _least_given(request: ModelRequest) -> int:
    """Return the smallest share of a GPU that the engine takes, in hundredths."""
    spec = declared_settings().by_key.get(request.engine.keys.memory_share or "")
    return round(((spec and spec.minimum) or 0.01) * 100)


def _fixed_hundredths(tenant: Tenant, room: int) -> int | None:
    """Return the share that a person has set, in hundredths of the GPU."""
    request, wished = tenant.request, tenant.wished
    pinned = request.pins.get(request.engine.keys.memory_share or "")
    if pinned is not None:
        return round(float(pinned) * 100)
    return None if wished is None else max(_least_given(request), int(wished * room))


def _least_hundredths(tenant: Tenant, room: int, catalog: Catalog) -> int | None:
    """Return the smallest share of its GPUs, in hundredths, that surely serves the model with long requests."""
    request = tenant.request

    def serves(share: int) -> bool:
        part = Utilization(value=share / 100, reason="", source="")
        plan = try_plan(request_on(request, tenant.gpus, part), catalog)
        memory = plan.served.forecast if plan else None
        return (
            plan is not None and memory is not None and memory.verdict == Verdict.FITS and is_comfortable(plan, request)
        )

    least, enough = _least_given(request), room
    if enough < least or not serves(enough):
        return None
    while least < enough:
        middle = (least + enough) // 2
        least, enough = (least, middle) if serves(middle) else (middle + 1, enough)
    return enough


def try_plan(request: ModelRequest, catalog: Catalog) -> PlannedModel | None:
    """Return the plan of a model on what its request has; None where there is none."""
    try:
        return plan_as_is(request, catalog)
    except NoPlanError:
        return None


def request_on(request: ModelRequest, gpus: tuple[Gpu, ...], utilization: Utilization | None) -> ModelRequest:
    """Return the request as for a host that has these GPUs alone."""
    fixed = {key: pin for key, pin in request.fixed.items() if key != "NVIDIA_VISIBLE_DEVICES"}
    host = host_with(request.host, gpus)
    # Models that take turns have one engine on all of their GPUs; whoever named no mode gets as many GPUs as pay.
    several = Mode.MULTI if request.model.exclusive is not None else request.mode
    mode = Mode.SINGLE if len(gpus) == 1 else several
    return replace(request, host=host, mode=mode, fixed=fixed, utilization=utilization)


def request_on_processor(request: ModelRequest, promised_bytes: int) -> ModelRequest:
    """Return the request as for the processor, of whose memory `promised_bytes` are promised to other models."""
    of_gpus = (*_OF_GPUS, request.whole.engine.keys.image) if request.mode is not Mode.CPU and request.host.gpus else ()
    fixed = {key: pin for key, pin in request.fixed.items() if key not in of_gpus}
    return replace(request, mode=Mode.CPU, fixed=fixed, promised_bytes=promised_bytes)


def shared_bytes(planned: PlannedModel | None, host: Host, catalog: Catalog) -> int:
    """Return what a model on GPUs takes of the processor's memory: its share of GPUs that have none of their own."""
    if planned is None or not any(
        shares_memory(host, gpu, catalog.find_gpu(gpu.name)) for gpu in planned.placement.gpus
    ):
        return 0
    memories = (replica.memory for replica in planned.served.replicas)
    return sum(memory.budget_bytes for memory in memories if memory is not None)


def host_with(host: Host, gpus: tuple[Gpu, ...]) -> Host:
    """Return a host that has these GPUs alone, and those that its MIG slices are cut from."""
    boards = {gpu.mig_slice.gpu for gpu in gpus if gpu.mig_slice is not None}
    kept = [position for position, gpu in enumerate(host.gpus) if gpu in gpus or gpu.index in boards]
    indices = {host.gpus[position].index for position in kept}
    return replace(
        host,
        gpus=tuple(host.gpus[position] for position in kept),
        links=tuple(link for link in host.links if link.a in indices and link.b in indices),
        p2p=tuple(tuple(host.p2p[a][b] for b in kept) for a in kept) if host.p2p else (),
    )
