"""Which GPUs of the catalog serve a model as it is wished for, and how many of them. Pure.

Each answer is a plan for a host that has nothing but those GPUs, free, and the newest driver; the least driver is then
the oldest one from which on every newer one gives such a plan too. GPUs that are joined by a bridge are taken without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.hardware import GpuModel, Price
from stackwright.domain.host import Host
from stackwright.engines.protocol import EngineTask
from stackwright.errors import NoPlanError
from stackwright.planning.layout import FAR_MORE
from stackwright.planning.request import ModelRequest, PlanRequest, WantedModel, model_request
from stackwright.planning.sold_hosts import COUNTS, drivers_for, newest_driver, sold_host
from stackwright.planning.survey import Lack, Offer, weigh
from stackwright.units import MIB

# The checkpoints to choose from on GPUs of a compute capability, the one that loses least first.
Checkpoints = Callable[[str], Sequence[WantedModel]]


class Wish(Struct, frozen=True, kw_only=True):
    """What is asked of a model: requests of `context` tokens, None for a useful length, so many of them at once."""

    context: int | None = None
    requests: int = 1

    def holds(self, offer: Offer) -> bool:
        """Return whether an offer surely serves it."""
        served = offer.served
        if served is None or offer.kernel is None or not offer.reach.sure:
            return False
        long_enough = offer.reach.comfortable if self.context is None else offer.reach.tokens >= self.context
        return long_enough and (served.at_once is None or served.at_once >= self.requests)


class Suited(Struct, frozen=True, kw_only=True):
    """The least number of GPUs of a model that does, with the checkpoint that loses least there.

    `driver`: the least one. `price`: the lowest that is known; None where none is.
    """

    gpu: GpuModel
    count: int
    offer: Offer
    driver: str | None = None
    price: Price | None = None

    @property
    def usd_per_hour(self) -> float | None:
        """What all of the GPUs were offered for together."""
        return None if self.price is None else self.count * self.price.usd_per_gpu_hour


class Unsuited(Struct, frozen=True, kw_only=True):
    """A GPU model of which no number does: why, in a few words for many, and in the planner's own for this one.

    `known`: False where nobody can know, since the catalog lacks the GPU's memory. `count` and `offer`: what comes
    nearest; None where nothing is served.
    """

    gpu: GpuModel
    why: str
    reason: str
    known: bool = True
    lack: Lack | None = None
    count: int | None = None
    offer: Offer | None = None


def recommend(
    whole: PlanRequest, models: Checkpoints, wish: Wish, catalog: Catalog, prices: Sequence[Price]
) -> tuple[tuple[Suited, ...], tuple[Unsuited, ...]]:
    """Return which GPUs do, best first, and which do not.

    The least known price comes first; what has none follows, the least memory first.

    Args:
        whole: what else is asked; its host and models are left out.
        models: the checkpoints to choose from.
    """
    suited: list[Suited] = []
    others: list[Unsuited] = []
    for gpu in catalog.gpus():
        found = least_number(whole, models, wish, catalog, gpu)
        if isinstance(found, Unsuited):
            others.append(found)
        else:
            driver = least_driver(whole, found, wish, catalog)
            suited.append(replace(found, driver=driver, price=lowest_price(prices, gpu, found.count)))
    return tuple(sorted(suited, key=_worth)), tuple(others)


def _worth(suited: Suited) -> tuple[bool, float, int]:
    memory = suited.count * (suited.gpu.nvml_memory_mib or suited.gpu.memory_gb * 1000)
    usd = suited.usd_per_hour
    return usd is None, usd or 0, memory


def lowest_price(prices: Iterable[Price], gpu: GpuModel, count: int) -> Price | None:
    """Return the lowest known price of so many GPUs; None where none is known."""
    own = (price for price in prices if price.gpu == gpu.id and price.together in (None, count))
    return min(own, key=lambda price: price.usd_per_gpu_hour, default=None)


def least_number(
    whole: PlanRequest, models: Checkpoints, wish: Wish, catalog: Catalog, gpu: GpuModel
) -> Suited | Unsuited:
    """Return the least number of GPUs of a model that does, with the newest driver; else why none does."""
    rules, driver = whole.engine.format_rules(catalog, whole.needs.exact), newest_driver(catalog)
    best: Unsuited | None = None
    counts = COUNTS[:1] if gpu.unified_memory else COUNTS
    for count in counts:
        host = sold_host(gpu, count, driver)
        if host is None:
            return Unsuited(gpu=gpu, why="memory unknown", reason="its memory is not known", known=False)
        for model in models(gpu.compute_capability):
            if count < counts[-1] and _is_far_larger(model, gpu, count):
                continue
            offer = weigh(_request(whole, host, model, wish), catalog, rules)
            if wish.holds(offer):
                return Suited(gpu=gpu, count=count, offer=offer)
            if offer.refusal is not None and offer.refusal.lack in (Lack.DRIVER, Lack.IMAGE):
                return _unsuited(gpu, count, offer)  # neither more GPUs nor another number format would do
            if best is None or best.offer is None or _nearer(offer, best.offer):
                best = _unsuited(gpu, count, offer)
    return best or Unsuited(gpu=gpu, why="no checkpoint", reason="the catalog has no checkpoint of it", known=False)


def _is_far_larger(model: WantedModel, gpu: GpuModel, count: int) -> bool:
    """Return whether only more GPUs may hold the weights, so that no forecast is needed."""
    held = count * (gpu.nvml_memory_mib or gpu.memory_gb * 1000) * MIB
    return (model.facts.weight_bytes or 0) > FAR_MORE * held


def _nearer(offer: Offer, other: Offer) -> bool:
    """Return whether an offer on more GPUs is worth more: a doubtful one on few of them stays."""
    if offer.served is None or other.served is None:
        return offer.served is not None or other.served is None
    return offer.reach > other.reach or (offer.reach.sure and offer.reach == other.reach)


def _request(whole: PlanRequest, host: Host, model: WantedModel, wish: Wish) -> ModelRequest:
    context = wish.context or whole.wishes.max_model_len
    wishes = replace(whole.wishes, max_model_len=context)
    return model_request(replace(whole, host=host, models=(model,), wishes=wishes), 0)


def _unsuited(gpu: GpuModel, count: int, offer: Offer) -> Unsuited:
    """Return why no number does, from what comes nearest to it."""
    if offer.refusal is not None:
        lack = offer.refusal.lack
        return Unsuited(gpu=gpu, why=_WHY[lack], reason=offer.refusal.reason, lack=lack)
    at_once = offer.served.at_once if offer.served is not None else None
    many = f", {int(at_once)} at once" if at_once else ""
    reason = f"{count} serve requests of {offer.reach.tokens:,} tokens{many}"
    why = "requests too short, or too few at once" if offer.reach.sure else "may fit: its memory cannot be forecast"
    return Unsuited(gpu=gpu, why=why, reason=reason, count=count, offer=offer)


_WHY = {
    Lack.MEMORY: "too little memory",
    Lack.DRIVER: "no driver runs an engine image",
    Lack.IMAGE: "no engine image, or only with known vulnerabilities",
    Lack.SUPPORT: "no kernel for this model",
}


def least_driver(whole: PlanRequest, found: Suited, wish: Wish, catalog: Catalog) -> str | None:
    """Return the oldest driver from which on all newer ones do; one with the same image has the same plan."""
    if found.offer.served is None:
        return None
    rules, least = whole.engine.format_rules(catalog, whole.needs.exact), None
    known = {found.offer.served.image.version}
    task: EngineTask | None = None
    for driver in drivers_for(found.gpu, catalog):
        # One GPU asks for the same image as several of its kind, and is sooner looked at.
        one, host = sold_host(found.gpu, 1, driver), sold_host(found.gpu, found.count, driver)
        if one is None or host is None:
            break
        try:
            task = replace(task, host=one) if task else _request(whole, one, found.offer.model, wish).task
            chosen = whole.engine.choose_image(task, one.gpus, catalog, whole.needs)
        except NoPlanError:
            break
        if chosen.version not in known:
            request = _request(whole, host, found.offer.model, wish)
            if not wish.holds(weigh(request, catalog, rules)):
                break
        known.add(chosen.version)
        least = driver.version
    return least
