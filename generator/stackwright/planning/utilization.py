"""Choose the share of each GPU's memory that the engine takes: the least of the wish, the size's share and what is
free.

Memory that processor and GPU share has one bound more: what the system and the gateway need of it. Pure.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from stackwright.domain.host import Gpu
from stackwright.errors import NoPlanError
from stackwright.units import GIB, format_bytes

# What a CUDA context takes of free memory before vLLM compares it with what it wants; 0.3 to 0.5 GiB are usual.
CONTEXT_BYTES = GIB // 2
# Less than this share is no GPU to serve from: a context and the smallest model's weights would not fit.
LEAST_SHARE = 0.10
# Issue 3, part 4: the smaller the GPU, the larger the part that contexts, graphs and the desktop take of it. A size
# holds from nine tenths of its name on: ECC and firmware leave 22.5 GiB of an A10's 24 and 14.8 GiB of an old T4's 16.
SHARES_BY_GB = ((40, 0.92), (24, 0.90), (16, 0.88), (0, 0.85))
BLACKWELL_32_SHARE = 0.95
BLACKWELL_MAJOR = 10
NAMED_PART = 0.9
SIZE_SOURCE = "docs/decisions/0010-image-planner.md, utilization by GPU size"
FREE_SOURCE = "vLLM 0.32.0 v1/worker/utils.py, request_memory"
# Of 121.7 GiB, idle DGX Sparks had between 101.3 (MiaAI-Lab/GLM-5.3-Flash-EXL3-2x-DGX-Sparks#47, 2026-08-30: cache
# dropped, no desktop, a share of 0.87 never started) and 113.7 GiB (llamastash/llamastash#81, 2026-09-10) free when
# vLLM looked. The smaller counts: the system keeps a sixth. The files of the weights need none: vLLM counts their
# cached pages as free there (0.32.0 utils/mem_utils.py, MemorySnapshot.measure).
SYSTEM_SHARE = 20.4 / 121.7
SHARED_SOURCE = "docs/decisions/0010-image-planner.md, memory that processor and GPU share"


class Utilization(Struct, frozen=True, kw_only=True):
    """The share, two decimals, with what set it."""

    value: float
    reason: str
    source: str


class UnifiedMemory(Struct, frozen=True, kw_only=True):
    """Memory that processor and GPU share: all of it, and what the gateway's workers take, in bytes."""

    total_bytes: int
    gateway_bytes: int


@lru_cache(maxsize=256)
def choose_utilization(
    wish: float, wished_in: str, gpus: tuple[Gpu, ...], shared: UnifiedMemory | None = None
) -> Utilization:
    """Choose one share for all of a plan's GPUs; ranks of one engine take the same.

    Args:
        wish: of the environment, 0 to 1.
        wished_in: the file that wishes it, for the source.
        gpus: those of the plan.
        shared: the memory that they share with the processor; None where they have their own.

    Raises:
        NoPlanError: a GPU has next to nothing free.
    """
    choices = [Utilization(value=wish, reason=f"set in {wished_in}", source=wished_in)]
    choices += [_by_size(gpu, wish) for gpu in gpus if gpu.memory_bytes]
    choices += [_by_free_memory(gpu, wish) for gpu in gpus if gpu.memory_bytes]
    choices += [_by_shared_memory(shared)] if shared else []
    return min(choices, key=lambda choice: choice.value)


def size_share(memory_bytes: int, compute_capability: str | None) -> float:
    """Return the share that a GPU of this size gives: 32 GB of Blackwell 0.95, else by size alone."""
    size_gib = memory_bytes / GIB
    major = int((compute_capability or "0").split(".")[0])
    if major >= BLACKWELL_MAJOR and 32 * NAMED_PART <= size_gib < 40 * NAMED_PART:
        return BLACKWELL_32_SHARE
    return next(share for size, share in SHARES_BY_GB if size_gib >= size * NAMED_PART)


def free_share(gpu: Gpu) -> float:
    """Return the share that an engine can take now, rounded down to a hundredth; 1 where the size is unknown."""
    if not gpu.memory_bytes:
        return 1.0
    return max(0, gpu.memory_bytes - (gpu.memory_used_bytes or 0) - CONTEXT_BYTES) * 100 // gpu.memory_bytes / 100


def _by_shared_memory(shared: UnifiedMemory) -> Utilization:
    system_bytes = int(shared.total_bytes * SYSTEM_SHARE)
    left = max(0, shared.total_bytes - system_bytes - shared.gateway_bytes)
    reason = (
        f"memory shared with the processor, {format_bytes(shared.total_bytes)}: the system keeps "
        f"{format_bytes(system_bytes)}, the "
        f"gateway {format_bytes(shared.gateway_bytes)}"
    )
    return Utilization(
        value=max(LEAST_SHARE, left * 100 // shared.total_bytes / 100), reason=reason, source=SHARED_SOURCE
    )


def _by_size(gpu: Gpu, wish: float) -> Utilization:
    share = size_share(gpu.memory_bytes or 0, gpu.compute_capability)
    reason = (
        f"{share:.2f} is the limit for {format_bytes(gpu.memory_bytes)} of GPU memory, below the requested {wish:.2f}"
    )
    return Utilization(value=share, reason=reason, source=SIZE_SOURCE)


def _by_free_memory(gpu: Gpu, wish: float) -> Utilization:
    share = free_share(gpu)
    if share < LEAST_SHARE:
        free_bytes = (gpu.memory_bytes or 0) - (gpu.memory_used_bytes or 0)
        raise NoPlanError(
            f"GPU {gpu.index} ({gpu.name or 'unknown model'}) has {format_bytes(free_bytes)} of "
            f"{format_bytes(gpu.memory_bytes)} free",
            hint="stop what uses it (`nvidia-smi` lists it), then configure again",
        )
    used = format_bytes(gpu.memory_used_bytes)
    reason = f"GPU {gpu.index} has {used} in use: an engine with the requested {wish:.2f} would not start"
    return Utilization(value=share, reason=reason, source=FREE_SOURCE)
