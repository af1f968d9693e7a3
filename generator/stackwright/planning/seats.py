"""Which GPUs each of several models gets, or the processor. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from math import ceil

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import Verdict
from stackwright.domain.host import Gpu, Host
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.topology import nvlink_islands
from stackwright.errors import NoPlanError
from stackwright.planning.placement import Heads, ParallelPins, equal_groups, placements, usable_gpus
from stackwright.planning.planner import choose_share, plan_as_is
from stackwright.planning.request import Request
from stackwright.planning.switching import mates
from stackwright.planning.utilization import CONTEXT_BYTES, Utilization
from stackwright.settings import BY_KEY

DECISION = "docs/decisions/0030-several-models.md"
# As of one model: a GPU is enough where a request of this length, or of the model's own, fits (planning/layout.py).
COMFORTABLE_TOKENS = 8192
_LEAST_HUNDREDTHS = round((BY_KEY["VLLM_GPU_MEMORY_UTILIZATION"].minimum or 0) * 100)
# What only a GPU's engine reads, of the settings that models share.
_OF_GPUS = ("CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "VLLM_IMAGE")


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One model's place: its GPUs, none for the processor; `utilization` where it shares them with other models."""

    request: Request
    gpus: tuple[Gpu, ...] = ()
    utilization: Utilization | None = None

    def request_here(self, promised_bytes: int) -> Request:
        """Return the request as for a host that has this seat alone.

        Args:
            promised_bytes: of the processor's memory, to other models.
        """
        if not self.gpus:
            return _request_on_processor(self.request, promised_bytes)
        return _request_on(self.request, self.gpus, self.utilization)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """GPUs with the models, by position, that serve from them: one, or several on a single GPU."""

    gpus: tuple[Gpu, ...]
    members: tuple[int, ...]
    shares: tuple[Utilization, ...] = ()


def on_processor(request: Request) -> bool:
    """Say whether everything runs on the processor: asked for, or there is no GPU."""
    host = request.host
    failed = host.driver is not None and host.driver.error is not None
    return request.mode is Mode.CPU or (request.mode is None and not host.gpus and not failed)


def seat_models(requests: tuple[Request, ...], catalog: Catalog) -> tuple[Seat, ...]:
    """Return a seat for each model, in the same order.

    Raises:
        NoPlanError: they do not fit beside each other.
    """
    groups = [own for position in range(len(requests)) if (own := mates(requests, position))[0] == position]
    firsts = [own[0] for own in groups]
    main = [own[0] for own in groups if any(requests[mate].role.generates for mate in own)] or firsts
    further = [position for position in firsts if position not in main]
    for growing in (True, False):
        room = _Room(requests, catalog)
        for position in main:
            room.seat(position)
        if growing:
            room.grow()
        if all(room.seat_beside(position) for position in further):
            return room.seats()
    names = ", ".join(requests[position].llm.name for position in further)
    raise NoPlanError(
        f"no room for {names} beside the other models, on a GPU or on the processor",
        hint=_ways_to_room(requests[0]),
    )


def _ways_to_room(request: Request) -> str:
    """Return the hint for models that do not fit beside each other."""
    return (
        f"name fewer or smaller models, or in envs/{request.environment.value}.yaml let some take turns with `exclusive`, "
        "or give the others less with gpu_share"
    )


class _Room:
    """The host's GPUs while they are given away. The first model of an exclusive group takes the seat of all."""

    def __init__(self, requests: tuple[Request, ...], catalog: Catalog) -> None:
        self._requests, self._catalog = requests, catalog
        self._pools = _pools(requests[0])
        self._order = [gpu for pool in self._pools for gpu in pool]
        self._starts = [sum(len(pool) for pool in self._pools[:n]) for n in range(len(self._pools))]
        self._tables: list[_Table] = []
        self._on_processor: list[int] = []

    def seat(self, position: int) -> None:
        """Give a model GPUs of its own, the fewest that hold it, else a part of one. Raises NoPlanError."""
        request, wished = self._requests[position], self._wished_gpus(position)
        if wished is None or wished >= 1:
            for pool in self._pools:
                count = int(wished) if wished else self._least(position, pool)
                if count and count <= len(pool):
                    self._tables.append(_Table(gpus=tuple(pool[:count]), members=(position,)))
                    del pool[:count]
                    return
        if not (self._join(position) or self._open_shared(position)):
            for mate in mates(self._requests, position):
                plan_as_is(self._requests[mate], self._catalog)  # one that the whole host does not hold says why itself
            free = sum(len(pool) for pool in self._pools)
            raise NoPlanError(
                f"no room for {request.llm.name} beside the other models: GPUs left: {free}; no shared one holds it",
                hint=_ways_to_room(request),
            )

    def grow(self) -> None:
        """Give the GPUs that are left to models in order, doubling what each has, as long as anyone's can be."""
        grown = True
        while grown:
            grown = False
            for index, table in enumerate(self._tables):
                pool = self._pool_of(table)
                count = len(table.gpus)
                if self._is_fixed(table) or count > len(pool):
                    continue
                self._tables[index] = replace(table, gpus=(*table.gpus, *pool[:count]))
                del pool[:count]
                grown = True
        self._align()

    def _align(self) -> None:
        """Deal the GPUs of each kind out anew, the largest group first: a group then lies on one island where it can."""
        for pool in self._pools:
            mine = [n for n, table in enumerate(self._tables) if not table.shares and self._pool_of(table) is pool]
            kind = sorted((*pool, *(gpu for n in mine for gpu in self._tables[n].gpus)), key=self._order.index)
            for n in sorted(mine, key=lambda n: -len(self._tables[n].gpus)):
                count = len(self._tables[n].gpus)
                self._tables[n] = replace(self._tables[n], gpus=tuple(kind[:count]))
                del kind[:count]
            pool[:] = kind

    def _pool_of(self, table: _Table) -> list[Gpu]:
        """Return what is left of a table's kind of GPUs."""
        place = self._order.index(table.gpus[0])
        return self._pools[bisect_right(self._starts, place) - 1]

    def seat_beside(self, position: int) -> bool:
        """Find a model that does not write a place that costs the others least; say whether there is one.

        A GPU that is left; where the others have one GPU, a part of it, else the processor: with several, all ranks and
        replicas would have to give that part.
        """
        if self._wished_gpus(position) is not None:
            try:
                self.seat(position)
            except NoPlanError:
                return False
            return True
        for pool in reversed(self._pools):
            if pool and self._least(position, pool[-1:]) == 1:
                self._tables.append(_Table(gpus=(pool.pop(),), members=(position,)))
                return True
        alone = sum(len(table.gpus) for table in self._tables) == 1
        ways = (self._join, self._take_processor) if alone else (self._take_processor, self._join)
        return any(way(position) for way in ways)

    def seats(self) -> tuple[Seat, ...]:
        """Return every model's seat."""
        requests = self._requests
        found = {mate: Seat(request=requests[mate]) for first in self._on_processor for mate in mates(requests, first)}
        for table in self._tables:
            for index, position in enumerate(table.members):
                share = table.shares[index] if table.shares else None
                found[position] = Seat(request=requests[position], gpus=table.gpus, utilization=share)
                if requests[position].exclusive is not None:
                    for mate in mates(requests, position):
                        count = _least_gpus(requests[mate], list(table.gpus), self._catalog)
                        found[mate] = Seat(request=requests[mate], gpus=table.gpus[:count])
        return tuple(found[position] for position in range(len(self._requests)))

    def _least(self, position: int, pool: list[Gpu]) -> int | None:
        """Return the fewest GPUs of a pool that hold whatever is to be loaded on this seat."""
        counts = [_least_gpus(self._requests[mate], pool, self._catalog) for mate in mates(self._requests, position)]
        return None if None in counts else max(count for count in counts if count is not None)

    def _wished_gpus(self, position: int) -> float | None:
        share = self._requests[position].gpu_share
        # A third of three GPUs is one of them.
        return None if share is None else round(share * len(self._order), 2)

    def _is_fixed(self, table: _Table) -> bool:
        members = [self._requests[position] for position in table.members]
        return bool(table.shares) or any(each.gpu_share is not None or each.exclusive is not None for each in members)

    def _join(self, position: int) -> bool:
        """Seat a model on a GPU that another one has, the least shared first."""
        for index in sorted(range(len(self._tables)), key=lambda index: len(self._tables[index].members)):
            table = self._tables[index]
            if len(table.gpus) == 1 and self._reseat(index, replace(table, members=(*table.members, position))):
                return True
        return False

    def _open_shared(self, position: int) -> bool:
        """Seat a model on a part of a GPU that nobody has yet."""
        for pool in self._pools:
            if pool:
                self._tables.append(_Table(gpus=(pool[0],), members=()))
                if self._reseat(len(self._tables) - 1, _Table(gpus=(pool[0],), members=(position,))):
                    del pool[0]
                    return True
                self._tables.pop()
        return False

    def _reseat(self, index: int, table: _Table) -> bool:
        wished = {position: self._wished_gpus(position) for position in table.members}
        requests = tuple(self._requests[position] for position in table.members)
        # Models that take turns have whole GPUs: what one of them leaves, another needs.
        if any(gpus is not None and gpus >= 1 for gpus in wished.values()) or any(each.exclusive for each in requests):
            return False
        shares = _split(requests, tuple(wished.values()), table.gpus[0], self._catalog)
        if shares is None:
            return False
        self._tables[index] = replace(table, shares=shares)
        return True

    def _take_processor(self, position: int) -> bool:
        """Seat a model on the processor where its memory surely holds it."""
        promised = 0
        for other in (*self._on_processor, position):
            taken = []
            for mate in mates(self._requests, other):
                plan = _try(_request_on_processor(self._requests[mate], promised), self._catalog)
                memory = plan.replicas[0].memory if plan else None
                if memory is None or memory.verdict != Verdict.FITS:
                    return False
                taken.append(memory.taken_bytes)
            promised += max(taken)
        self._on_processor.append(position)
        return True


def _pools(request: Request) -> list[list[Gpu]]:
    """Return the usable GPUs, those of a kind together, islands of NVLink beside each other, the roomiest kind first."""
    host, pins = request.host, request.parallel_pins
    if request.mode is Mode.SINGLE:
        (best,) = placements(host, Mode.SINGLE, ParallelPins(devices=pins.devices), Heads())
        return [list(best.gpus)]
    kinds = equal_groups(usable_gpus(host, pins.devices))
    return [[gpu for island in nvlink_islands(kind, host.links) for gpu in island] for kind in kinds]


def _least_gpus(request: Request, pool: list[Gpu], catalog: Catalog) -> int | None:
    """Return the fewest GPUs of a pool, a power of two, that serve the model with long requests, else at all."""
    fits: int | None = None
    for count in (1 << power for power in range(len(pool).bit_length())):
        plan = _try(_request_on(request, tuple(pool[:count]), None), catalog)
        if plan is not None and _is_comfortable(plan, request):
            return count
        fits = fits or (count if plan is not None else None)
    return fits


def _is_comfortable(plan: Plan, request: Request) -> bool:
    from stackwright.models.shape import parse_shape

    length = plan.settings["VLLM_MAX_MODEL_LEN"].value
    if length == "auto":
        return True
    own = request.wishes.max_model_len or parse_shape(request.facts.config).default_length or COMFORTABLE_TOKENS
    return int(length) >= min(COMFORTABLE_TOKENS, own)


def _split(
    requests: tuple[Request, ...], wished: tuple[float | None, ...], gpu: Gpu, catalog: Catalog
) -> tuple[Utilization, ...] | None:
    """Share one GPU: each model gets what it needs, those that write what is left in proportion; None where it is too small.

    Args:
        wished: for each model the part of a GPU that its environment gives it, None where it leaves that open.
    """
    host = requests[0].host
    total_bytes = gpu.memory_bytes or host.memory_bytes
    if not total_bytes:
        return None
    each = [_request_on(replace(request, pins=_without_share(request)), (gpu,), None) for request in requests]
    (placement,) = placements(each[0].host, Mode.SINGLE, each[0].parallel_pins, Heads())
    whole = round(choose_share(each[0], placement, catalog).value * 100)
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
        f"at least {need / 100:.2f} is needed" if part is None else f"its gpu_share is {request.gpu_share:g}"
        for request, part, need in zip(requests, wished, known, strict=True)
    ]
    return tuple(
        Utilization(
            value=share / 100,
            reason=f"shares GPU {gpu.index}, of which {room / 100:.2f} can be given: {others}; {why}",
            source=DECISION,
        )
        for share, why in zip(shares, whys, strict=True)
    )


def _without_share(request: Request) -> dict[str, str]:
    return {key: value for key, value in request.pins.items() if key != "VLLM_GPU_MEMORY_UTILIZATION"}


def _fixed_hundredths(request: Request, wished: float | None, room: int) -> int | None:
    """Return the share that a person has set, in hundredths of the GPU."""
    pinned = request.pins.get("VLLM_GPU_MEMORY_UTILIZATION")
    if pinned is not None:
        return round(float(pinned) * 100)
    return None if wished is None else max(_LEAST_HUNDREDTHS, int(wished * room))


def _least_hundredths(request: Request, gpu: Gpu, room: int, catalog: Catalog) -> int | None:
    """Return the smallest share of a GPU, in hundredths, that surely serves the model with long requests."""

    def serves(share: int) -> bool:
        part = Utilization(value=share / 100, reason="", source="")
        plan = _try(_request_on(request, (gpu,), part), catalog)
        memory = plan.replicas[0].memory if plan else None
        return (
            plan is not None
            and memory is not None
            and memory.verdict == Verdict.FITS
            and _is_comfortable(plan, request)
        )

    least, enough = _LEAST_HUNDREDTHS, room
    if enough < least or not serves(enough):
        return None
    while least < enough:
        middle = (least + enough) // 2
        least, enough = (least, middle) if serves(middle) else (middle + 1, enough)
    return enough


def _try(request: Request, catalog: Catalog) -> Plan | None:
    try:
        return plan_as_is(request, catalog)
    except NoPlanError:
        return None


def _request_on(request: Request, gpus: tuple[Gpu, ...], utilization: Utilization | None) -> Request:
    """Return the request as for a host that has these GPUs alone."""
    pins = {key: value for key, value in request.pins.items() if key != "NVIDIA_VISIBLE_DEVICES"}
    host = host_with(request.host, gpus)
    # Models that take turns have one engine on all of their seat; whoever named no mode gets as many GPUs as pay.
    several = Mode.MULTI if request.exclusive is not None else request.mode
    mode = Mode.SINGLE if len(gpus) == 1 else several
    return replace(request, host=host, mode=mode, pins=pins, utilization=utilization)


def _request_on_processor(request: Request, promised_bytes: int) -> Request:
    of_gpus = _OF_GPUS if request.mode is not Mode.CPU and request.host.gpus else ()
    pins = {key: value for key, value in request.pins.items() if key not in of_gpus}
    return replace(request, mode=Mode.CPU, pins=pins, promised_bytes=promised_bytes)


def host_with(host: Host, gpus: tuple[Gpu, ...]) -> Host:
    """Return a host that has these GPUs alone, and those that its MIG slices are cut from."""
    boards = {gpu.mig_slice.gpu for gpu in gpus if gpu.mig_slice is not None}
    kept = [place for place, gpu in enumerate(host.gpus) if gpu in gpus or gpu.index in boards]
    indices = {host.gpus[place].index for place in kept}
    return replace(
        host,
        gpus=tuple(host.gpus[place] for place in kept),
        links=tuple(link for link in host.links if link.a in indices and link.b in indices),
        p2p=tuple(tuple(host.p2p[a][b] for b in kept) for a in kept) if host.p2p else (),
    )
