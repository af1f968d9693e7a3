"""GPUs that other programs use: what a plan says of them, and whether they are why nothing fits. Pure."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from stackwright.domain.host import Gpu
from stackwright.errors import NoPlanError
from stackwright.planning.placement import FREE_NOISE_BYTES
from stackwright.planning.request import ModelRequest
from stackwright.units import GIB, format_bytes

# A desktop holds no more than this part of a GPU, and the shares by size leave about as much aside (utilization.py).
_ASIDE = 0.10
# How exactly the amount that others may keep is written.
_STEP_BYTES = GIB // 4


def warn_of_others(gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    """Return a sentence for each GPU of which other programs hold more than a desktop would."""
    return tuple(
        f"GPU {gpu.index} ({gpu.name or 'unknown model'}) is in use: `nvidia-smi` counts "
        f"{format_bytes(gpu.memory_used_bytes)} of {format_bytes(gpu.memory_bytes)}, what the driver keeps included, "
        "and lists the programs, this stack among them while it runs; the engine does not start if less than its "
        "share is free"
        for gpu in gpus
        if _is_in_use(gpu)
    )


def blame_others(request: ModelRequest, refusal: NoPlanError, plan: Callable[[ModelRequest], object]) -> NoPlanError:
    """Return the refusal with how much would have to be free, where other programs are why; else as it is.

    Args:
        request: what was refused.
        refusal: why.
        plan: makes a plan, or raises NoPlanError.
    """
    busy = [gpu for gpu in request.host.gpus if _is_in_use(gpu)]
    if not busy or not _fits(request, 0, plan):
        return refusal
    fullest = max(busy, key=lambda gpu: gpu.memory_used_bytes or 0)
    kept, too_much = 0, (fullest.memory_used_bytes or 0) // _STEP_BYTES
    while too_much - kept > 1:
        middle = (kept + too_much) // 2
        kept, too_much = (middle, too_much) if _fits(request, middle * _STEP_BYTES, plan) else (kept, middle)
    free_bytes = (fullest.memory_bytes or 0) - kept * _STEP_BYTES
    return type(refusal)(
        f"{refusal.message}; other programs hold {format_bytes(fullest.memory_used_bytes)} of GPU "
        f"{fullest.index}: it would fit "
        f"with {format_bytes(free_bytes)} of {format_bytes(fullest.memory_bytes)} free",
        hint=f"stop them (`nvidia-smi` lists them), then configure again; or: {refusal.hint}",
    )


def _is_in_use(gpu: Gpu) -> bool:
    return (gpu.memory_used_bytes or 0) > max(FREE_NOISE_BYTES, _ASIDE * (gpu.memory_bytes or 0))


def _fits(request: ModelRequest, kept_bytes: int, plan: Callable[[ModelRequest], object]) -> bool:
    """Return whether there is a plan while the other programs hold no more than `kept_bytes` of each GPU."""
    gpus = tuple(
        replace(gpu, memory_used_bytes=min(gpu.memory_used_bytes or 0, kept_bytes)) if _is_in_use(gpu) else gpu
        for gpu in request.host.gpus
    )
    try:
        plan(replace(request, host=replace(request.host, gpus=gpus)))
    except NoPlanError:
        return False
    return True
