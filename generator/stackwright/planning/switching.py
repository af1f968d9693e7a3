"""Models that take turns in one engine: their order, how long a switch may take, and what they have to agree on. Pure.

One engine service serves an exclusive group and holds one of its models at a time (docs/decisions/0033-switching.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from stackwright.domain.plan import Origin, ServedModel, Setting
from stackwright.engines import engine_named
from stackwright.errors import NoPlanError, UsageError
from stackwright.planning.request import PlanRequest, Switching, WantedModel
from stackwright.services.engine import HEARTBEAT, SWITCHING

DECISION = "docs/decisions/0033-switching.md"
# Long enough to answer what has gathered meanwhile: a model that is loaded for one request is loaded in vain.
RESIDENCE_S = 30
# As long as a request may take without a switch (planning/gateway.py).
DRAIN_S = 300
# What a start may stand still for while it compiles (watching/limits.py, 2026-11-21), and the time to read the weights
# at a fifth of what a network share over 1 Gbit/s gives.
LOAD_S, SLOWEST_DISK_BYTES_PER_S = 900, 25_000_000


def in_order(wished: tuple[WantedModel, ...]) -> tuple[WantedModel, ...]:
    """Order models by number: chat models first, a group's beside each other, its pinned one ahead.

    What is left of a group when the command line names a single model of it is a model as any other.
    """
    sizes = Counter(model.exclusive for model in wished)
    listed = [model if sizes[model.exclusive] > 1 else replace(model, exclusive=None, pinned=False) for model in wished]
    engines = [(model.exclusive, "") if model.exclusive else (None, model.llm.name) for model in listed]
    writing = {engine for engine, model in zip(engines, listed, strict=True) if model.role.generates}

    def rank(position: int) -> tuple[bool, int, bool, bool]:
        model, engine = listed[position], engines[position]
        return engine not in writing, engines.index(engine), not model.pinned, not model.role.generates

    return tuple(listed[position] for position in sorted(range(len(listed)), key=rank))


class TakesTurns(Protocol):
    """What has an exclusive group, or none."""

    @property
    def exclusive(self) -> str | None:
        """The group."""


def turn_takers(models: Sequence[TakesTurns], position: int) -> tuple[int, ...]:
    """Return the positions of the models that take turns with one, its own among them, in order."""
    group = models[position].exclusive
    if group is None:
        return (position,)
    return tuple(other for other, model in enumerate(models) if model.exclusive == group)


def switching_of(models: Sequence[WantedModel]) -> Switching | None:
    """Return how the models take turns: how long the slowest load may take; None where none do."""
    sizes = Counter(model.exclusive for model in models if model.exclusive is not None)
    weights = [model.facts.weight_bytes or 0 for model in models if model.exclusive is not None]
    if not weights:
        return None
    return Switching(load_limit_s=LOAD_S + max(weights) // SLOWEST_DISK_BYTES_PER_S, switches=max(sizes.values()) - 1)


def switching_settings(switching: Switching | None) -> dict[str, Setting]:
    """Return what bounds a switch in time; nothing where no models take turns."""
    if switching is None:
        return {}
    rows = {
        "SWITCH_MIN_RESIDENCE_S": (
            RESIDENCE_S,
            "keeps two models from evicting each other all the time",
        ),
        "SWITCH_DRAIN_S": (DRAIN_S, "the time limit of one request"),
        "SWITCH_LOAD_LIMIT_S": (
            switching.load_limit_s,
            f"{LOAD_S} s to start, plus reading the largest model at 25 MB/s",
        ),
    }
    return {key: Setting(value=str(value), reason=why, source=DECISION) for key, (value, why) in rows.items()}


def switch_s(values: Mapping[str, str]) -> int:
    """Return how long one switch may hold a request up with the values in force; 0 where nothing is switched."""
    return sum(int(values[key]) for key in SWITCHING.values() if key in values)


def refuse_disagreement(models: Sequence[ServedModel]) -> None:
    """Refuse an exclusive group that one service cannot serve.

    Raises:
        NoPlanError: its models need different images, or one of them would have several replicas.
    """
    images: dict[str, str] = {}
    for model in models:
        if model.exclusive is None:
            continue
        keys, image = engine_named(model.engine.name).keys, model.engine.image
        if images.setdefault(model.exclusive, image) != image:
            raise NoPlanError(
                f"the exclusive group {model.exclusive} needs two images: {images[model.exclusive]} and {image}",
                hint=f"pin one that serves all of its models with --set {keys.image}=…, or split the group",
            )
        if len(model.replicas) > 1:
            raise NoPlanError(
                f"{model.name} of the exclusive group {model.exclusive} would have {len(model.replicas)} replicas",
                hint=f"pin {keys.tensor_parallel} of its slot to the number of the group's GPUs",
            )


def refuse_pins_of_one(request: PlanRequest) -> None:
    """Refuse a pin that a group's service takes from its first model alone. Raises NoPlanError."""
    for pin in request.pins:
        if pin.key not in (request.engine.keys.shared_memory, HEARTBEAT) or pin.model is None:
            continue
        group = request.models[pin.model - 1].exclusive
        first = turn_takers(request.models, pin.model - 1)[0]
        if pin.model - 1 != first:
            raise NoPlanError(
                f"{pin.written} is pinned, but the models of the exclusive group {group} have one engine",
                hint=f"pin it for the group's first model, {request.models[first].llm.name}, in its place",
            )


def refuse_quotes(models: Iterable[WantedModel]) -> None:
    """Refuse names that the program which switches cannot read: its list of models is JSON that Compose fills in.

    Raises:
        UsageError: a name or a folder has a quotation mark.
    """
    for model in models:
        for text in (model.llm.name, model.llm.location):
            if model.exclusive is not None and '"' in text:
                raise UsageError(
                    f"models: found `{text[:80]}` in an exclusive group, allowed: a name without quotation marks",
                    hint="rename its folder",
                )


def one_service(models: tuple[ServedModel, ...]) -> tuple[ServedModel, ...]:
    """Return the models with the settings of a group's service at its first model, large enough for all."""
    joined = list(models)
    for position, model in enumerate(models):
        takers = turn_takers(models, position)
        if len(takers) == 1:
            continue
        settings, first = dict(model.settings), models[takers[0]]
        keys = engine_named(model.engine.name).keys
        if position != takers[0]:
            for key in (keys.image, keys.shared_memory, HEARTBEAT):
                settings.pop(key, None)
        else:
            for key in (keys.shared_memory, HEARTBEAT):
                if key in first.settings and first.settings[key].origin is Origin.COMPUTED:
                    sizes = [models[taker].settings[key] for taker in takers]
                    settings[key] = max(sizes, key=lambda size: int(size.value.removesuffix("gb")))
        others = ", ".join(models[taker].name for taker in takers if taker != position)
        name = settings[keys.served_name]
        reason = f"{name.reason}; loaded in turn with {others}, each with the whole GPU memory"
        joined[position] = replace(model, settings={**settings, keys.served_name: replace(name, reason=reason)})
    return tuple(joined)
