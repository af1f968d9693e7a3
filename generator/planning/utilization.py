"""Choose the share of each GPU's memory that the engine takes: the least of the wish, the size's share and what is free. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from generator.domain.host import Gpu
from generator.errors import NoPlanError
from generator.units import GIB, format_bytes

# What a CUDA context takes of free memory before vLLM compares it with what it wants; 0.3 to 0.5 GiB are usual.
CONTEXT_BYTES = GIB // 2
# Less than this share is no GPU to serve from: a context and the smallest model's weights would not fit.
LEAST_SHARE = 0.10
# Issue 3, part 4: the smaller the GPU, the larger the part that contexts, graphs and the desktop take of it. A size holds
# from nine tenths of its name on: ECC and firmware leave 22.5 GiB of an A10's 24 and 14.8 GiB of an old T4's 16.
SHARES_BY_GB = ((40, 0.92), (24, 0.90), (16, 0.88), (0, 0.85))
BLACKWELL_32_SHARE = 0.95
BLACKWELL_MAJOR = 10
NAMED_PART = 0.9
SIZE_SOURCE = "docs/decisions/0010-image-planner.md, utilization by GPU size"
FREE_SOURCE = "vLLM 0.32.0 v1/worker/utils.py, request_memory"


@dataclass(frozen=True, kw_only=True)
class Utilization:
    """The share, two decimals, with what set it."""

    value: float
    reason: str
    source: str


def choose_utilization(wish: float, wished_in: str, gpus: tuple[Gpu, ...]) -> Utilization:
    """Choose one share for all of a plan's GPUs; ranks of one engine take the same.

    Args:
        wish: of the environment, 0 to 1.
        wished_in: the file that wishes it, for the source.

    Raises:
        NoPlanError: a GPU has next to nothing free.
    """
    choices = [Utilization(value=wish, reason="wish of the environment", source=wished_in)]
    choices += [_by_size(gpu, wish) for gpu in gpus if gpu.memory_bytes]
    choices += [_by_free_memory(gpu, wish) for gpu in gpus if gpu.memory_bytes]
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


def _by_size(gpu: Gpu, wish: float) -> Utilization:
    share = size_share(gpu.memory_bytes or 0, gpu.compute_capability)
    reason = f"a GPU of {format_bytes(gpu.memory_bytes)} gives {share:.2f}, less than the wished {wish:.2f}"
    return Utilization(value=share, reason=reason, source=SIZE_SOURCE)


def _by_free_memory(gpu: Gpu, wish: float) -> Utilization:
    share = free_share(gpu)
    if share < LEAST_SHARE:
        free_bytes = (gpu.memory_bytes or 0) - (gpu.memory_used_bytes or 0)
        raise NoPlanError(
            f"GPU {gpu.index} ({gpu.name or 'unknown model'}) has {format_bytes(free_bytes)} of "
            f"{format_bytes(gpu.memory_bytes)} free",
            hint="`nvidia-smi` shows what holds it; stop that, then configure again",
        )
    used = format_bytes(gpu.memory_used_bytes)
    reason = f"GPU {gpu.index} has {used} in use, so the wished {wish:.2f} would not start"
    return Utilization(value=share, reason=reason, source=FREE_SOURCE)
