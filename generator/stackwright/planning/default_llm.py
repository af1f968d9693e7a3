"""The model that is served where the person named none. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.errors import NoPlanError
from stackwright.models.stored import name_llm, stored_facts
from stackwright.planning.layout import as_if_sure, memory_unknown, serves, smallest_memory
from stackwright.planning.llm_choice import PREFERENCES, LlmCandidate, choose_llm
from stackwright.planning.model_plan import wanted_settings
from stackwright.planning.placement import Heads, placements
from stackwright.planning.request import ModelRequest, PlanRequest, model_request


def with_default_llm(
    whole: PlanRequest, catalog: Catalog, *, has_token: bool, least_share: float | None = None
) -> PlanRequest:
    """Return the request with the best catalog model for its host and objective; unchanged on the CPU.

    `least_share`: the smallest share of a GPU's memory that an environment has, so that all of them serve the same
    model. Where none fits there, the environment's own share counts.

    Raises:
        NoPlanError: the host lacks what was asked for, or no catalog model fits it.
    """
    own = whole.wishes.gpu_memory_utilization
    if least_share is None or least_share >= own:
        return _with_best(whole, whole, catalog, has_token=has_token)
    smaller = replace(whole, wishes=replace(whole.wishes, gpu_memory_utilization=least_share))
    try:
        return _with_best(whole, smaller, catalog, has_token=has_token)
    except NoPlanError:
        return _with_best(whole, whole, catalog, has_token=has_token)


def with_kept_default(whole: PlanRequest, catalog: Catalog, name: str) -> PlanRequest | None:
    """Return the request with the catalog's checkpoint `name`, which was its default before; None where it is gone."""
    for row in catalog.llms():
        for checkpoint in row.checkpoints:
            if checkpoint.hub_id == name:
                facts = stored_facts(row, checkpoint)
                reason = "the default of an earlier command; `--unset model` chooses anew"
                (model,) = whole.models
                kept = replace(model, llm=name_llm(facts), facts=facts, reason=reason)
                return replace(whole, models=(kept,), remembered=True)
    return None


def _with_best(whole: PlanRequest, judged: PlanRequest, catalog: Catalog, *, has_token: bool) -> PlanRequest:
    """Return the request with the model that is best for another, which differs in the share of the memory."""
    request = model_request(judged, 0)
    options = placements(request.host, request.mode, request.parallel_pins, Heads(), request.objective, request.devices)
    if not options[0].gpus:
        return whole
    chosen = request.engine.choose_image(request.task, options[0].gpus, catalog, judged.needs)
    settings = wanted_settings(request, options[0], catalog, chosen.version)
    memory = smallest_memory(options[0].gpus, request.host, catalog)
    if memory is None:
        raise memory_unknown(options[0].gpus[0])
    memory, settings = as_if_sure(memory, settings)
    # A model that the person named may reach across islands; nobody asked for one so large that it must.
    inside = tuple(option for option in options if option.inside_island) or options

    def served(row: CatalogLlm, checkpoint: Checkpoint) -> int | None:
        group = _roomiest(inside, row)
        if group is None:
            return None
        there = replace(settings, tensor_parallel=group.tensor_parallel, pipeline_parallel=group.pipeline_parallel)
        return serves(request.engine, there, memory, stored_facts(row, checkpoint), request.objective)

    choice = choose_llm(
        request.engine.format_rules(catalog, chosen.version),
        catalog.llms(),
        served,
        objective=request.objective or Objective.THROUGHPUT,
        compute_capability=options[0].gpus[0].compute_capability,
        has_token=has_token,
        engine_version=chosen.version,
    )
    best = choice.best
    if best is None:
        raise _nothing_fits(request, catalog, inside, _pins_in_the_way(whole, judged, catalog, has_token=has_token))
    facts = stored_facts(best.row, best.checkpoint)
    reason = _reason(best, choice.runners_up, request.objective)
    share = judged.wishes.gpu_memory_utilization
    if share < whole.wishes.gpu_memory_utilization:
        reason += f"; it fits the smallest memory share of the environments, {share:g}, so that all serve the same"
    model = replace(request.model, llm=name_llm(facts), facts=facts, reason=reason)
    return replace(whole, models=(model,))


def _pins_in_the_way(whole: PlanRequest, judged: PlanRequest, catalog: Catalog, *, has_token: bool) -> str | None:
    """Return the hint to take pins back without which a model fits; None where none fits without them either."""
    keys = {row.spec.key for row in whole.engine.memory_settings}
    of_memory = [pin for pin in judged.pins if pin.key in keys]
    if not of_memory:
        return None
    others = tuple(pin for pin in judged.pins if pin not in of_memory)
    try:
        _with_best(replace(whole, pins=others), replace(judged, pins=others), catalog, has_token=has_token)
    except NoPlanError:
        return None
    return f"remove {', '.join(pin.written_at for pin in of_memory)}: a model fits without"


def _nothing_fits(
    request: ModelRequest, catalog: Catalog, options: tuple[Placement, ...], hint: str | None
) -> NoPlanError:
    """Make the refusal: a pinned size that no model's heads can be split by is named, since no model would help."""
    if all(_roomiest(options, row) is None for row in catalog.llms()):
        pin = request.fixed[request.engine.keys.tensor_parallel]
        return NoPlanError(
            f"{pin.written}={pin.value} divides the attention heads of no catalog model",
            hint=f"remove {pin.written_at}, or pin a size that divides them, such as 1, 2, 4 or 8",
        )
    return NoPlanError(
        f"no catalog model fits on {len(options[0].groups[0])}× {options[0].gpus[0].name}",
        hint=hint or "name one with --model; `stackwright fit --model …` checks it",
    )


def _reason(best: LlmCandidate, runners_up: tuple[LlmCandidate, ...], objective: Objective | None) -> str:
    """Return why the model was chosen, what the objective had to do with it, and what came next."""
    asked = f"for {objective}" if objective else f"without an objective, as for {Objective.THROUGHPUT}"
    preferred = f"{asked}, of recent models of that size {PREFERENCES[objective or Objective.THROUGHPUT]}"
    after = "; ".join(f"{candidate.checkpoint.hub_id} ({candidate.standing})" for candidate in runners_up)
    return f"chosen for this host: {best.reason}; {preferred}" + (f"; next best: {after}" if after else "")


def _roomiest(options: tuple[Placement, ...], row: CatalogLlm) -> Placement | None:
    """Return the largest group whose ranks can share the model's layers."""
    heads = Heads(attention=row.attention_heads or None, kv=row.kv_heads or None)
    shared = [option for option in options if heads.allow(option.tensor_parallel)]
    return max(shared, key=lambda option: option.ranks, default=None)
