"""What of a GPU's memory CUDA gives to a program. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from stackwright.domain.forecast import GpuMemory, RememberedStart
from stackwright.domain.hardware import GpuModel
from stackwright.domain.host import Gpu, Host
from stackwright.engines.memory.unified import shares_memory
from stackwright.units import GIB, MIB

# NVML counts what the driver keeps for itself, CUDA does not. From the pairs of figures seen in logs and nvidia-smi
# dumps (GiB, NVML − CUDA): 3090 24.00 − 23.58, T4 15.00 − 14.56, H100 79.65 − 79.18, B200 179.06 − 178.36, PRO 4500
# 31.84 − 31.38. Smaller cards keep less: 6.00 − 5.80 and 5.85, 8.00 − 7.79, 11.00 − 10.76 (totals in PyTorch's
# out-of-memory messages). Under WSL nothing is hidden: 31.84 of a 5090, 8.00 of a 4060 (issue #13882 of the engine).
_KEPT_MOST_BYTES, _KEPT_PART, _KEPT_SHARE = 410 * MIB, 0.026, 0.0015


def cuda_memory_bytes(nvml_bytes: int, known_gib: float | None = None, known_nvml_mib: int | None = None) -> int:
    """Return CUDA's total for a GPU of which NVML tells `nvml_bytes`.

    `known_gib` and `known_nvml_mib` are the catalog's figures for the model. They count only where they are near, since
    another memory size may go by the same name. A total that is nearer to CUDA's figure than to NVML's is one
    already: a host that was composed from an engine's log has it so.
    """
    if known_nvml_mib is not None:
        nvml = known_nvml_mib * MIB
        cuda = known_gib * GIB if known_gib is not None else _less_driver(nvml)
        if abs(nvml_bytes - cuda) < abs(nvml_bytes - nvml) and abs(nvml_bytes - cuda) < 0.01 * cuda:
            return nvml_bytes
    if known_gib is not None and abs(known_gib * GIB - nvml_bytes) < 0.05 * nvml_bytes:
        return int(known_gib * GIB)
    return _less_driver(nvml_bytes)


def _less_driver(nvml_bytes: int) -> int:
    return max(0, int(nvml_bytes * (1 - _KEPT_SHARE) - min(_KEPT_MOST_BYTES, nvml_bytes * _KEPT_PART)))


def gpu_memory(
    gpu: Gpu,
    *,
    known_gib: float | None,
    unified: bool,
    wsl: bool,
    host_bytes: int | None,
    known_nvml_mib: int | None = None,
) -> GpuMemory | None:
    """Return a detected GPU as the memory planner sees it; None where its size is unknown.

    With `unified` memory NVML gives no total: the processor's memory counts. What NVML calls used holds what the driver
    keeps for itself (nvml.h, nvmlMemory_t), which CUDA's total does not hold: it is not taken away twice. Under
    WSL and of a MIG slice CUDA gives all that NVML tells: on an A100 PyTorch counts 4.75 and 19.62 GiB (out-of-memory
    messages) where nvidia-smi shows 4864 and 20096 MiB, for 1g.5gb and 3g.20gb; as seen on 2026-11-21 in logs that
    people published.
    """
    if gpu.memory_bytes is None and not (unified and host_bytes):
        return None
    total = host_bytes or 0 if gpu.memory_bytes is None else gpu.memory_bytes
    if gpu.memory_bytes is not None and gpu.mig_slice is None and not wsl:
        total = cuda_memory_bytes(gpu.memory_bytes, known_gib, known_nvml_mib)
    kept = 0 if gpu.memory_bytes is None else max(0, gpu.memory_bytes - total)
    return GpuMemory(
        total_bytes=total,
        used_bytes=max(0, (gpu.memory_used_bytes or 0) - kept),
        name=gpu.name or "",
        compute_capability=capability(gpu.compute_capability),
        unified=unified,
        wsl=wsl,
        sliced=gpu.mig_slice is not None,
    )


def memory_on(host: Host, gpu: Gpu, model: GpuModel | None) -> GpuMemory | None:
    """Return a GPU of `host` as the memory planner sees it; `model` is its row of the catalog, None without one."""
    return gpu_memory(
        gpu,
        known_gib=model.cuda_memory_gib if model else None,
        known_nvml_mib=model.nvml_memory_mib if model else None,
        unified=shares_memory(host, gpu, model),
        wsl=host.os.wsl is True,
        host_bytes=host.memory_bytes,
    )


def with_seen(memory: GpuMemory, seen: tuple[RememberedStart, ...]) -> GpuMemory:
    """Return a GPU's memory with those of a model's earlier starts that ran on such a GPU."""
    return replace(memory, seen=tuple(each for each in seen if each.gpu == memory.name))


def capability(text: str | None) -> tuple[int, int] | None:
    """Return a compute capability (`8.6`) as numbers, None where it is unknown."""
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() and (minor or "0").isdigit() else None
