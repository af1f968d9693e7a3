"""Which GPUs serve one model, and how its ranks lie on them. Pure."""

from __future__ import annotations

from msgspec import Struct

from stackwright.domain.host import Gpu
from stackwright.domain.plan import Mode


class Placement(Struct, frozen=True, kw_only=True):
    """GPUs per replica: each group is tensor_parallel × pipeline_parallel long; one empty group on the CPU.

    `inside_island`: no rank reaches another over PCIe. `trade`: what the objective preferred and why, to follow
    `reason`. `whole_experts`: each rank has whole experts, since parts of them would be too thin.
    """

    mode: Mode
    groups: tuple[tuple[Gpu, ...], ...]
    tensor_parallel: int
    pipeline_parallel: int
    reason: str
    warnings: tuple[str, ...] = ()
    inside_island: bool = True
    trade: str = ""
    whole_experts: bool = False

    @property
    def ranks(self) -> int:
        """How many GPUs one replica has."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def last_resort(self) -> bool:
        """Whether it is taken only where no other placement is enough."""
        return self.whole_experts or not self.inside_island

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that is used, in replica order."""
        return tuple(gpu for group in self.groups for gpu in group)
