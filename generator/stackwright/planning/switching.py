"""Models that take turns on one seat: their order, how long a switch may take, and what they have to agree on. Pure.

One engine service serves an exclusive group and holds one of its models at a time (docs/decisions/0033-switching.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from stackwright.domain.plan import Plan, Setting
from stackwright.errors import NoPlanError, UsageError
from stackwright.planning.request import Request
from stackwright.settings import SWITCHING, slot_key

DECISION = "docs/decisions/0033-switching.md"
# Long enough to answer what has gathered meanwhile: a model that is loaded for one request is loaded in vain.
RESIDENCE_S = 30
# As long as a request may take without a switch (planning/gateway.py).
DRAIN_S = 300
# What a start may stand still for while it compiles (watching/limits.py, 2026-11-21), and the time to read the weights at
# a fifth of what a network share over 1 Gbit/s gives.
LOAD_S, SLOWEST_DISK_BYTES_PER_S = 900, 25_000_000
PINNED = "--set"
"""The source of a setting that a person has pinned (planning/planner.py)."""
SHARED_BY_GROUP = ("VLLM_IMAGE", "VLLM_SHM_SIZE")
"""Settings of the service, not of a model: the group's first model has them for all."""


def in_order(requests: Iterable[Request]) -> list[Request]:
    """Order models by slots: those that write first, a group's beside each other, its pinned one ahead.

    What is left of a group when the command line names a single model of it is a model as any other.
    """
    wished = list(requests)
    sizes = Counter(each.exclusive for each in wished)
    listed = [each if sizes[each.exclusive] > 1 else replace(each, exclusive=None, pinned=False) for each in wished]
    limit_s = load_limit_s(listed)
    switches = max((size for group, size in sizes.items() if group is not None), default=1) - 1
    seats = [(each.exclusive, "") if each.exclusive else (None, each.llm.name) for each in listed]
    writing = {seat for seat, each in zip(seats, listed, strict=True) if each.role.generates}

    def place(position: int) -> tuple[bool, int, bool, bool]:
        request, seat = listed[position], seats[position]
        return seat not in writing, seats.index(seat), not request.pinned, not request.role.generates

    order = sorted(range(len(listed)), key=place)
    return [replace(listed[position], load_limit_s=limit_s, switches=switches) for position in order]


def mates(requests: Sequence[Request], position: int) -> tuple[int, ...]:
    """Return the positions of the models that take turns with one, its own among them, in order."""
    group = requests[position].exclusive
    if group is None:
        return (position,)
    return tuple(other for other, each in enumerate(requests) if each.exclusive == group)


def load_limit_s(requests: Iterable[Request]) -> int | None:
    """Return the seconds that the slowest load of an exclusive group may take; None where there is no group."""
    weights = [each.facts.weight_bytes or 0 for each in requests if each.exclusive is not None]
    return LOAD_S + max(weights) // SLOWEST_DISK_BYTES_PER_S if weights else None


def switching_settings(load_limit: int | None) -> dict[str, Setting]:
    """Return what bounds a switch in time; nothing where no models take turns."""
    if load_limit is None:
        return {}
    rows = {
        "SWITCH_MIN_RESIDENCE_S": (
            RESIDENCE_S,
            "whoever asks for another model waits; else two would push each other out",
        ),
        "SWITCH_DRAIN_S": (DRAIN_S, "requests at work are finished first, as long as one may take by itself"),
        "SWITCH_LOAD_LIMIT_S": (load_limit, f"{LOAD_S} s to start, and the largest model read at 25 MB/s"),
    }
    return {key: Setting(value=str(value), reason=why, source=DECISION) for key, (value, why) in rows.items()}


def switch_s(values: Mapping[str, str]) -> int:
    """Return how long one switch may hold a request up with the values in force; 0 where nothing is switched."""
    return sum(int(values[key]) for key in SWITCHING.values() if key in values)


def refuse_disagreement(plans: tuple[Plan, ...], requests: tuple[Request, ...]) -> None:
    """Refuse an exclusive group that one service cannot serve. `plans` are those of each request alone.

    Raises:
        NoPlanError: its models need different images, or one of them would have several replicas.
    """
    images: dict[str, str] = {}
    for plan, request in zip(plans, requests, strict=True):
        if request.exclusive is None:
            continue
        image = plan.settings["VLLM_IMAGE"].value
        if images.setdefault(request.exclusive, image) != image:
            raise NoPlanError(
                f"the exclusive group {request.exclusive} needs two images: {images[request.exclusive]} and {image}",
                hint="pin one that serves all of its models with --set VLLM_IMAGE=…, or split the group",
            )
        if len(plan.replicas) > 1:
            raise NoPlanError(
                f"{request.llm.name} of the exclusive group {request.exclusive} would have {len(plan.replicas)} replicas",
                hint="pin VLLM_TENSOR_PARALLEL_SIZE of its slot to the number of the group's GPUs",
            )


def refuse_pins_of_one(requests: Sequence[Request]) -> None:
    """Refuse a pin that a group's service takes from its first model alone. Raises NoPlanError."""
    for position, request in enumerate(requests):
        first = mates(requests, position)[0]
        if position != first and "VLLM_SHM_SIZE" in request.pins:
            own, read = (slot_key("VLLM_SHM_SIZE", each + 1) for each in (position, first))
            raise NoPlanError(
                f"{own} is pinned, but the models of the exclusive group {request.exclusive} have one engine",
                hint=f"pin {read} in its place",
            )


def refuse_quotes(requests: Iterable[Request]) -> None:
    """Refuse names that the program which switches cannot be told: its list of models is JSON that Compose fills in.

    Raises:
        UsageError: a name or a folder has a quotation mark.
    """
    for request in requests:
        for text in (request.llm.name, request.llm.location):
            if request.exclusive is not None and '"' in text:
                raise UsageError(
                    f"models: found `{text[:80]}` in an exclusive group, allowed: a name without quotation marks",
                    hint="rename its folder",
                )


def one_service(settings: Mapping[str, Setting], slots: tuple[int, ...]) -> dict[str, Setting]:
    """Return the settings with those of a group's service under its first slot alone, large enough for all of its models."""
    kept, first = dict(settings), slots[0]
    sizes = [kept[slot_key("VLLM_SHM_SIZE", slot)] for slot in slots]
    if sizes[0].source != PINNED:
        kept[slot_key("VLLM_SHM_SIZE", first)] = max(sizes, key=lambda size: int(size.value.removesuffix("gb")))
    for slot in slots[1:]:
        for key in SHARED_BY_GROUP:
            kept.pop(slot_key(key, slot), None)
    own = [slot_key("VLLM_SERVED_MODEL_NAME", slot) for slot in slots]
    for key in own:
        others = ", ".join(kept[other].value for other in own if other != key)
        reason = f"{kept[key].reason}; loaded in turns with {others}, each with all memory of their seat"
        kept[key] = replace(kept[key], reason=reason)
    return kept
