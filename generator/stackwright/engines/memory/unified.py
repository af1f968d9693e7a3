"""Which GPUs have no memory of their own. Pure."""

from __future__ import annotations

from stackwright.domain.hardware import GpuModel
from stackwright.domain.host import Gpu, Host

# A GPU that nobody knows shares the processor's memory where both totals are one: they differ by rounding alone.
_SAME_TOTAL = 0.001


def shares_memory(host: Host, gpu: Gpu, model: GpuModel | None) -> bool:
    """Return whether a GPU's memory is the processor's: by its row, else by a total that is the host's own."""
    if model is not None:
        return model.unified_memory
    total, own = host.memory_bytes, gpu.memory_bytes
    return bool(total and own and abs(total - own) <= _SAME_TOTAL * total)
