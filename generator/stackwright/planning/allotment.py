"""Which GPUs each of several models gets, or the processor. Pure."""

from __future__ import annotations

from bisect import bisect_right

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings, Verdict
from stackwright.domain.host import Gpu
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode
from stackwright.domain.topology import nvlink_islands
from stackwright.engines.memory.unified import shares_memory
from stackwright.errors import NoPlanError
from stackwright.planning.model_plan import plan_model
from stackwright.planning.placement import Heads, equal_groups, placements, usable_gpus
from stackwright.planning.request import ModelRequest, PlanRequest
from stackwright.planning.shares import (
    Tenant,
    least_gpus,
    request_on,
    request_on_processor,
    shared_bytes,
    split,
    try_plan,
)
from stackwright.planning.switching import turn_takers
from stackwright.planning.utilization import Utilization

# What a chat model keeps at least of its context where a model that does not write gets a part of its GPU; less, and
# the processor serves that one. A judgement (docs/decisions/0030-several-models.md), for lack of measurements.
KEPT_LENGTH = 0.5


class Allotment(Struct, frozen=True, kw_only=True):
    """What one model gets: its GPUs, none for the processor; `utilization` where it shares them with other models.

    `why_processor`: why it gets none where others do.
    """

    request: ModelRequest
    gpus: tuple[Gpu, ...] = ()
    utilization: Utilization | None = None
    why_processor: str = ""

    def request_here(self, promised_bytes: int) -> ModelRequest:
        """Return the request as for a host that has this allotment alone.

        Args:
            promised_bytes: of the processor's memory, to other models.
        """
        if not self.gpus:
            return replace(request_on_processor(self.request, promised_bytes), why_processor=self.why_processor)
        return request_on(self.request, self.gpus, self.utilization)


class _Share(Struct, frozen=True, kw_only=True):
    """GPUs with the models, by position, that serve from them: one on all of them, further ones on one of them each.

    `places` and `shares` of each model where they are several.
    """

    gpus: tuple[Gpu, ...]
    members: tuple[int, ...]
    places: tuple[tuple[Gpu, ...], ...] = ()
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
        f"name fewer or smaller models, or in {request.whole.file_of('models')} serve some in turn with `exclusive`, "
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
        self._on_processor: dict[int, str] = {}

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

        A GPU that is left, a part of one where the others still answer long requests, the processor, any part.
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
        against: list[str] = []
        if self._join(position, against):
            return True
        why = against[0] if against else "no GPU is left for it"
        return self._take_processor(position, why) or self._join(position)

    def allotments(self) -> tuple[Allotment, ...]:
        """Return what every model gets."""
        requests = self._requests
        found = {
            taker: Allotment(request=requests[taker], why_processor=why)
            for first, why in self._on_processor.items()
            for taker in turn_takers(self._models, first)
        }
        for given in self._given:
            for index, position in enumerate(given.members):
                share = given.shares[index] if given.shares else None
                gpus = given.places[index] if given.places else given.gpus
                found[position] = Allotment(request=requests[position], gpus=gpus, utilization=share)
                if requests[position].model.exclusive is not None:
                    for taker in turn_takers(self._models, position):
                        count = least_gpus(requests[taker], list(given.gpus), self._catalog)
                        found[taker] = Allotment(request=requests[taker], gpus=given.gpus[:count])
        return tuple(found[position] for position in range(len(self._requests)))

    def _least(self, position: int, pool: list[Gpu]) -> int | None:
        """Return the fewest GPUs of a pool that hold whatever is to be loaded for it."""
        counts = [
            least_gpus(self._requests[taker], pool, self._catalog) for taker in turn_takers(self._models, position)
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

    def _join(self, position: int, against: list[str] | None = None) -> bool:
        """Put a model on a GPU that another one has, the least shared first.

        Args:
            position: of the model.
            against: only where the others still answer long requests; takes up what speaks against each place.
        """
        for index in sorted(range(len(self._given)), key=lambda index: len(self._given[index].members)):
            given = self._given[index]
            places = given.places or (given.gpus,) * len(given.members)
            guests = [place[0] for place in places[1:]]
            # The first rank has more to do than the others.
            least = min(reversed(given.gpus), key=guests.count)
            wider = self._shared_out(replace(given, members=(*given.members, position), places=(*places, (least,))))
            found = None if against is None else self._no_room(given) if wider is None else self._loss(given, wider)
            if against is not None and found:
                against.append(found)
            elif wider is not None:
                self._given[index] = wider
                return True
        return False

    def _no_room(self, given: _Share) -> str:
        """Return why a model finds no room beside those on some GPUs."""
        names = " and ".join(self._models[position].llm.name for position in given.members)
        numbers = ", ".join(str(gpu.index) for gpu in given.gpus)
        where, has = (f"GPU {numbers}", "has") if len(given.gpus) == 1 else (f"GPUs {numbers}", "have")
        if any(self._models[position].exclusive for position in given.members):
            return f"{names} on {where} takes turns, with whole GPUs"
        if any((self._wished_gpus(position) or 0) >= 1 for position in given.members):
            return f"the gpu_share of {names} is all of {where}"
        plan = try_plan(request_on(self._requests[given.members[0]], given.gpus, None), self._catalog)
        if plan and plan.served.forecast and plan.served.forecast.verdict == Verdict.UNCERTAIN:
            return f"what {names} leaves of the memory of {where} cannot be forecast for sure"
        return f"{where} {has} no room for it beside {names}"

    def _loss(self, before: _Share, after: _Share) -> str:
        """Return how a model that writes would have to answer shorter requests; empty where none would."""
        for index, position in enumerate(before.members):
            request = self._requests[position]
            if not request.role.generates or self._wished_gpus(position) is not None:
                continue
            share = before.shares[index] if before.shares else None
            had, kept = (self._length(position, after.places[index], part) for part in (share, after.shares[index]))
            if kept < had * (1 if request.objective is Objective.CONTEXT else KEPT_LENGTH):
                return (
                    f"a part of GPU {after.places[-1][0].index} would leave {request.llm.name} a context of "
                    f"{kept:,} tokens instead of {had:,}"
                )
        return ""

    def _length(self, position: int, gpus: tuple[Gpu, ...], share: Utilization | None) -> int:
        """Return a model's context in tokens on GPUs; 0 where the engine is to find it."""
        plan = try_plan(request_on(self._requests[position], gpus, share), self._catalog)
        return int(plan.context) if plan is not None and plan.context != "auto" else 0

    def _open_shared(self, position: int) -> bool:
        """Put a model on a part of a GPU that nobody has yet."""
        for pool in self._pools:
            if pool:
                own = (pool[0],)
                opened = self._shared_out(_Share(gpus=own, members=(position,), places=(own,)))
                if opened is not None:
                    self._given.append(opened)
                    del pool[0]
                    return True
        return False

    def _shared_out(self, given: _Share) -> _Share | None:
        """Return GPUs with the share of each of their models; None where they are too small for them."""
        tenants = tuple(
            Tenant(request=self._requests[position], gpus=place, wished=self._wished_gpus(position))
            for position, place in zip(given.members, given.places, strict=True)
        )
        # Models that take turns have whole GPUs: what one of them leaves, another needs.
        if any((tenant.wished or 0) >= 1 or tenant.request.model.exclusive for tenant in tenants):
            return None
        shares = split(tenants, self._catalog)
        return None if shares is None else replace(given, shares=shares)

    def _take_processor(self, position: int, why: str) -> bool:
        """Put a model on the processor where its memory surely holds it; `why` not on a GPU."""
        promised = sum(self._of_processor(given) for given in self._given)
        for other in (*self._on_processor, position):
            taken = []
            for taker in turn_takers(self._models, other):
                plan = try_plan(request_on_processor(self._requests[taker], promised), self._catalog)
                memory = plan.served.forecast if plan else None
                if memory is None or memory.verdict != Verdict.FITS:
                    return False
                taken.append(memory.taken_bytes)
            promised += max(taken)
        self._on_processor[position] = why
        return True

    def _of_processor(self, given: _Share) -> int:
        """Return what the models on some GPUs take of the processor's memory; 0 where the GPUs have their own."""
        host = self._requests[given.members[0]].host
        if not any(shares_memory(host, gpu, self._catalog.find_gpu(gpu.name)) for gpu in given.gpus):
            return 0
        places = given.places or (given.gpus,) * len(given.members)
        shares = given.shares or (None,) * len(given.members)
        requests = (self._requests[member] for member in given.members)
        plans = (
            try_plan(request_on(request, gpus, share), self._catalog)
            for request, gpus, share in zip(requests, places, shares, strict=True)
        )
        return sum(shared_bytes(plan, host, self._catalog) for plan in plans)


def _pools(request: ModelRequest) -> list[list[Gpu]]:
    """Return the usable GPUs by kind, the roomiest first; GPUs that NVLink joins stand side by side."""
    host = request.host
    if request.mode is Mode.SINGLE:
        (best,) = placements(host, Mode.SINGLE, EngineSettings(), Heads(), devices=request.devices)
        return [list(best.gpus)]
    kinds = equal_groups(usable_gpus(host, request.devices))
    return [[gpu for island in nvlink_islands(kind, host.links) for gpu in island] for kind in kinds]
