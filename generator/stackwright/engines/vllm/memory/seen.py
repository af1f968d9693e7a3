"""What earlier starts on this host showed, in the place of what was forecast. Pure.

A log prints the weights and the pool, newer ones every term (engines/vllm/start_report.py). What is left of the budget
beside the pool depends on the settings that the profile run sees; the length, the share of the GPU and the cache's own
format change the pool alone. So a start with the same run tells the whole sum, and one with the same weights those.
"""

from __future__ import annotations

from math import ceil

from msgspec import Struct
from msgspec.structs import fields

from stackwright.domain.forecast import GpuMemory, Measured, RememberedStart
from stackwright.domain.shape import Shape
from stackwright.engines.vllm.memory.defaults import CompleteSettings, complete
from stackwright.engines.vllm.memory.releases import rules_of
from stackwright.units import GIB

ROUNDING_BYTES = GIB // 200
"""Half of the last digit that a log prints: GiB have two decimals."""

# What the profile run does not see.
_OF_THE_POOL = frozenset(
    (
        "gpu_memory_utilization max_model_len kv_cache_dtype block_tokens prefix_caching kv_cache_bytes state_dtype "
        "recurrent_dtype"
    ).split()
)
_LEFT_TO_ENGINE = frozenset(
    "block_tokens prefix_caching dtype quantization capture_sizes max_capture_size draft".split()
)
# What the loaded weights do not depend on.
_OF_THE_RUN = frozenset(
    (
        "max_num_seqs max_num_batched_tokens enforce_eager decode_context_parallel samples capture_sizes "
        "max_capture_size"
    ).split()
)


class Seen(Struct, frozen=True, kw_only=True):
    """The start that tells most of the asked settings. `taken_bytes`: all but the pool, None where only weights count.

    `exact`: every setting is the same.
    """

    date: str
    measured: Measured
    outcome: str
    taken_bytes: int | None
    exact: bool
    cold: bool | None

    @property
    def words(self) -> str:
        """Which figures were measured, and when."""
        what = "all figures" if self.exact else "all but the KV cache" if self.taken_bytes is not None else "weights"
        return f"{what} measured on this host on {self.date}"


def find_seen(shape: Shape, asked: CompleteSettings, gpu: GpuMemory) -> Seen | None:
    """Return what the most telling of the remembered starts shows; None where none has the same weights.

    A start that compiled anew tells of the next such one, and takes more than others: it comes first.
    """
    found = [seen for remembered in gpu.seen if (seen := _compared(remembered, shape, asked, gpu)) is not None]
    found.sort(key=lambda seen: (not seen.exact, seen.taken_bytes is None, seen.cold is False))
    return found[0] if found else None


def _compared(remembered: RememberedStart, shape: Shape, asked: CompleteSettings, gpu: GpuMemory) -> Seen | None:
    """Compare one start; with pipeline stages a log does not tell whose figures it prints, so it is left out."""
    start, before = remembered.start, remembered.start.settings
    there = complete(shape, before, gpu, rules_of(before.version, legacy_engine=before.legacy_engine))
    differ = _differences(there, asked)
    pool, taken = start.measured.kv_cache_bytes, None
    if pool is not None and before.kv_cache_bytes is None and not differ - _OF_THE_POOL:
        taken = (start.measured.budget_bytes or ceil(gpu.total_bytes * there.gpu_memory_utilization)) - pool
    of_weights = start.measured.weights_bytes is not None and not differ - _OF_THE_POOL - _OF_THE_RUN
    if asked.pp > 1 or not (taken is not None or of_weights):
        return None
    return Seen(
        date=remembered.date,
        measured=start.measured,
        outcome=start.outcome,
        taken_bytes=taken,
        exact=taken is not None and not differ,
        cold=start.cold,
    )


def _differences(one: CompleteSettings, other: CompleteSettings) -> set[str]:
    """Return the settings that differ; those that only the log names, because the engine chose them, do not."""
    found = {field.name for field in fields(other) if getattr(one, field.name) != getattr(other, field.name)}
    found -= {name for name in _LEFT_TO_ENGINE & found if {getattr(one, name), getattr(other, name)} & {None, "auto"}}
    # What a plan may choose is no setting of the engine.
    sizes = {
        "tensor_parallel": one.tp == other.tp,
        "pipeline_parallel": one.pp == other.pp,
        "cache_formats": True,
    }
    return {name for name in found if not sizes.get(name)}
