"""What of a GPU's memory CUDA gives to a program. Pure."""

from __future__ import annotations

from generator.domain.forecast import GpuMemory
from generator.domain.host import Gpu
from generator.units import GIB, MIB

# NVML counts what the driver keeps for itself, CUDA does not. From the pairs of figures seen in logs and nvidia-smi dumps
# (GiB, NVML − CUDA): 3090 24.00 − 23.58, T4 15.00 − 14.56, H100 79.65 − 79.18, B200 179.06 − 178.36, PRO 4500 31.84 − 31.38.
_KEPT_BYTES, _KEPT_SHARE = 410 * MIB, 0.0015


def cuda_memory_bytes(nvml_bytes: int, known_gib: float | None = None) -> int:
    """Return CUDA's total for a GPU of which NVML tells `nvml_bytes`.

    `known_gib` is the catalog's figure for the model; it counts only where it is near NVML's, since a MIG slice or another
    memory size goes by the same name.
    """
    if known_gib is not None and abs(known_gib * GIB - nvml_bytes) < 0.05 * nvml_bytes:
        return int(known_gib * GIB)
    return int(nvml_bytes * (1 - _KEPT_SHARE)) - _KEPT_BYTES


def gpu_memory(
    gpu: Gpu, *, known_gib: float | None, unified: bool, wsl: bool, host_bytes: int | None
) -> GpuMemory | None:
    """Return a detected GPU as the memory planner sees it; None where its size is unknown.

    With `unified` memory NVML gives no total: the processor's memory counts.
    """
    if gpu.memory_bytes is None and not (unified and host_bytes):
        return None
    total = host_bytes or 0 if gpu.memory_bytes is None else cuda_memory_bytes(gpu.memory_bytes, known_gib)
    return GpuMemory(
        total_bytes=total,
        used_bytes=gpu.memory_used_bytes or 0,
        name=gpu.name or "",
        compute_capability=capability(gpu.compute_capability),
        unified=unified,
        wsl=wsl,
    )


def capability(text: str | None) -> tuple[int, int] | None:
    """Return a compute capability (`8.6`) as numbers, None where it is unknown."""
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() and (minor or "0").isdigit() else None
