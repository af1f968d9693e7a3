"""What to do about a model that does not fit, or that has room for short requests alone. Pure.

Every advice is planned before it is given, on the GPUs and with the settings that it would have.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings
from stackwright.domain.host import Gpu, Host
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode
from stackwright.errors import NoPlanError
from stackwright.models.stored import name_llm, stored_facts
from stackwright.planning.layout import smallest_memory
from stackwright.planning.quantization import Rules, advise_checkpoint
from stackwright.planning.request import ModelRequest
from stackwright.planning.sold_hosts import newest_driver
from stackwright.units import MIB

if TYPE_CHECKING:
    from stackwright.domain.hardware import GpuModel


# A host has mostly one, two, four or eight GPUs.
_MOST_GPUS = 8
# How many kinds of larger GPUs are tried: the next ones in size, of which the smallest that does is named.
_KINDS_TRIED = 6


class Reach(Struct, frozen=True, kw_only=True, order=True):
    """What a plan of a model comes to; the greater one is better.

    `sure`: the forecast is. `comfortable`: requests are as long as is useful. `tokens`: the longest; 0 without a plan.
    """

    sure: bool
    comfortable: bool
    tokens: int

    @property
    def words(self) -> str:
        """How it fits, and up to which length."""
        return f"{'fits' if self.sure else 'may fit'} with a context of {self.tokens:,}"


Plan = Callable[[ModelRequest], Reach]
"""Plans a model, and tells what that comes to; raises NoPlanError where there is no plan."""
NOTHING = Reach(sure=False, comfortable=False, tokens=0)


def advise_instead(request: ModelRequest, catalog: Catalog, plan: Plan) -> str:
    """Return the hint for a model that does not fit: another checkpoint of it, else the hardware that holds it."""
    row = next((row for row in catalog.llms() if _is_of(row, request.facts.location)), None)
    found, told = _other_checkpoint(request, row, plan, _rules(request, catalog)) if row is not None else ("", "")
    held = _larger_hosts(request, catalog, plan)
    hardware = f"{request.llm.name} itself needs {', or '.join(held)}" if held else ""
    if not found and not held:
        named = shlex.quote(row.name if row is not None else request.facts.location)
        context = request.engine.keys.context
        told = told or f"name a smaller model with --model, or lower the context with --set {context}=…"
        hardware = f"`stackwright recommend --model {named}` names GPUs that hold it"
    return "; ".join(part for part in (found or told, hardware) if part)


def warn_of_length(request: ModelRequest, own: Reach, catalog: Catalog, plan: Plan) -> str | None:
    """Return the warning that requests have to be short, with the checkpoint that takes longer ones; else None."""
    if own.comfortable or request.pinned_count(request.engine.keys.context) or request.wishes.max_model_len:
        return None
    row = next((row for row in catalog.llms() if _is_of(row, request.facts.location)), None)
    better = _more_gpus(request, own, plan)
    if not better and row is not None:
        better = _other_checkpoint(request, row, plan, _rules(request, catalog), own)[0]
    return f"requests have room for {own.tokens:,} tokens with their answers" + (f"; {better}" if better else "")


def _more_gpus(request: ModelRequest, own: Reach, plan: Plan) -> str:
    """Return what the same weights come to on the GPUs that the mode leaves idle; empty where that is no more."""
    if request.mode is not Mode.SINGLE or len(request.host.gpus) < 2:
        return ""
    try:
        reach = plan(replace(request, mode=Mode.MULTI))
    except NoPlanError:
        return ""
    return f"`multi` {reach.words}" if reach > own and reach.comfortable else ""


def _rules(request: ModelRequest, catalog: Catalog) -> Rules:
    """Return the kernels of the release that was asked for, else of the newest; a plan says what an older one lacks."""
    return request.engine.format_rules(catalog, request.whole.needs.exact)


def _other_checkpoint(
    request: ModelRequest, row: CatalogLlm, plan: Plan, rules: Rules, least: Reach = NOTHING
) -> tuple[str, str]:
    """Return the sentence of the checkpoint that loses least of those with the best reach, or why there is none."""
    reached: dict[str, Reach] = {}

    def reach(checkpoint: Checkpoint) -> Reach:
        if checkpoint.hub_id not in reached:
            facts = stored_facts(row, checkpoint)
            other = replace(request, model=replace(request.model, llm=name_llm(facts), facts=facts))
            try:
                reached[checkpoint.hub_id] = plan(other)
            except NoPlanError:
                reached[checkpoint.hub_id] = NOTHING
        return reached[checkpoint.hub_id]

    def worth(checkpoint: Checkpoint) -> Reach:
        """A comfortable length is as good as any longer one."""
        own = reach(checkpoint)
        return replace(own, tokens=0) if own.comfortable else own

    others = [checkpoint for checkpoint in row.checkpoints if checkpoint.hub_id != request.facts.location]
    best = max(map(worth, others), default=NOTHING)
    enough = best > (replace(least, tokens=0) if least.comfortable else least)
    advice = advise_checkpoint(
        rules,
        row,
        request.host.gpus[0].compute_capability,
        lambda checkpoint: enough and worth(checkpoint) >= best,
        instead_of=request.facts.location,
    )
    if advice.checkpoint is None:
        return "", advice.sentence
    name = advice.checkpoint.hub_id
    return f"{name} {reach(advice.checkpoint).words} ({advice.sentence}): `--model {name}`", ""


def _larger_hosts(request: ModelRequest, catalog: Catalog, plan: Plan) -> tuple[str, ...]:
    """Return what would hold the model: more GPUs of the kind, as many larger ones (two kinds), two hosts like it."""
    gpus = request.host.gpus
    found = (
        next((words for words, host in _wider(request.host) if _holds(request, host, plan)), None),
        *islice((words for words, host in _larger(request.host, catalog) if _holds(request, host, plan)), 2),
        f"two such hosts with {len(gpus)}× {gpus[0].name} each" if _two_hold(request, catalog) else None,
    )
    return tuple(words for words in found if words)


def _holds(request: ModelRequest, host: Host, plan: Plan) -> bool:
    free = {key: pin for key, pin in request.fixed.items() if key not in _OF_THESE_GPUS}
    try:
        reach = plan(replace(request, host=host, fixed=free, mode=None))
    except NoPlanError:
        return False
    return reach.sure and reach.comfortable


_OF_THESE_GPUS = ("NVIDIA_VISIBLE_DEVICES",)


def _wider(host: Host) -> Iterator[tuple[str, Host]]:
    """Yield hosts with more GPUs like the first, the fewest first."""
    count = 2 * len(host.gpus)
    while count <= _MOST_GPUS and host.gpus[0].mig_slice is None:
        gpus = tuple(_numbered(host.gpus[0], position) for position in range(count))
        yield f"{count}× {host.gpus[0].name}", replace(host, gpus=gpus, links=(), p2p=())
        count *= 2


def _larger(host: Host, catalog: Catalog) -> Iterator[tuple[str, Host]]:
    """Yield hosts with as many larger GPUs, joined alike, the smallest first, with the newest driver."""
    own = catalog.find_gpu(host.gpus[0].name)
    if own is None or host.gpus[0].mig_slice is not None:
        return
    driver = newest_driver(catalog)
    larger = [
        row
        for row in catalog.gpus()
        if (row.gpu_class, row.unified_memory, _joined(row)) == (own.gpu_class, False, _joined(own))
        and row.memory_gb > own.memory_gb
        and row.nvml_memory_mib is not None
    ]
    for row in sorted(larger, key=lambda row: row.memory_gb)[:_KINDS_TRIED]:
        gpus = tuple(_as_model(_numbered(gpu, gpu.index), row) for gpu in host.gpus)
        yield f"{len(gpus)}× {row.names[0]}", replace(host, gpus=gpus, driver=driver)


def _joined(row: GpuModel) -> str | None:
    return row.nvlink.kind if row.nvlink is not None else None


def _numbered(gpu: Gpu, position: int) -> Gpu:
    """Return another free GPU like this one."""
    return replace(gpu, index=position, uuid=f"GPU-{position}", pci_bus_id=None, memory_used_bytes=0)


def _as_model(gpu: Gpu, row: GpuModel) -> Gpu:
    memory_bytes = row.nvml_memory_mib * MIB if row.nvml_memory_mib is not None else None
    return replace(
        gpu, name=row.names[0], memory_bytes=memory_bytes, compute_capability=row.compute_capability, mig=None
    )


def _two_hold(request: ModelRequest, catalog: Catalog) -> bool:
    """Return whether two whole hosts hold the model, each with one half of its layers."""
    gpus = request.host.gpus
    memory = smallest_memory(gpus, request.host, catalog)
    if len(gpus) < _MOST_GPUS or memory is None:
        return False
    chosen = request.engine.choose_image(request.task, gpus, catalog, request.whole.needs)
    settings = EngineSettings(version=chosen.version, tensor_parallel=len(gpus), pipeline_parallel=2)
    facts = request.facts
    return request.engine.solve(facts.config.shape, settings, memory, facts.weights, Objective.THROUGHPUT) is not None


def _is_of(row: CatalogLlm, location: str) -> bool:
    return any(checkpoint.hub_id == location for checkpoint in row.checkpoints)
