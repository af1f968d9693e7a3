"""What a host comes to with each of many models: the planner's own answer, without writing a plan of each. Pure.

`weigh` is the plan of one checkpoint in a few figures, `best_of` the checkpoint of a model that loses least of those
with the best reach (as planning/advice.py names one where another does not fit), `in_order` the models best first, by
the rule of planning/llm_choice.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.model_facts import CatalogLlm, Checkpoint, ModelFacts
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Memory
from stackwright.engines.protocol import DriverTooOldError, ImageChoice, NoImageError
from stackwright.errors import NoPlanError
from stackwright.planning.advice import NOTHING, Reach
from stackwright.planning.llm_choice import is_roomy, order_llms
from stackwright.planning.model_plan import NoRoomError, decide, plan_as_is, reach_of
from stackwright.planning.quantization import Kernel, Rules, find_kernel, order_by_loss
from stackwright.planning.request import ModelRequest, PlanRequest, WantedModel, model_request

# Makes what a plan takes of a checkpoint: read from the cache where the host has one, else from the catalog alone.
ReadModel = Callable[[CatalogLlm, Checkpoint], WantedModel]


class Lack(StrEnum):
    """What stands in the way of a plan: memory, the driver, that no image serves these GPUs, or anything else."""

    MEMORY = "memory"
    DRIVER = "driver"
    IMAGE = "image"
    SUPPORT = "support"


class Refusal(Struct, frozen=True, kw_only=True):
    """Why there is no plan, in the planner's words, with its hint."""

    lack: Lack
    reason: str
    hint: str | None


class Served(Struct, frozen=True, kw_only=True):
    """How a host would serve a checkpoint.

    `reach.tokens` is the longest request. `at_once`: requests of that length, all replicas together; None where no
    cache bounds them. `gpus` of one replica: 0 on a processor. `memory`: per GPU; None where nothing was forecast.
    `inside_island`: no rank is reached over PCIe where others are joined by NVLink.
    """

    reach: Reach
    at_once: float | None
    gpus: int
    replicas: int
    tensor_parallel: int
    pipeline_parallel: int
    inside_island: bool
    image: ImageChoice
    memory: Memory | None
    warnings: tuple[str, ...]


class Offer(Struct, frozen=True, kw_only=True):
    """One checkpoint on one host: how it is served, or why not. `kernel`: None where no format rule names one."""

    model: WantedModel
    kernel: Kernel | None
    served: Served | None
    refusal: Refusal | None

    @property
    def facts(self) -> ModelFacts:
        """What was read of the checkpoint."""
        return self.model.facts

    @property
    def reach(self) -> Reach:
        """What the plan comes to; nothing without one."""
        return self.served.reach if self.served is not None else NOTHING


class Listed(Struct, frozen=True, kw_only=True):
    """A model of the catalog on one host: its best checkpoint there, and whether nobody has to name it."""

    row: CatalogLlm
    offer: Offer
    is_default: bool = False


def weigh(request: ModelRequest, catalog: Catalog, rules: Rules) -> Offer:
    """Plan one model, and return what that comes to."""
    facts, gpus = request.facts, request.host.gpus
    capability = gpus[0].compute_capability if gpus else None
    kernel = find_kernel(rules, facts.format, capability, facts.config.quant_method) if facts.format else None
    try:
        served, refusal = _served(request, catalog), None
    except NoPlanError as failure:
        served, refusal = None, Refusal(lack=_lack(failure), reason=failure.message, hint=failure.hint)
    return Offer(model=request.model, kernel=kernel, served=served, refusal=refusal)


def _lack(failure: NoPlanError) -> Lack:
    if isinstance(failure, DriverTooOldError):
        return Lack.DRIVER
    if isinstance(failure, NoImageError):
        return Lack.IMAGE
    return Lack.MEMORY if isinstance(failure, NoRoomError) else Lack.SUPPORT


def _served(request: ModelRequest, catalog: Catalog) -> Served:
    """Return what a plan comes to; of one on GPUs without pins its settings in words are not made."""
    request.engine.check_role(request.facts, request.role, catalog)
    keys, decision = request.engine.keys, decide(request, catalog)
    placement, layout = decision.placement, decision.layout
    if layout is None or request.fixed:
        planned = plan_as_is(request, catalog)
        values = {key: setting.value for key, setting in planned.served.settings.items()}
        memory, context = planned.served.forecast, values[keys.context]
        limit = values.get(keys.requests or "", "")
        requests = int(limit) if limit.isdecimal() else None
        warnings = planned.warnings
    else:
        memory, settings = layout.forecast.memory, layout.solution.settings
        context = str(settings.max_model_len or "auto")
        requests, warnings = settings.max_num_seqs, layout.warnings
    replicas = len(placement.groups)
    return Served(
        reach=reach_of(request, memory, context),
        at_once=_at_once(memory, requests, replicas),
        gpus=len(placement.groups[0]),
        replicas=replicas,
        tensor_parallel=placement.tensor_parallel,
        pipeline_parallel=placement.pipeline_parallel,
        inside_island=placement.inside_island,
        image=decision.chosen,
        memory=memory,
        warnings=warnings,
    )


def _at_once(memory: Memory | None, requests: int | None, replicas: int) -> float | None:
    """Return how many of the longest requests are worked on at once: as the cache and the engine's limit allow."""
    if memory is None or not memory.kv_bytes_per_token:
        return None
    return replicas * min(memory.max_concurrency, requests or memory.max_concurrency)


def best_of(whole: PlanRequest, row: CatalogLlm, catalog: Catalog, rules: Rules, read: ReadModel) -> Offer:
    """Return the checkpoint that loses least of those with the best reach; where none is served, the smallest.

    Room for several requests, or a long one, is as good as more; the rest is not looked at once it is found.
    """
    gpus = whole.host.gpus
    capability = gpus[0].compute_capability if gpus else None
    best: Offer | None = None
    refused: list[Offer] = []
    for checkpoint in order_by_loss(rules, row, capability):
        offer = weigh(model_request(replace(whole, models=(read(row, checkpoint),)), 0), catalog, rules)
        if offer.served is None or offer.kernel is None:
            refused.append(offer)
            if offer.refusal is not None and offer.refusal.lack in (Lack.DRIVER, Lack.IMAGE):
                break  # it is so whatever the number format
            continue
        if best is None or offer.reach > best.reach:
            best = offer
        if offer.reach.sure and is_roomy(row, offer.reach.tokens):
            return offer
    return best or _nearest(refused)


def _nearest(refused: Sequence[Offer]) -> Offer:
    """Return the refusal to show: the smallest of those that lack memory alone, else the first."""
    small = [offer for offer in refused if offer.refusal is not None and offer.refusal.lack is Lack.MEMORY]
    return min(small or refused, key=lambda offer: _weight(offer) if small else 0)


def _weight(offer: Offer) -> float:
    return offer.facts.weight_bytes if offer.facts.weight_bytes is not None else float("inf")


def survey(
    whole: PlanRequest, rows: Iterable[CatalogLlm], catalog: Catalog, read: ReadModel, default: WantedModel | None
) -> tuple[Listed, ...]:
    """Return every model on the request's host, best first, those that it does not serve last.

    Args:
        whole: the request; its models are left out.
        default: what is served where nobody names a model; its checkpoint is shown as it is.
    """
    rules = whole.engine.format_rules(catalog, whole.needs.exact)
    chosen = default.facts.location if default is not None else None
    listed = []
    for row in rows:
        is_default = any(checkpoint.hub_id == chosen for checkpoint in row.checkpoints)
        if is_default and default is not None:
            offer = weigh(model_request(replace(whole, models=(default,)), 0), catalog, rules)
        else:
            offer = best_of(whole, row, catalog, rules, read)
        listed.append(Listed(row=row, offer=offer, is_default=is_default))
    return in_order(listed, whole.objective or Objective.THROUGHPUT)


def in_order(listed: Iterable[Listed], objective: Objective) -> tuple[Listed, ...]:
    """Return models by role, chat models first; of each role the default, then the best, those that do not fit last."""
    by_role: dict[bool, list[Listed]] = {}
    for one in listed:
        by_role.setdefault(one.row.role.generates, []).append(one)
    ordered: list[Listed] = []
    for generates in (True, False):
        group = by_role.get(generates, [])
        served = {one.row.name: one for one in group if one.offer.served is not None}
        tokens = {name: one.offer.reach.tokens for name, one in served.items()}
        names = [row.name for row in order_llms([one.row for one in served.values()], objective, tokens)]
        best = [served[name] for name in names]
        ordered += sorted(best, key=lambda one: (not one.is_default, not one.offer.reach.sure))
        ordered += sorted((one for one in group if one.offer.served is None), key=lambda one: _weight(one.offer))
    return tuple(one for one in ordered if one.offer.served is not None) + tuple(
        one for one in ordered if one.offer.served is None
    )
