"""The model that is served where the person named none. Pure."""

from __future__ import annotations

from dataclasses import replace

from generator.domain.catalog import Catalog
from generator.domain.model_facts import CatalogLlm, Checkpoint
from generator.domain.topology import nvlink_islands
from generator.errors import NoPlanError
from generator.planning.layout import as_if_sure, fits_somewhere, smallest_memory
from generator.planning.llm_choice import choose_llm
from generator.planning.placement import Heads, Placement, placements
from generator.planning.planner import choose_engine_image, choose_share
from generator.planning.request import Request
from generator.planning.stored import stored_facts, stored_llm


def with_default_llm(request: Request, catalog: Catalog, *, has_token: bool) -> Request:
    """Return the request with the best catalog model for its host and objective; unchanged on the CPU.

    Raises:
        NoPlanError: the host lacks what was asked for, or no catalog model fits it.
    """
    options = placements(request.host, request.mode, request.parallel_pins, Heads(), request.objective)
    if not options[0].gpus:
        return request
    chosen = choose_engine_image(request, options[0], catalog)
    memory = smallest_memory(options[0].gpus, request.host, catalog)
    share = choose_share(request, options[0], catalog).value
    if memory is not None:
        memory, share = as_if_sure(memory, share)

    inside = _inside_an_island(options, request)

    def fits(row: CatalogLlm, checkpoint: Checkpoint) -> bool | None:
        placement = _roomiest(inside, row)
        if memory is None or placement is None:
            return None
        return fits_somewhere(placement, stored_facts(row, checkpoint), memory, chosen.version, share)

    choice = choose_llm(
        catalog.llms,
        fits,
        objective=request.objective or "throughput",
        compute_capability=options[0].gpus[0].compute_capability,
        has_token=has_token,
        engine_version=chosen.version,
    )
    if choice.best is None:
        raise NoPlanError(
            f"no catalog model fits on {len(options[0].groups[0])}× {options[0].gpus[0].name}",
            hint="name one with --model; `stackwright fit --model …` forecasts it",
        )
    after = ", ".join(each.checkpoint.hub_id for each in choice.runners_up)
    reason = f"chosen for this host: {choice.best.reason}" + (f"; next best: {after}" if after else "")
    best = choice.best
    return replace(
        request,
        llm=stored_llm(best.row, best.checkpoint),
        facts=stored_facts(best.row, best.checkpoint),
        model_reason=reason,
    )


def _inside_an_island(options: tuple[Placement, ...], request: Request) -> tuple[Placement, ...]:
    """Return the placements that need no PCIe between their ranks; all of them where pins leave no such.

    A model that the person named may reach across; nobody asked for one so large that it must.
    """
    largest = len(nvlink_islands(options[0].gpus, request.host.links)[0])
    inside = tuple(each for each in options if each.tensor_parallel * each.pipeline_parallel <= largest)
    return inside or options


def _roomiest(options: tuple[Placement, ...], row: CatalogLlm) -> Placement | None:
    """Return the largest group whose ranks can share the model's layers."""
    heads = Heads(attention=row.attention_heads or None, kv=row.kv_heads or None)
    shared = [each for each in options if heads.allow(each.tensor_parallel)]
    return max(shared, key=lambda each: each.tensor_parallel * each.pipeline_parallel, default=None)
