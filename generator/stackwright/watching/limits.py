"""How long a step of a start may stand still before it is given up. Pure. Why so long: docs/explanation/starting.md.

No engine publishes such limits. Each is a round figure above the longest silence that is on record for its step
(read 2026-11-21), since giving up a start that still lives costs more than waiting for one that does not.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from stackwright.domain.service import Step

SLOWEST_DISK_BYTES_PER_S = 25_000_000
"""A fifth of what a network share over 1 Gbit/s or the smallest gp3 volume gives (125 MiB/s, AWS EBS volume types)."""

PAST_FACTOR = 3
"""A step may stand still three times as long as it has ever taken whole on this host."""

BUSY_SHARE = 0.25
"""How fast silence counts while the processor works: compiling looks like that, and so does a rank that spins."""

_BASE_S: Mapping[Step, float] = {
    # Somebody has removed the container: nothing will bring it back.
    Step.ABSENT: 60,
    # Counted only while nothing is left to wait for.
    Step.WAITING: 120,
    # Imports and CUDA contexts of every rank; 60 s alone go into peer access checks of eight GPUs
    # (docs/explanation/starting.md).
    Step.STARTING: 300,
    # huggingface_hub gives a connection up after 10 s and a request after five tries (2.4.0, constants.py,
    # utils/_http.py); where the hub limits the rate, it waits for the next window, which comes every five minutes.
    Step.DOWNLOADING: 600,
    # And the time to read the largest file, after which a line tells of it (0.32.0, weight_utils.py).
    Step.LOADING: 120,
    # 8 minutes without a line, with slow kernels of a quantized vision model (docs/explanation/starting.md).
    Step.PROFILING: 600,
    # 2220 s of compilation in one piece, the processor at work (docs/explanation/starting.md): a quarter of it counts.
    Step.COMPILING: 900,
    # A container's log shows the progress bar only once it is full.
    Step.CAPTURING: 600,
    Step.OPENING: 120,
    # It has answered before; the health checks of both runtimes have failed for half a minute.
    Step.SILENT: 120,
}


class Limits(Struct, frozen=True, kw_only=True):
    """What the limits of one service are computed from.

    `largest_file_bytes`: the largest of the model's weight files, the whole model where files are not known; None where
    neither is. `past_s`: the longest that each step of a good start has taken on this host.
    """

    largest_file_bytes: int | None = None
    past_s: Mapping[Step, float] = field(default_factory=dict)

    def still_s(self, step: Step) -> float:
        """Return the seconds that a service may stand still in a step."""
        limit_s = _BASE_S.get(step, 0.0)
        if step is Step.LOADING and self.largest_file_bytes is not None:
            limit_s += self.largest_file_bytes / SLOWEST_DISK_BYTES_PER_S
        return max(limit_s, PAST_FACTOR * self.past_s.get(step, 0.0))
