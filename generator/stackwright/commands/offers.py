"""What `models` and `recommend` share: the request that all models are weighed with, and how an offer is told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec import Struct

from stackwright.commands.choices import Chosen, choose
from stackwright.commands.configure import bare_request, least_share, want_model
from stackwright.commands.options import ENVIRONMENTS, MODES, PlanOptions, parse_environment
from stackwright.commands.paths import ProjectPaths, find_paths, working_folder
from stackwright.domain.catalog import Catalog
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.model_facts import CatalogLlm, Checkpoint
from stackwright.domain.plan import Mode
from stackwright.domain.wishes import ModelWish
from stackwright.errors import NoPlanError, UsageError, did_you_mean
from stackwright.models.known import find_named, known_names
from stackwright.models.read import PATH_STARTS, SMOKE, find_folder, read_checkpoint
from stackwright.models.stored import name_llm
from stackwright.planning.quantization import Rules, order_by_loss
from stackwright.planning.recommend import Checkpoints
from stackwright.planning.request import PlanRequest, WantedModel
from stackwright.planning.survey import Offer
from stackwright.project.credentials import find_hub_token
from stackwright.project.folder import read_wishes
from stackwright.project.location import name_command
from stackwright.units import format_bytes
from stackwright.watching.remembered import remembered_starts

DASH = "–"


class Ground(Struct, frozen=True, kw_only=True, dict=True):
    """What models are weighed on: a host with an environment's wishes. `request` has a place-holder for its model."""

    chosen: Chosen
    paths: ProjectPaths
    catalog: Catalog
    request: PlanRequest
    host_file: Path | None = None

    @cached_property
    def rules(self) -> Rules:
        """Which kernels run each number format."""
        return self.request.engine.format_rules(self.catalog, self.request.needs.exact)

    @cached_property
    def _seen(self) -> dict[str, list[Any]]:
        seen: dict[str, list[Any]] = {}
        for each in remembered_starts(self.paths.state, self.request.host):
            seen.setdefault(each.start.model or "", []).append(each)
        return seen

    @cached_property
    def _read(self) -> dict[str, WantedModel]:
        return {}

    def read(self, row: CatalogLlm, checkpoint: Checkpoint) -> WantedModel:
        """Return what a plan takes of a checkpoint: what the cache and earlier starts show of it, too."""
        if checkpoint.hub_id not in self._read:
            self._read[checkpoint.hub_id] = self._read_now(row, checkpoint)
        return self._read[checkpoint.hub_id]

    def _read_now(self, row: CatalogLlm, checkpoint: Checkpoint) -> WantedModel:
        facts = read_checkpoint(row, checkpoint, Path(self.request.folders.hf_home))
        return WantedModel(
            llm=name_llm(facts),
            facts=facts,
            wished_in=f"--model {facts.name}",
            role=row.role,
            seen=tuple(self._seen.get(facts.location, ())),
        )

    def read_named(self, name: str, origin: str) -> WantedModel:
        """Return a model that the catalog does not have. Raises UsageError where it cannot be read."""
        return want_model(ModelWish(name=name), origin, self.paths, self.chosen)

    def checkpoints(self, row: CatalogLlm) -> Checkpoints:
        """Return a model's checkpoints by the compute capability of the GPUs, the one that loses least first."""
        known: dict[str, list[WantedModel]] = {}

        def by_loss(capability: str) -> Sequence[WantedModel]:
            if capability not in known:
                ordered = order_by_loss(self.rules, row, capability)
                known[capability] = [self.read(row, checkpoint) for checkpoint in ordered]
            return known[capability]

        return by_loss

    def default(self) -> WantedModel | None:
        """Return what is served where nobody names a model; None on a processor, or if one is wished or none fits."""
        wishes, request, chosen = self.request.wishes, self.request, self.chosen
        named = chosen.options.models or wishes.model or wishes.models
        if named or request.mode is Mode.CPU or not request.host.gpus:
            return None
        from stackwright.planning.default_llm import with_default_llm, with_kept_default

        has_token = find_hub_token(os.environ, Path(request.folders.hf_home)) is not None
        share = least_share(self.paths)
        try:
            best = with_default_llm(request, self.catalog, has_token=has_token, least_share=share)
        except NoPlanError:
            return None
        before, asked = chosen.choices.default_model, (request.mode, request.objective, request.engine.name)
        if before is not None and (before.mode, before.objective, before.engine) == asked:
            best = with_kept_default(request, self.catalog, before.name) or best
        (model,) = best.models
        return None if model.facts.location == request.models[0].facts.location else model


def make_ground(options: PlanOptions, out: Path | None, host: Host | None, environment: Environment) -> Ground:
    """Read an environment's wishes and the catalog. `host` None: the request is for any."""
    from msgspec.structs import replace

    from stackwright.catalog.load import load_catalog
    from stackwright.planning.sold_hosts import newest_driver, sold_host

    paths = find_paths(out)
    own = paths.of(environment)
    wishes = read_wishes(own)
    catalog = load_catalog()
    anywhere = (sold_host(gpu, 1, newest_driver(catalog)) for gpu in catalog.gpus())
    there = host or next(filter(None, anywhere))
    chosen = choose(options, own, there, wishes)
    placeholder = want_model(ModelWish(name=SMOKE), SMOKE, paths, chosen)
    request = replace(bare_request(chosen, paths, there, own, wishes), models=(placeholder,))
    return Ground(chosen=chosen, paths=paths, catalog=catalog, request=request, host_file=options.host)


def split_words(words: Sequence[str]) -> tuple[Environment | None, Mode | None, str]:
    """Read an environment and a mode, where words are such, and the name that the others are.

    Raises:
        UsageError: two are environments, or modes.
    """
    environments = [word for word in words if word in ENVIRONMENTS]
    modes = [word for word in words if word in MODES]
    for kind, several in (("environments", environments), ("modes", modes)):
        if len(several) > 1:
            raise UsageError(f"found two {kind}: {several[0]} and {several[1]}", hint="name one")
    mode = modes[0] if modes else "auto"
    name = " ".join(word for word in words if word not in ENVIRONMENTS and word not in MODES)
    environment = parse_environment(environments[0]) if environments else None
    return environment, None if mode == "auto" else Mode(mode), name


def pasted(ground: Ground, *words: str) -> str:
    """Return a command of `stackwright` so that it works as pasted here, for the same host."""
    there = () if ground.host_file is None else ("--host", str(ground.host_file))
    return name_command("stackwright", *words, *there, root=ground.paths.root, working=working_folder())


def find_rows(name: str, catalog: Catalog, origin: str) -> tuple[CatalogLlm, ...]:
    """Return the catalog's models of a name; none for what may be a folder or on the hub.

    Raises:
        UsageError: nothing is of that name; the hint is the closest one.
    """
    if name == SMOKE or name.startswith(PATH_STARTS):
        return ()
    found = find_named(name, catalog.llms(), origin)
    if found or "/" in name or find_folder(name) is not None:
        return found
    close = did_you_mean(name, [row.name for row in catalog.llms()]) or did_you_mean(name, known_names(catalog.llms()))
    hint = close or "`stackwright models` lists them"
    raise UsageError(f"{origin}: the catalog has no model `{name[:80]}`", hint=hint)


def offer_document(offer: Offer) -> dict[str, Any]:
    """Return an offer as JSON has it: unknown is null."""
    facts, served, refusal = offer.facts, offer.served, offer.refusal
    return {
        "checkpoint": facts.location,
        "format": facts.format,
        "weight_bytes": facts.weight_bytes,
        "gated": facts.gated,
        "verdict": verdict_of(offer),
        "context_tokens": served.reach.tokens if served else None,
        "requests_at_once": None if served is None or served.at_once is None else round(served.at_once, 2),
        "gpus": served.gpus if served else None,
        "replicas": served.replicas if served else None,
        "tensor_parallel": served.tensor_parallel if served else None,
        "pipeline_parallel": served.pipeline_parallel if served else None,
        "engine": served
        and {
            "name": served.image.name,
            "version": served.image.version,
            "image": served.image.image,
            "cuda": served.image.cuda,
        },
        "memory": served and served.memory and served.memory.without_debts,
        "lacks": refusal and refusal.lack,
        "reason": refusal and refusal.reason,
    }


def verdict_of(offer: Offer) -> str:
    """Return whether an offer fits, in the words of `fit`."""
    if offer.served is None:
        return "does-not-fit"
    return "fits" if offer.reach.sure else "uncertain"


def size_of(offer: Offer) -> str:
    """Return how large the weights are; `~` before what was computed."""
    facts = offer.facts
    if facts.weight_bytes is None:
        return DASH
    return f"{'~' if facts.computed else ''}{format_bytes(facts.weight_bytes)}"


def format_of(offer: Offer) -> str:
    """Return the number format of the weights as people write it."""
    return offer.facts.format.value.upper() if offer.facts.format else DASH


def split_of(offer: Offer) -> str:
    """Return how a replica lies on its GPUs; nothing on one."""
    served = offer.served
    if served is None:
        return ""
    sizes = (("TP", served.tensor_parallel), ("PP", served.pipeline_parallel))
    return " × ".join(f"{name} {size}" for name, size in sizes if size > 1 and served.gpus)


def at_once_of(offer: Offer) -> str:
    """Return how many of the longest requests are worked on at once, whole ones."""
    served = offer.served
    return DASH if served is None or served.at_once is None else f"{int(served.at_once):,}"


def notes_of(offer: Offer) -> list[str]:
    """Return what a person should know of an offer, the gravest first."""
    served = offer.served
    if served is None:
        return []
    across = served.gpus > 1 and not served.inside_island
    said = (
        (not served.reach.sure, "may not fit"),
        (not served.reach.comfortable, "short requests"),
        (offer.kernel is None, "no kernel known for its format"),
        (offer.facts.gated is True, "needs access and HF_TOKEN"),
        (across, "over PCIe"),
    )
    return [words for applies, words in said if applies]
