"""Which GPUs each of several models gets, or the processor. Pure."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings, Verdict
from stackwright.domain.host import Gpu, Host
from stackwright.domain.plan import Mode
from stackwright.domain.topology import nvlink_islands
from stackwright.domain.wishes import Pin
from stackwright.errors import NoPlanError
from stackwright.planning.model_plan import PlannedModel, choose_share, plan_as_is, plan_model
from stackwright.planning.placement import Heads, equal_groups, placements, usable_gpus
from stackwright.planning.request import ModelRequest, PlanRequest
from stackwright.planning.switching import turn_takers
from stackwright.planning.utilization import CONTEXT_BYTES, Utilization
from stackwright.settings import declared_settings

DECISION = "docs/decisions/0030-several-models.md"
# As of one model: a GPU is enough where a request of this length, or of the model's own, fits (planning/layout.py).
COMFORTABLE_TOKENS = 8192
# What only a GPU's engine reads, of the settings that models share.
_OF_GPUS = ("CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")


class Allotment(Struct, frozen=True, kw_only=True):
    """What one model gets: its GPUs, none for the processor; `utilization` where it shares them with other models."""

    request: ModelRequest
    gpus: tuple[Gpu, ...] = ()
    utilization: Utilization | None = None

    def request_here(self, promised_bytes: int) -> ModelRequest:
        """Return the request as for a host that has this allotment alone.

        Args:
            promised_bytes: of the processor's memory, to other models.
        """
        if not self.gpus:
            return _request_on_processor(self.request, promised_bytes)
        return _request_on(self.request, self.gpus, self.utilization)


class _Share(Struct, frozen=True, kw_only=True):
    """GPUs with the models, by position, that serve from them: one, or several on a single GPU."""

    gpus: tuple[Gpu, ...]
    members: tuple[int, ...]
    shares: tuple[Utilization, ...] = ()


def on_processor(request: PlanRequest | ModelRequest) -> bool:
    """Return whether everything runs on the processor: asked for, or there is no GPU."""
    host = request.host
    failed = host.driver is not None and host.driver.error is not None
    return request.mode is Mode.CPU or (request.mode is None and not host.gpus and not failed)


def allot(requests: tuple[ModelRequest, ...], catalog: Catalog) -> tuple[Allotment, ...]:
    """Return what each model gets, in the same order.

    Raises:
        NoPlanError: they do not fit beside each other.
    """
    if on_processor(requests[0]):
        return tuple(Allotment(request=request) for request in requests)
    models = [request.model for request in requests]
    groups = [own for position in range(len(models)) if (own := turn_takers(models, position))[0] == position]
    firsts = [own[0] for own in groups]
    main = [own[0] for own in groups if any(models[taker].role.generates for taker in own)] or firsts
    further = [position for position in firsts if position not in main]
    for growing in (True, False):
        room = _Room(requests, catalog)
        for position in main:
            room.give(position)
        if growing:
            room.grow()
        if all(room.give_beside(position) for position in further):
            return room.allotments()
    names = ", ".join(models[position].llm.name for position in further)
    raise NoPlanError(
        f"no memory left for {names} beside the other models, on a GPU or on the processor",
        hint=_ways_to_room(requests[0]),
    )


def _ways_to_room(request: ModelRequest) -> str:
    """Return the hint for models that do not fit beside each other."""
    return (
        f"name fewer or smaller models, or in {request.whole.file} serve some in turn with `exclusive`, "
        "or give the others less with gpu_share"
    )


class _Room:
    """The host's GPUs while they are given away. The first model of an exclusive group takes the GPUs of all."""

    def __init__(self, requests: tuple[ModelRequest, ...], catalog: Catalog) -> None:
        self._requests, self._catalog = requests, catalog
        self._models = [request.model for request in requests]
        self._pools = _pools(requests[0])
        self._order = [gpu for pool in self._pools for gpu in pool]
        self._starts = [sum(len(pool) for pool in self._pools[:n]) for n in range(len(self._pools))]
        self._given: list[_Share] = []
        self._on_processor: list[int] = []

    def give(self, position: int) -> None:
        """Give a model GPUs of its own, the fewest that hold it, else a part of one. Raises NoPlanError."""
        request, wished = self._requests[position], self._wished_gpus(position)
        if wished is None or wished >= 1:
            for pool in self._pools:
                count = int(wished) if wished else self._least(position, pool)
                if count and count <= len(pool):
                    self._given.append(_Share(gpus=tuple(pool[:count]), members=(position,)))
                    del pool[:count]
                    return
        if not (self._join(position) or self._open_shared(position)):
            for taker in turn_takers(self._models, position):
                plan_model(self._requests[taker], self._catalog)  # one that the whole host does not hold says why
            free = sum(len(pool) for pool in self._pools)
            raise NoPlanError(
                (
                    f"no memory left for {request.llm.name} beside the other models; free GPUs: {free}; no shared "
                    "GPU holds it"
                ),
                hint=_ways_to_room(request),
            )

    def grow(self) -> None:
        """Give the GPUs that are left to models in order, doubling what each has, as long as anyone's can be."""
        grown = True
        while grown:
            grown = False
            for index, given in enumerate(self._given):
                pool = self._pool_of(given)
                count = len(given.gpus)
                if self._is_fixed(given) or count > len(pool):
                    continue
                self._given[index] = replace(given, gpus=(*given.gpus, *pool[:count]))
                del pool[:count]
                grown = True
        self._align()

    def _align(self) -> None:
        """Deal the GPUs of each kind out anew, the largest group first.

        A group then lies on one island where it can.
        """
        for pool in self._pools:
            mine = [n for n, given in enumerate(self._given) if not given.shares and self._pool_of(given) is pool]
            kind = sorted((*pool, *(gpu for n in mine for gpu in self._given[n].gpus)), key=self._order.index)
            for n in sorted(mine, key=lambda n: -len(self._given[n].gpus)):
                count = len(self._given[n].gpus)
                self._given[n] = replace(self._given[n], gpus=tuple(kind[:count]))
                del kind[:count]
            pool[:] = kind

    def _pool_of(self, given: _Share) -> list[Gpu]:
        """Return what is left of a given's kind of GPUs."""
        position = self._order.index(given.gpus[0])
        return self._pools[bisect_right(self._starts, position) - 1]

    def give_beside(self, position: int) -> bool:
        """Find a model that does not write what costs the others least; return whether there is any.

        A GPU that is left; where the others have one GPU, a part of it, else the processor: with several, all ranks and
        replicas would have to give that part.
        """
        if self._wished_gpus(position) is not None:
            try:
                self.give(position)
            except NoPlanError:
                return False
            return True
        for pool in reversed(self._pools):
            if pool and self._least(position, pool[-1:]) == 1:
                self._given.append(_Share(gpus=(pool.pop(),), members=(position,)))
                return True
        alone = sum(len(given.gpus) for given in self._given) == 1
        ways = (self._join, self._take_processor) if alone else (self._take_processor, self._join)
        return any(way(position) for way in ways)

    def allotments(self) -> tuple[Allotment, ...]:
        """Return what every model gets."""
        requests = self._requests
        found = {
            taker: Allotment(request=requests[taker])
            for first in self._on_processor
            for taker in turn_takers(self._models, first)
        }
        for given in self._given:
            for index, position in enumerate(given.members):
                share = given.shares[index] if given.shares else None
                found[position] = Allotment(request=requests[position], gpus=given.gpus, utilization=share)
                if requests[position].model.exclusive is not None:
                    for taker in turn_takers(self._models, position):
                        count = _least_gpus(requests[taker], list(given.gpus), self._catalog)
                        found[taker] = Allotment(request=requests[taker], gpus=given.gpus[:count])
        return tuple(found[position] for position in range(len(self._requests)))

    def _least(self, position: int, pool: list[Gpu]) -> int | None:
        """Return the fewest GPUs of a pool that hold whatever is to be loaded for it."""
        counts = [
            _least_gpus(self._requests[taker], pool, self._catalog) for taker in turn_takers(self._models, position)
        ]
        return None if None in counts else max(count for count in counts if count is not None)

    def _wished_gpus(self, position: int) -> float | None:
        share = self._models[position].gpu_share
        # A third of three GPUs is one of them.
        return None if share is None else round(share * len(self._order), 2)

    def _is_fixed(self, given: _Share) -> bool:
        members = [self._models[position] for position in given.members]
        return bool(given.shares) or any(
            model.gpu_share is not None or model.exclusive is not None for model in members
        )

    def _join(self, position: int) -> bool:
        """Put a model on a GPU that another one has, the least shared first."""
        for index in sorted(range(len(self._given)), key=lambda index: len(self._given[index].members)):
            given = self._given[index]
            if len(given.gpus) == 1 and self._share_out(index, replace(given, members=(*given.members, position))):
                return True
        return False

    def _open_shared(self, position: int) -> bool:
        """Put a model on a part of a GPU that nobody has yet."""
        for pool in self._pools:
            if pool:
                self._given.append(_Share(gpus=(pool[0],), members=()))
                if self._share_out(len(self._given) - 1, _Share(gpus=(pool[0],), members=(position,))):
                    del pool[0]
                    return True
                self._given.pop()
        return False

    def _share_out(self, index: int, given: _Share) -> bool:
        wished = {position: self._wished_gpus(position) for position in given.members}
        requests = tuple(self._requests[position] for position in given.members)
        # Models that take turns have whole GPUs: what one of them leaves, another needs.
        if any(gpus is not None and gpus >= 1 for gpus in wished.values()) or any(
            request.model.exclusive for request in requests
        ):
            return False
        shares = _split(requests, tuple(wished.values()), given.gpus[0], self._catalog)
        if shares is None:
            return False
        self._given[index] = replace(given, shares=shares)
        return True

    def _take_processor(self, position: int) -> bool:
        """Put a model on the processor where its memory surely holds it."""
        promised = 0
        for other in (*self._on_processor, position):
            taken = []
            for taker in turn_takers(self._models, other):
                plan = _try(_request_on_processor(self._requests[taker], promised), self._catalog)
                memory = plan.served.forecast if plan else None
                if memory is None or memory.verdict != Verdict.FITS:
                    return False
                taken.append(memory.taken_bytes)
            promised += max(taken)
        self._on_processor.append(position)
        return True


def _pools(request: ModelRequest) -> list[list[Gpu]]:
    """Return the usable GPUs by kind, the roomiest first; GPUs that NVLink joins stand side by side."""
    host = request.host
    if request.mode is Mode.SINGLE:
        (best,) = placements(host, Mode.SINGLE, EngineSettings(), Heads(), devices=request.devices)
        return [list(best.gpus)]
    kinds = equal_groups(usable_gpus(host, request.devices))
    return [[gpu for island in nvlink_islands(kind, host.links) for gpu in island] for kind in kinds]


def _least_gpus(request: ModelRequest, pool: list[Gpu], catalog: Catalog) -> int | None:
    """Return the fewest GPUs of a pool, a power of two, that serve the model with long requests, else at all."""
    fits: int | None = None
    for count in (1 << power for power in range(len(pool).bit_length())):
        plan = _try(_request_on(request, tuple(pool[:count]), None), catalog)
        if plan is not None and _is_comfortable(plan, request):
            return count
        fits = fits or (count if plan is not None else None)
    return fits


def _is_comfortable(plan: PlannedModel, request: ModelRequest) -> bool:
    length = plan.context
    if length == "auto":
        return True
    own = request.wishes.max_model_len or request.facts.config.shape.default_length or COMFORTABLE_TOKENS
    return int(length) >= min(COMFORTABLE_TOKENS, own)


def _split(
    requests: tuple[ModelRequest, ...], wished: tuple[float | None, ...], gpu: Gpu, catalog: Catalog
) -> tuple[Utilization, ...] | None:
    """Share one GPU: each model gets what it needs, those that write what is left in proportion; None where it is too
    small.

    Args:
        wished: for each model the part of a GPU that its environment gives it, None where it leaves that open.
    """
    host = requests[0].host
    total_bytes = gpu.memory_bytes or host.memory_bytes
    if not total_bytes:
        return None
    alone = [_request_on(replace(request, fixed=_without_share(request)), (gpu,), None) for request in requests]
    (placement,) = placements(alone[0].host, Mode.SINGLE, alone[0].parallel_pins, Heads(), devices=alone[0].devices)
    whole = round(choose_share(alone[0], placement, catalog).value * 100)
    # The context of each further engine is outside of what it calls its share.
    room = whole - ceil((len(requests) - 1) * CONTEXT_BYTES * 100 / total_bytes)
    fixed = [_fixed_hundredths(request, part, room) for request, part in zip(requests, wished, strict=True)]
    needs = [
        least if least is not None else _least_hundredths(request, gpu, room, catalog)
        for request, least in zip(requests, fixed, strict=True)
    ]
    known = [need for need in needs if need is not None]
    if len(known) < len(needs) or sum(known) > room:
        return None
    takers = [n for n, request in enumerate(requests) if fixed[n] is None and request.role.generates]
    takers = takers or [n for n in range(len(requests)) if fixed[n] is None]
    spare, wanted = room - sum(known), sum(known[n] for n in takers)
    shares = [need + (spare * need // wanted if n in takers else 0) for n, need in enumerate(known)]
    others = ", ".join(f"{request.llm.name} {share / 100:.2f}" for request, share in zip(requests, shares, strict=True))
    whys = [
        f"needs at least {need / 100:.2f}" if part is None else f"its gpu_share is {request.model.gpu_share:g}"
        for request, part, need in zip(requests, wished, known, strict=True)
    ]
    return tuple(
        Utilization(
            value=share / 100,
            reason=f"shares GPU {gpu.index}, of which {room / 100:.2f} is usable: {others}; {why}",
            source=DECISION,
        )
        for share, why in zip(shares, whys, strict=True)
    )


def _without_share(request: ModelRequest) -> dict[str, Pin]:
    return {key: pin for key, pin in request.fixed.items() if key != request.engine.keys.memory_share}


def _least_given(request: ModelRequest) -> int:
    """Return the smallest share of a GPU that the engine takes, in hundredths."""
    spec = declared_settings().by_key.get(request.engine.keys.memory_share or "")
    return round(((spec and spec.minimum) or 0.01) * 100)


def _fixed_hundredths(request: ModelRequest, wished: float | None, room: int) -> int | None:
    """Return the share that a person has set, in hundredths of the GPU."""
    pinned = request.pins.get(request.engine.keys.memory_share or "")
    if pinned is not None:
        return round(float(pinned) * 100)
    return None if wished is None else max(_least_given(request), int(wished * room))


def _least_hundredths(request: ModelRequest, gpu: Gpu, room: int, catalog: Catalog) -> int | None:
    """Return the smallest share of a GPU, in hundredths, that surely serves the model with long requests."""

    def serves(share: int) -> bool:
        part = Utilization(value=share / 100, reason="", source="")
        plan = _try(_request_on(request, (gpu,), part), catalog)
        memory = plan.served.forecast if plan else None
        return (
            plan is not None
            and memory is not None
            and memory.verdict == Verdict.FITS
            and _is_comfortable(plan, request)
        )

    least, enough = _least_given(request), room
    if enough < least or not serves(enough):
        return None
    while least < enough:
        middle = (least + enough) // 2
        least, enough = (least, middle) if serves(middle) else (middle + 1, enough)
    return enough


def _try(request: ModelRequest, catalog: Catalog) -> PlannedModel | None:
    try:
        return plan_as_is(request, catalog)
    except NoPlanError:
        return None


def _request_on(request: ModelRequest, gpus: tuple[Gpu, ...], utilization: Utilization | None) -> ModelRequest:
    """Return the request as for a host that has these GPUs alone."""
    fixed = {key: pin for key, pin in request.fixed.items() if key != "NVIDIA_VISIBLE_DEVICES"}
    host = host_with(request.host, gpus)
    # Models that take turns have one engine on all of their GPUs; whoever named no mode gets as many GPUs as pay.
    several = Mode.MULTI if request.model.exclusive is not None else request.mode
    mode = Mode.SINGLE if len(gpus) == 1 else several
    return replace(request, host=host, mode=mode, fixed=fixed, utilization=utilization)


def _request_on_processor(request: ModelRequest, promised_bytes: int) -> ModelRequest:
    of_gpus = (*_OF_GPUS, request.whole.engine.keys.image) if request.mode is not Mode.CPU and request.host.gpus else ()
    fixed = {key: pin for key, pin in request.fixed.items() if key not in of_gpus}
    return replace(request, mode=Mode.CPU, fixed=fixed, promised_bytes=promised_bytes)


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
